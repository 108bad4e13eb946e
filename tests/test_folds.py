"""tables --folds: runs on the folds of a cross-validation as one."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bench_process import TINY
from fixed_records import make_record, store_with_predictions
from inside import finish_inside
from PIL import Image
from scipy.special import ndtr
from sklearn.metrics import matthews_corrcoef

from benchmarks.analysis.comparison import SameImages
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.folds import fold_evidence, fold_scores
from benchmarks.analysis.influence import influence
from benchmarks.analysis.run_scores import RunScores


def store(root: Path, method: str, seed: int, fold: int, skill: float, **changes: Any) -> float:
    config = {"dataset": f"mine-fold{fold}", "dataset_digest": f"{fold}" * 64}
    record = make_record(method, seed=seed, config=config, tag=f"f{fold}", **changes)
    record["run"]["dataset"]["title"] = f"mine-fold{fold}"
    if record["status"]["state"] == "ok":
        store_with_predictions(root / "results", record, skill, groups=[f"{fold}-{i}" for i in range(60)])
    else:
        from benchmarks.records.record import write_record

        write_record(root / "results", record)
    return float(record["measurements"].get("test", {}).get("auc", np.nan))


def test_rows_are_means_over_folds_then_over_seeds(tmp_path: Path) -> None:
    aucs = {
        method: [[store(tmp_path, method, seed, fold, skill) for fold in (1, 2, 3)] for seed in (0, 1)]
        for method, skill in (("full", 1.5), ("lora", 0.3))
    }
    said = finish_inside(tmp_path, "tables", "--folds")
    assert said.returncode == 0 and "results/tables/folds.md" in said.stdout, said.stderr
    rows = pd.read_csv(tmp_path / "results/tables/folds.csv")
    rows = rows[rows["method"].isin(list(aucs))].set_index("method")
    for method, found in aucs.items():
        means = np.mean(found, axis=1)
        assert rows.loc[method, "auc_mean"] == pytest.approx(means.mean())
        assert rows.loc[method, "auc_sd"] == pytest.approx(means.std(ddof=1))
        assert rows.loc[method, "auc_low"] < means.mean() < rows.loc[method, "auc_high"]
    assert rows.loc["lora", "vs_full_change"] == pytest.approx(np.mean(aucs["lora"]) - np.mean(aucs["full"]))
    assert "mine, 3 folds" in (tmp_path / "results/tables/folds.md").read_text()


def test_who_lacks_a_fold_is_named_and_left_out(tmp_path: Path) -> None:
    for fold in (1, 2, 3):
        store(tmp_path, "full", 0, fold, 1.0)
    store(tmp_path, "lora", 0, 1, 1.0), store(tmp_path, "lora", 0, 3, 1.0)
    store(tmp_path, "vpt", 0, 1, 1.0), store(tmp_path, "vpt", 0, 3, 1.0)
    store(tmp_path, "vpt", 0, 2, 1.0, state="oom", phase="train", message="CUDA out of memory")
    said = finish_inside(tmp_path, "tables", "--folds")
    assert said.returncode == 1
    assert "got lora at 448 px with seed 0 on 2 (lacking: 2)" in said.stderr
    rows = pd.read_csv(tmp_path / "results/tables/folds.csv").set_index("method")
    assert "lora" not in rows.index and rows.loc["vpt", "state"] == "oom"


def test_without_folds_that_is_said(tmp_path: Path) -> None:
    store_with_predictions(tmp_path / "results", make_record("lora"), 1.0)
    said = finish_inside(tmp_path, "tables", "--folds")
    assert said.returncode == 2 and "folds must have runs on datasets called NAME-fold1" in said.stderr


def test_scores_and_subgroups_are_means_over_folds(tmp_path: Path) -> None:
    """Each score of each fold as scikit-learn gives it, averaged; subgroups by a column, each in its fold."""
    for method, skill in (("full", 1.5), ("lora", 0.6)):
        for seed, fold in itertools.product((0, 1), (1, 2, 3)):
            store(tmp_path, method, seed, fold, skill)
    runs = {path.name.removesuffix(".predictions.csv"): pd.read_csv(path)
            for path in (tmp_path / "results/runs").glob("*.predictions.csv")}  # fmt: skip
    configs = {
        run_id: json.loads((tmp_path / f"results/runs/{run_id}.json").read_text())["run"]["config"] for run_id in runs
    }
    tests = {run_id: frame[frame["split"] == "test"] for run_id, frame in runs.items()}
    for fold in (1, 2, 3):
        root = tmp_path / f"data/mine-fold{fold}"
        root.mkdir(parents=True)
        run_id = next(run_id for run_id, config in configs.items() if config["dataset"] == root.name)
        paths = tests[run_id]["path"]
        sites = ["small" if place == 0 else "north" if place // 2 % 2 else "south" for place in range(len(paths))]
        pd.DataFrame({"path": paths, "site": sites}).to_csv(root / "manifest.csv", index=False)
    words = ["tables", "--folds", "--metrics", "mcc", "brier", "--by", "site"]
    said = finish_inside(tmp_path, *words)
    assert said.returncode == 0, said.stderr
    table = pd.read_csv(tmp_path / "results/tables/folds.csv")
    rows = {str(row["method"]): row for row in table.to_dict("records")}
    groups = pd.read_csv(tmp_path / "results/tables/folds-subgroups-site.csv")
    for method in ("full", "lora"):
        mine = [run_id for run_id, config in configs.items() if config["method"] == method]
        found: list[float] = []
        for run_id in mine:
            test = tests[run_id]
            probabilities = test.filter(like="prob_")
            classes = [str(name).removeprefix("prob_") for name in probabilities]
            called = np.array(classes)[probabilities.to_numpy().argmax(axis=1)]
            found.append(matthews_corrcoef(test["label"], called))
        row = rows[method]
        assert row["mcc_mean"] == pytest.approx(np.mean(found)) and row["mcc_low"] < row["mcc_mean"] < row["mcc_high"]
        single = pd.read_csv(tmp_path / "results/tables/subgroups-site.csv")
        own = groups[(groups["method"] == method) & (groups["score"] == "auc") & ~groups["is_gap"]]
        over = {str(row["subgroup"]): row for row in own.to_dict("records")}
        alone = single[(single["method"] == method) & (single["score"] == "auc")]
        for site in ("north", "south"):
            parts = alone[alone["subgroup"] == site].to_dict("records")
            assert len(parts) == 3
            assert over[site]["group_mean"] == pytest.approx(np.mean([part["group_mean"] for part in parts]))
            assert over[site]["num_images"] == sum(part["num_images"] for part in parts)
            assert over[site]["group_low"] < over[site]["group_mean"] < over[site]["group_high"]
        assert not over["small"]["scored"]
    assert "large enough in each" in (tmp_path / "results/tables/folds-subgroups-site.md").read_text()


def test_the_error_of_a_mean_score_is_that_of_independent_folds() -> None:
    rng = np.random.default_rng(0)
    runs = [
        RunScores(f"{k}", rng.normal(size=3), rng.normal(k, 1 + k, (4000, 3)).astype(np.float32), 1.0, 20, 2)
        for k in range(3)
    ]
    found = fold_scores(runs)
    np.testing.assert_allclose(found.values, np.stack([run.values for run in runs]).mean(axis=0))
    np.testing.assert_allclose(found.resampled.std(axis=0), np.sqrt(1 + 4 + 9) / 3, rtol=0.05)
    assert found.fewest == 60 and found.images != runs[0].images


def one_fold(rng: np.random.Generator, shift: float) -> Evidence:
    """A fold whose model gives all images a score that is higher by a shift."""
    labels = np.repeat([0, 1], 30)
    scores = labels + rng.normal(size=60) + shift
    found = influence(labels, np.stack([-scores, scores], axis=1), np.arange(60))
    counts = np.bincount(labels)
    return Evidence(f"{shift}", "image", found.auc, found.units, found.design_effect, counts, counts)


def test_intervals_over_folds_hold_as_often_as_they_say_whatever_scores_mean() -> None:
    truth, inside, errors, means = float(ndtr(1 / np.sqrt(2))), 0, [], []
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = fold_evidence([one_fold(rng, shift) for shift in (0.0, 1.0, 2.0, 3.0, 4.0)])
        (interval,) = SameImages([{0: found}]).intervals()
        assert interval is not None
        inside += interval.low <= truth <= interval.high
        errors.append(interval.images)
        means.append(found.auc)
    assert 182 <= inside <= 199  # 95 % of 200, and three standard errors
    assert np.mean(means) == pytest.approx(truth, abs=0.008)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_all_folds_of_a_split_are_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(9):
            pixels = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{number}.png")
    assert finish_inside(tmp_path, "split", "mine", "--image-level", "--folds", "3", "--name", "cv").returncode == 0
    words = ["--methods", "linear", *TINY[2:], "--datasets", "cv"]
    said = finish_inside(tmp_path, *words, "--folds", "3", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert all(f"cv-fold{number}" in said.stdout + said.stderr for number in (1, 2, 3))
    said = finish_inside(tmp_path, *words, "--folds", "2", "--dry-run")
    assert said.returncode == 2 and "folds must be all that there are, got 2 of cv" in said.stderr
    said = finish_inside(tmp_path, "--methods", "linear", *TINY[2:], "--folds", "2", "--dry-run")
    assert said.returncode == 2 and "folds must be of datasets that are named" in said.stderr
