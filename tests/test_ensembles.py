"""Ensembles of stored predictions: beside naive loops, with their cost, and out of ranks and verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixed_records import make_record, store_with_predictions
from sklearn.metrics import roc_auc_score

import bench
from benchmarks.analysis.ensembles import add_ensembles, score
from benchmarks.analysis.evidence import load_evidence, read_evidence
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.errors import UserError
from benchmarks.records.frame import load_frame
from benchmarks.records.record import predictions_path

CLASSES = ("no", "mild", "yes")


def stored(results: Path, methods: tuple[str, ...] = ("full", "lora"), seeds: int = 3, **options: Any) -> None:
    for method in methods:
        for seed in range(seeds):
            store_with_predictions(results, make_record(method, seed=seed), 1.0, CLASSES, **options)


def mean_of(results: Path, *run_ids: str) -> tuple[float, float]:
    """AUC and accuracy of mean probabilities, image by image and class by class."""
    files = [pd.read_csv(predictions_path(results, run_id)) for run_id in run_ids]
    tests = [file[file["split"] == "test"].set_index("path") for file in files]
    labels, means = tests[0]["label"], {}
    for path in tests[0].index:
        means[path] = [sum(test.loc[path, f"prob_{name}"] for test in tests) / len(tests) for name in CLASSES]
    aucs = [roc_auc_score(labels == name, [means[path][i] for path in labels.index]) for i, name in enumerate(CLASSES)]
    right = [CLASSES[int(np.argmax(means[path]))] == label for path, label in labels.items()]
    return float(np.mean(aucs)), float(np.mean(right))


def rows_of(results: Path, *asked: str) -> pd.DataFrame:
    frame, _ = load_frame(results)
    evidence, _ = load_evidence(results, frame)
    table = add_significance(summary(frame), evidence)
    table = add_ensembles(table, results, evidence, asked, lambda name, row: bool(row["method"] == name))
    return table[table["state"] == "ensemble"].set_index("label")


def run_ids(method: str, *seeds: int) -> list[str]:
    return [f"{method}_448_{seed}_a" for seed in seeds]


def test_seeds_are_one_model_of_all_of_them(tmp_path: Path) -> None:
    stored(tmp_path)
    rows = rows_of(tmp_path, "seeds")
    assert list(rows.index) == ["Ensemble of 3 seeds: Full fine-tuning", "Ensemble of 3 seeds: LoRA"]
    row = rows.loc["Ensemble of 3 seeds: LoRA"]
    assert (row["auc_mean"], row["accuracy_mean"]) == pytest.approx(mean_of(tmp_path, *run_ids("lora", 0, 1, 2)))
    assert pd.isna(row["auc_sd"]) and pd.isna(row["auc_se_seeds"]) and row["seeds_ok"] == 1 and row["members"] == 3
    assert row["auc_low"] < row["auc_mean"] < row["auc_high"]


def test_methods_are_one_model_a_seed_that_all_have(tmp_path: Path) -> None:
    stored(tmp_path)
    store_with_predictions(tmp_path, make_record("lora", seed=3), 1.0, CLASSES)
    (row,) = (found for _, found in rows_of(tmp_path, "full+lora").iterrows())
    each = [mean_of(tmp_path, *run_ids("full", seed), *run_ids("lora", seed)) for seed in range(3)]
    assert row["auc_mean"] == pytest.approx(np.mean([auc for auc, _ in each]))
    assert row["auc_sd"] == pytest.approx(np.std([auc for auc, _ in each], ddof=1))
    assert row["accuracy_mean"] == pytest.approx(np.mean([accuracy for _, accuracy in each]))
    assert row["seeds_ok"] == 3 and row["members"] == 2 and pd.notna(row["auc_se_seeds"])


def test_an_ensemble_of_equal_models_is_the_model(tmp_path: Path) -> None:
    """Patients too are what they were."""
    groups = [f"p{i // 2}" for i in range(60)]
    store_with_predictions(tmp_path, make_record("lora"), 1.0, CLASSES, groups=groups)
    data = predictions_path(tmp_path, run_ids("lora", 0)[0]).read_bytes()
    one, alone = score([data] * 4).evidence, read_evidence(data)
    assert (one.auc, one.images, one.unit) == (alone.auc, alone.images, alone.unit) and one.unit == "group"
    np.testing.assert_array_equal(one.influence, alone.influence)
    np.testing.assert_array_equal(one.confusion, alone.confusion)


def test_logits_that_round_to_the_same_probability_are_told_apart() -> None:
    rows = ["split,path,label,prob_a,prob_b,logit_a,logit_b"]
    rows += [
        f"test,{i}.png,{label},0,1,0,{logit}"
        for i, (label, logit) in enumerate([("a", 40), ("a", 41), ("b", 45), ("b", 46)])
    ]
    data = "\n".join(rows).encode()
    assert score([data, data]).evidence.auc == 1.0


def test_they_change_no_rank_comparison_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path, ("full", "lora", "fpt"))
    assert bench.main(["tables", "--results", str(tmp_path)]) == 0
    before = (tmp_path / "tables/results.md").read_text()
    assert bench.main(["tables", "--results", str(tmp_path), "--ensembles", "seeds", "lora+fpt"]) == 0
    after = (tmp_path / "tables/results.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")] for line in after.splitlines() if "Ensemble" not in line]
    kept = [[cell.strip() for cell in line.split("|")] for line in before.splitlines()]
    added = [line for line in after.splitlines() if line.startswith("|") and "Ensemble" in line]
    assert len(added) == 4 and not any("**" in line or "<u>" in line for line in added)
    table = [line for line in cells if len(line) > 1 and "---" not in line[1] and ":--" not in line[1]]
    assert table == [line for line in kept if len(line) > 1 and "---" not in line[1] and ":--" not in line[1]]
    assert after.split("## Demo")[0] == before.split("## Demo")[0]  # the verdict
    assert "takes no part in ranks, comparisons and verdicts" in after


def test_costs_are_those_of_all_members_and_what_they_share_once(tmp_path: Path) -> None:
    stored(tmp_path)
    frame, _ = load_frame(tmp_path)
    evidence, _ = load_evidence(tmp_path, frame)
    table = summary(frame).assign(use_1_bytes=[10, 20], use_16_bytes=[30, 50], use_flops=[4, 6])
    table = table.assign(task_bytes=[100, 1], shared_bytes=[0, 99])
    found = add_ensembles(
        table, tmp_path, evidence, ["seeds", "full+lora"], lambda name, row: bool(row["method"] == name)
    )
    names = ["use_1_bytes", "use_16_bytes", "use_flops", "task_bytes", "shared_bytes"]
    rows = found[found["state"] == "ensemble"]
    assert rows[names].to_numpy().tolist() == [[30, 90, 12, 300, 0], [60, 150, 18, 3, 99], [30, 80, 10, 101, 99]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("lora+fpt", "got 'lora+fpt', which can be made nowhere; bench.py list runs shows what there is"),
        ("lora", "got 'lora', which can be made nowhere"),
        ("lora+linear", "got 'lora+linear', which can be made nowhere"),  # on other images
        ("full+lorra", "method must be one of"),
        ("full+adapter", "got 'adapter', which means Adapter (reduction 4), Adapter (reduction 8); add its options"),
    ],
)
def test_what_cannot_be_made_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, message: str
) -> None:
    stored(tmp_path)
    stored(tmp_path, ("linear",), num_images=63)
    for reduction in (4, 8):
        record = make_record("adapter", config={"options": {"reduction": reduction}}, tag=f"r{reduction}")
        store_with_predictions(tmp_path, record, 1.0, CLASSES)
    assert bench.main(["tables", "--results", str(tmp_path), "--ensembles", asked]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tables").exists()


def test_one_seed_makes_no_ensemble_of_seeds(tmp_path: Path) -> None:
    stored(tmp_path, seeds=1)
    with pytest.raises(
        UserError, match=r"ensembles must be of seeds or methods .* got 'seeds', which can be made nowhe"
    ):
        rows_of(tmp_path, "seeds")


@pytest.mark.parametrize("other", [["--layout", "paper"], ["--compare", "."]])
def test_ensembles_have_no_rows_in_other_tables(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["tables", "--ensembles", "seeds", *other]) == 2
    assert "ensembles must be used without --compare and --layout paper" in capsys.readouterr().err
