"""bench.py evaluate of models of findings: on another table, by name, masked; on corrupted images; drops in tables."""

import csv
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from bench_process import TINY
from finding_images import NAMES, make_findings
from inside import finish_inside
from PIL import Image
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from small_backbones import SMALL

from benchmarks.analysis.evidence import finding_evidence, joined, read_evidence
from benchmarks.records.record import kept_models, predictions_path, read_record


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two methods, and a table of another hospital."""
    root = tmp_path_factory.mktemp("evaluate")
    make_findings(root / "images")
    make_other(root)
    backbone = ["--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1", "--seeds", "0", "1"]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        assert finish_inside(root, "--methods", "linear", "bitfit", *TINY, *backbone).returncode == 0
    return root


def make_other(root: Path) -> None:
    """`other/table.csv`: no splits, another order, a column of age, `Bright`, and enough images with `rare`."""
    rng, lines = np.random.default_rng(1), [["path", "age", "rare", "striped", "Bright", "group"]]
    (root / "other/scans").mkdir(parents=True)
    for number in range(60):
        has = rng.random(3) < 0.5
        pixels = rng.integers(0, 120, (40, 48, 3)) + 80 * has[0]
        pixels[::4] += 55 * has[1]
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"other/scans/{number}.png")
        bright, striped, rare = (
            "-1" if rng.random() < 0.05 else "" if rng.random() < 0.1 else str(int(x)) for x in has
        )
        lines.append([f"scans/{number}.png", str(20 + number), rare, striped, bright, f"p{number // 2}"])
    with (root / "other/table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    (root / "map.txt").write_text("Bright: bright\n")


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def evaluate(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return finish_inside(folder, "evaluate", *words)


OTHER = ("--data", "other/table.csv", "--class-map", "map.txt")


def run_of(folder: Path, method: str, seed: int = 0) -> str:
    (run_id,) = [run_id for run_id in kept_models(folder / "results") if f"-{method}-s{seed}-" in run_id]
    return run_id


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of evaluations by run."""
    paths = sorted((folder / "results/evaluations/runs").glob("*.json"))
    return {record["evaluation"]["run_id"]: record for record in map(read_record, paths)}


