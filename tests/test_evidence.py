"""Evidence from stored predictions: how seeds and groups enter, what is kept, what is refused, what tables say."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixed_records import make_record, store_with_predictions
from rich.console import Console
from sklearn.metrics import roc_auc_score
from tiny_images import make_images

from bench import main
from benchmarks.analysis import auc_resamples as evidence_module
from benchmarks.analysis.auc_resamples import Evidence, average, compare, interval, load_evidence, read_evidence
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.statistics import auc_of_each_resample, bootstrap_p, delong_p, holm, placements
from benchmarks.analysis.summary import summary
from benchmarks.data.dataset import open_dataset
from benchmarks.data.manifest import Entry, write_manifest
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import load_records
from benchmarks.report.baselines import add_baselines
from benchmarks.report.tables import console_table
from benchmarks.suite.run import _image_probabilities


def load(results: Path) -> dict[str, Evidence]:
    evidence, problems = load_evidence(results, runs_frame(load_records(results)[0]))
    assert problems == []
    return evidence


def table(results: Path) -> pd.DataFrame:
    frame = runs_frame(load_records(results)[0])
    return add_significance(summary(frame), load_evidence(results, frame)[0]).set_index("method")


def test_seeds_are_averaged_on_the_same_resamples(tmp_path: Path) -> None:
    runs = [make_record("lora", seed=seed) for seed in range(3)]
    frames = [store_with_predictions(tmp_path, run, 1.0) for run in runs]
    resampled = []
    for frame in frames:
        labels = (frame["label"] == "yes").to_numpy().astype(np.int64)
        scores = frame[["prob_no", "prob_yes"]].to_numpy()
        resampled.append(auc_of_each_resample(labels, scores, np.arange(len(frame))))
    expected = np.quantile(np.mean(np.array(resampled), axis=0), [0.025, 0.975])
    row = table(tmp_path).reset_index().iloc[0]
    assert row[["auc_low", "auc_high"]].to_list() == pytest.approx(expected.tolist(), abs=1e-12)
    aucs = [roc_auc_score(frame["label"] == "yes", frame["prob_yes"]) for frame in frames]
    assert row["auc_mean"] == pytest.approx(np.mean(aucs))
    assert (row["auc_unit"], row["auc_num_units"]) == ("image", 60)
    whole = average(list(load(tmp_path).values()))
    assert whole is not None and whole.auc == pytest.approx(np.mean(aucs))


def test_patients_are_drawn_whole_and_widen_the_interval(tmp_path: Path) -> None:
    """Each patient has the same image six times over: as many images, a sixth of the information."""
    record = make_record("lora")
    frame = store_with_predictions(tmp_path, record, 1.0, num_images=20)
    copies = pd.concat([frame.assign(path=frame["path"] + str(i), group=frame["path"]) for i in range(6)])
    once = read_evidence(frame.to_csv(index=False).encode())
    grouped = read_evidence(copies.to_csv(index=False).encode())
    apart = read_evidence(copies.drop(columns="group").to_csv(index=False).encode())
    assert (grouped.unit, grouped.num_units, apart.unit, apart.num_units) == ("group", 20, "image", 120)
    assert len(grouped.labels) == 0  # DeLong takes images to be independent
    spans = []
    for found in (once, grouped, apart):
        ends = interval(found)
        assert ends is not None
        spans.append(ends[1] - ends[0])
    assert spans[1] == pytest.approx(spans[0], rel=0.1)
    assert spans[2] < 0.6 * spans[0]
    half = read_evidence(copies.assign(group=[""] * 60 + list(copies["group"][60:])).to_csv(index=False).encode())
    assert half.num_units == 60 + 20  # images without a group stand alone


def test_order_of_rows_does_not_matter_and_odd_names_are_names(tmp_path: Path) -> None:
    frame = store_with_predictions(tmp_path, make_record("lora"), 1.0, classes=("NA", "1", "None"))
    one, two = (read_evidence(rows.to_csv(index=False).encode()) for rows in (frame, frame[::-1]))
    assert one.images == two.images
    np.testing.assert_array_equal(one.resampled, two.resampled)


def test_two_classes_are_compared_by_delong_more_by_bootstrap(tmp_path: Path) -> None:
    for classes in (("no", "yes"), ("a", "b", "c")):
        results = tmp_path / str(len(classes))
        frames = {m: store_with_predictions(results, make_record(m), s, classes) for m, s in (("full", 2), ("vpt", 1))}
        evidence = {run_id.split("_")[0]: found for run_id, found in load(results).items()}
        found = compare(evidence["vpt"], evidence["full"])
        assert found is not None
        differences = evidence["vpt"].resampled - evidence["full"].resampled
        assert (found.low, found.high) == pytest.approx(np.quantile(differences, [0.025, 0.975]))
        labels = frames["full"]["label"].map(classes.index).to_numpy()
        columns = [f"prob_{name}" for name in classes]
        if len(classes) == 2:
            expected = delong_p(labels, *(placements(labels, frames[m][columns].to_numpy()) for m in ("vpt", "full")))
            assert found.test == "DeLong"
            assert found.p == pytest.approx(expected)
        else:
            assert (found.test, found.p) == ("bootstrap", bootstrap_p(differences))


def test_comparisons_are_corrected_within_a_resolution(tmp_path: Path) -> None:
    skills = {"full": 1.5, "lora": 2.5, "vpt": 0.2, "adapter": 1.4}
    for resolution in (224, 448):
        for method, skill in skills.items():
            store_with_predictions(tmp_path, make_record(method, resolution), skill)
    rows = table(tmp_path)
    for _, group in rows.groupby("resolution"):
        for name in ("full", "best"):
            (reference,) = group.index[group[f"is_{name}"]]
            assert reference == ("full" if name == "full" else group["auc_mean"].idxmax())
            others = group.drop(reference)
            assert group.loc[reference, [f"vs_{name}_p", f"vs_{name}_change"]].isna().all()
            assert others[f"vs_{name}_p_holm"].to_list() == pytest.approx(holm(others[f"vs_{name}_p"].to_list()))
            change = others["auc_mean"] - group.loc[reference, "auc_mean"]
            assert others[f"vs_{name}_change"].to_list() == pytest.approx(change.to_list())


def test_without_predictions_of_every_seed_there_is_no_interval(tmp_path: Path) -> None:
    for seed in (0, 1):
        store_with_predictions(tmp_path, make_record("lora", seed=seed), 1.0)
        store_with_predictions(tmp_path, make_record("full", seed=seed), 1.0)
    store_with_predictions(tmp_path, make_record("vpt"), 1.0, num_images=50)  # other images
    (tmp_path / "runs" / "lora_448_1_a.predictions.csv").unlink()
    rows = table(tmp_path)
    assert rows["auc_low"].isna().to_dict() == {"full": False, "lora": True, "vpt": False}
    assert rows["vs_full_p"].isna().all()


def test_resamples_are_kept_and_a_damaged_file_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_with_predictions(tmp_path, make_record("lora"), 1.0)
    (first,) = load(tmp_path).values()
    (kept,) = (tmp_path / ".statistics").iterdir()
    with monkeypatch.context() as patch:
        patch.delattr(evidence_module, "read_evidence")
        (again,) = load(tmp_path).values()
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    whole = kept.read_bytes()
    for damaged in (whole[:100], whole[:-8] + bytes(8), b""):
        kept.write_bytes(damaged)
        (again,) = load(tmp_path).values()
        np.testing.assert_array_equal(again.resampled, first.resampled)
        assert kept.read_bytes() == whole
    store_with_predictions(tmp_path, make_record("lora"), 2.0)  # other predictions are never taken for the old
    assert next(iter(load(tmp_path).values())).auc != first.auc


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("split,path,prob_a,prob_b\ntest,1,0.5,0.5\n", "columns must be split, path, label, prob_<class>, got none"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,0.5,0.5\n", "labels of the test split must be the classes"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,nan,0.5\ntest,2,b,1,1\n", "probabilities must be finite"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,0.5\n", "rows must have a value for each column"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,,0.5\ntest,2,b,1,1\n", "could not convert string to float"),
        ("", "got none called split"),
    ],
)
def test_predictions_that_are_none_are_refused(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_evidence(content.encode())


def test_predictions_that_belie_their_record_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record("lora")
    store_with_predictions(tmp_path, record, 1.0)
    frame = runs_frame([record])
    evidence, problems = load_evidence(tmp_path, frame.assign(auc=0.123))
    assert evidence == {}
    assert len(problems) == 1 and "predictions must be those of their record" in problems[0]
    assert "the record says 0.123000): run it again" in problems[0]
    (tmp_path / "runs" / "lora_448_0_a.predictions.csv").write_text("split\n")
    assert main(["tables", "--results", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "results.md" in out and "predictions must be those of their record" in err


def test_tables_show_intervals_comparisons_and_baselines(tmp_path: Path) -> None:
    classes = ("a", "b", "c", "d")
    for method, skill in (("full", 2.0), ("lora", 0.1)):
        store_with_predictions(tmp_path, make_record(method), skill, classes, num_images=61)
    assert main(["tables", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "tables" / "results.md").read_text()
    assert "AUC 95 % CI (%) |" in text and "To full (p)" in text and "Holm-corrected" in text
    lines = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("|")}
    row = table(tmp_path).loc["lora"]
    assert f"{100 * row['auc_low']:.2f} to {100 * row['auc_high']:.2f}" in lines["LoRA"]
    assert f"{100 * row['vs_full_change']:.2f} (".replace("-", "−") in lines["LoRA"]
    assert "full" in lines["Full fine-tuning"] and "best" in lines["Full fine-tuning"]
    majority, chance = lines["Majority class (baseline)"], lines["Chance (baseline)"]
    assert "26.23" in majority and "50.00" in majority  # 16 of 61 images
    assert "25.00" in chance and "**" not in majority + chance and "<u>" not in majority + chance
    csv = pd.read_csv(tmp_path / "tables" / "results.csv")
    assert csv["state"].to_list() == ["ok", "ok", "baseline", "baseline"]
    assert csv["auc_low"].notna().to_list() == [True, True, False, False]
    console = Console(file=io.StringIO(), width=80)
    console.print(console_table(runs_frame(load_records(tmp_path)[0])))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The majority class alone: accuracy 26.2 %, AUC 50." in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert "95 \\% CI" in (tmp_path / "tables" / "results.tex").read_text()


def test_baselines_need_the_counts_of_the_test_split() -> None:
    bare = summary(runs_frame([make_record("lora")]))
    assert len(add_baselines(bare)) == 1


def test_runs_store_the_groups_of_a_prepared_folder(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    plain = open_dataset(str(root), tmp_path, tmp_path / "cache")
    samples = [sample for split in plain.splits.values() for sample in split]
    entries = [
        Entry(s.path, s.path.split("/")[0], plain.classes[s.label], f"patient {s.path[-5]}", s.path, "")
        for s in samples
    ]
    split = {"kind": "ours", "parts": {}, "group_key": "patient", "seed": 0, "digest": ""}
    about = {"complete": True, "notes": [], "split": split, "counts": {}, "settings": {}, "excluded": []}
    write_manifest(root, entries, about)
    prepared = open_dataset(str(root), tmp_path, tmp_path / "cache")
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4]] * 4)
    frames = [_image_probabilities(dataset, "test", probabilities) for dataset in (plain, prepared)]
    assert "group" not in frames[0]
    assert frames[1]["group"].to_list() == [f"patient {path[-5]}" for path in frames[1]["path"]]
    found = read_evidence(frames[1].to_csv(index=False).encode())
    assert (found.unit, found.num_units) == ("group", 4)