def test_findings_are_matched_by_name_and_unknown_ones_masked(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    said = evaluate(folder, run_id, *OTHER)
    assert said.returncode == 0, said.stderr
    record = stored(folder)[run_id]
    assert record["run_id"].startswith(f"{run_id}@table-") and record["run"]["dataset"]["classes"] == list(NAMES)
    table = pd.read_csv(folder / "other/table.csv").rename(columns={"Bright": "bright"}).sort_values("path")
    known = table[list(NAMES)].where(table[list(NAMES)] != -1)
    data = record["evaluation"]["data"]
    assert data["counts"] == (known == 1).sum().to_dict() and data["class_map"] == {"Bright": "bright"}
    assert data["findings"] == {"images": 60, "known": known.notna().sum().to_dict(), "unscored": []}
    frame = pd.read_csv(predictions_path(folder / "results/evaluations", record["run_id"]))
    assert frame["path"].tolist() == table["path"].tolist() and frame["group"].tolist() == table["group"].tolist()
    aucs = {}
    for name in NAMES:
        target = frame[f"target_{name}"]
        np.testing.assert_array_equal(target, known[name])
        np.testing.assert_allclose(frame[f"prob_{name}"], expit(frame[f"logit_{name}"]), rtol=1e-12)
        aucs[name] = roc_auc_score(target.dropna(), frame[f"logit_{name}"][target.notna()])
    assert record["measurements"]["test"]["auc_per_class"] == pytest.approx(aucs)
    assert record["measurements"]["test"]["auc"] == pytest.approx(np.mean(list(aucs.values())))
    assert "columns of table that are no findings of the model are not used: age" in said.stderr
    assert "means over 3 and 2 findings" in said.stderr
    assert f"{run_id} is evaluated on table: stored" in evaluate(folder, run_id, *OTHER).stderr


def test_the_drop_is_over_findings_that_are_scored_on_both_and_of_each(folder: Path) -> None:
    for method in ("linear", "bitfit"):
        assert evaluate(folder, run_of(folder, method), *OTHER, "--all-seeds").returncode == 0
    said = finish_inside(folder, "tables")
    assert said.returncode == 0, said.stderr
    table = pd.read_csv(folder / "results/tables/other_data.csv")
    assert len(table) == 2 * 3 and table["finding"].dropna().unique().tolist() == ["bright", "striped"]
    assert table.loc[table["finding"].isna(), "scored_findings"].tolist() == ["bright, striped"] * 2
    records = stored(folder)
    for _, row in table.iterrows():
        runs = [run_of(folder, row["method"], seed) for seed in (0, 1)]
        names = ["bright", "striped"] if pd.isna(row["finding"]) else [row["finding"]]
        inside = [read_record(folder / f"results/runs/{run}.json")["measurements"]["test"] for run in runs]
        outside = [records[run]["measurements"]["test"] for run in runs]
        means = [np.mean([one["auc_per_class"][n] for one in side for n in names]) for side in (inside, outside)]
        assert (row["internal_mean"], row["external_mean"]) == pytest.approx(tuple(means))
        assert row["drop_change"] == pytest.approx(means[0] - means[1])
        assert row["drop_low"] < row["drop_change"] < row["drop_high"]
    text = (folder / "results/tables/other_data.md").read_text()
    assert (
        "by finding" in text and "AUCs are means over the findings that can be scored on both: bright, striped" in text
    )
    assert finish_inside(folder, "report").returncode == 0


def test_the_mean_of_findings_alone_is_that_of_all_together(folder: Path) -> None:
    data = predictions_path(folder / "results", run_of(folder, "linear")).read_bytes()
    mean, together = joined(list(finding_evidence(data).scored.values())), read_evidence(data)
    np.testing.assert_allclose(mean.influence, together.influence, rtol=1e-12)
    assert mean.auc == pytest.approx(together.auc) and mean.design_effect == pytest.approx(together.design_effect)
    assert mean.images == together.images and mean.num_parts == together.num_parts == 2
    np.testing.assert_array_equal(mean.class_units, together.class_units)
    np.testing.assert_array_equal(mean.confusion, together.confusion)


def test_a_folder_with_splits_is_evaluated_on_its_test_images(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    said = evaluate(folder, run_id, "--data", "images")
    assert said.returncode == 0, said.stderr
    record = stored(folder)[run_id]
    own = read_record(folder / f"results/runs/{run_id}.json")["measurements"]["test"]
    assert record["measurements"]["test"]["auc_per_class"] == pytest.approx(own["auc_per_class"])
    assert record["run_id"].startswith(f"{run_id}@images-")


def test_corrupted_images_of_its_own_dataset_are_scored(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    said = evaluate(folder, run_id, "--corruptions", "basic")
    assert said.returncode == 0, said.stderr
    (record,) = stored(folder).values()
    own = read_record(folder / f"results/runs/{run_id}.json")["measurements"]["test"]
    assert record["measurements"]["test"]["auc"] == pytest.approx(own["auc"])
    frame = pd.read_csv(predictions_path(folder / "results/evaluations", record["run_id"]))
    dark = frame[frame["split"] == "darker-5"]
    aucs = []
    for name in ("bright", "striped"):
        known = dark[dark[f"target_{name}"].notna()]
        aucs.append(roc_auc_score(known[f"target_{name}"], known[f"logit_{name}"]))
    assert finish_inside(folder, "tables").returncode == 0
    table = pd.read_csv(folder / "results/tables/robustness.csv")
    (row,) = table[(table["corruption"] == "darker") & (table["severity"] == 5)].to_dict("records")
    assert row["corrupted_mean"] == pytest.approx(np.mean(aucs)) and row["clean_mean"] == pytest.approx(own["auc"])


def _without(column: str) -> Any:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        return table.drop(columns=column)

    return change


@pytest.mark.parametrize(
    ("change", "text", "said"),
    [
        (_without("path"), "", "have the columns path, split and one for each finding, got no 'path'"),
        (lambda table: table.assign(striped="yes"), "", "hold 1, 0, -1 (uncertain) or nothing (unknown) for a finding"),
        (
            lambda table: table[["path", "age"]],
            "",
            "columns must be named as findings of the model (bright,",
        ),
        (lambda table: table.head(12), "", "data must have a finding of the model that at least 10 images have"),
        (lambda table: table.assign(bright="1"), "Bright: bright", "each finding must be one column"),
        (lambda table: table, "Light: bright", "column in the class map of 'other/table.csv' must be one of age"),
        (lambda table: table, "Bright: light", "finding of 'Bright' in the class map must be one of bright"),
        (lambda table: table.assign(path="gone.png").head(1), "", "list images that are there, got 1 that are not"),
        (lambda table: table.assign(split="train"), "", "data must have images whose split is test, got none"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(folder: Path, change: Any, text: str, said: str) -> None:
    table = pd.read_csv(folder / "other/table.csv", dtype=str, keep_default_na=False)
    change(table).to_csv(folder / "other/table.csv", index=False)
    (folder / "map.txt").write_text(text)
    words = ["--class-map", "map.txt"] if text else []
    ended = evaluate(folder, run_of(folder, "linear"), "--data", "other/table.csv", *words)
    assert ended.returncode == 2 and said in ended.stderr.splitlines()[-1]
    assert not (folder / "results/evaluations").exists()


def test_classes_and_findings_are_not_mixed(folder: Path) -> None:
    ended = evaluate(folder, run_of(folder, "linear"), "--data", "other")
    assert ended.returncode == 2 and "data must be a table of findings, or a folder with labels.csv" in ended.stderr
