"""bench.py evaluate: kept models on other folders, their records, and the table with the drop."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from bench_process import TINY
from inside import finish_inside
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from small_backbones import SMALL
from tiny_images import COUNTS, make_images

from benchmarks.analysis.comparison import Cell
from benchmarks.analysis.evaluations import drop
from benchmarks.analysis.evidence import read_evidence
from benchmarks.analysis.influence import influence
from benchmarks.inference.evaluate import same_but_for_the_seed
from benchmarks.inference.stored_models import best_run
from benchmarks.records.record import kept_models, read_record, write_record
from benchmarks.storage.csv_cells import csv_text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two methods, and another folder of the same classes."""
    root = tmp_path_factory.mktemp("evaluate")
    with patch.dict(COUNTS, test=8):
        make_images(root / "images")
    rng = np.random.default_rng(1)
    for name, light in (("bright", 40), ("dark", 20)):
        (root / "other" / name).mkdir(parents=True)
        for number in range(7):
            pixels = rng.integers(0, 160, (40, 48, 3)) + light
            Image.fromarray(pixels.astype(np.uint8)).save(root / "other" / name / f"{number}.png")
    backbone = ["--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1", "--seeds", "0", "1"]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        assert finish_inside(root, "--methods", "linear", "bitfit", *TINY, *backbone).returncode == 0
    return root


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def evaluate(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return finish_inside(folder, "evaluate", *words)


def run_of(folder: Path, method: str, seed: int = 0) -> str:
    (run_id,) = [run_id for run_id in kept_models(folder / "results") if f"-{method}-s{seed}-" in run_id]
    return run_id


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of evaluations by run."""
    paths = sorted((folder / "results/evaluations/runs").glob("*.json"))
    return {record["evaluation"]["run_id"]: record for record in map(read_record, paths)}


def test_another_folder_is_scored_and_stored(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    said = evaluate(folder, run_id, "--data", "other")
    assert said.returncode == 0, said.stderr
    record = stored(folder)[run_id]
    name = record["run_id"]
    assert name.startswith(f"{run_id}@other-") and record["evaluation"]["kind"] == "data"
    assert record["evaluation"]["data"]["counts"] == {"bright": 7, "dark": 7}
    paths = folder / f"results/evaluations/runs/{name}.predictions.csv"
    made = pd.read_csv(paths)
    assert made["path"].tolist()[:2] == ["bright/0.png", "bright/1.png"] and len(made) == 14
    auc = roc_auc_score(made["label"] == "dark", made["logit_dark"] - made["logit_bright"])
    assert record["measurements"]["test"]["auc"] == pytest.approx(auc)
    before = read_record(folder / f"results/runs/{run_id}.json")["measurements"]["test"]["auc"]
    assert f"{run_id}: AUC {auc:.4f} on 14 images of other, {before:.4f} on its test split" in said.stdout
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    predicted = finish_inside(folder, "predict", run_id, "other", "--out", "made.csv")
    assert predicted.returncode == 0
    pd.testing.assert_frame_equal(pd.read_csv(folder / "made.csv").iloc[:, 1:], made.iloc[:, 3:], check_exact=True)


def test_the_same_again_is_stored_already_and_another_model_is_not(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    evaluate(folder, run_id, "--data", "other")
    (path,) = (folder / "results/evaluations/runs").glob("*.json")
    before = path.read_bytes()
    said = evaluate(folder, run_id, run_id, "--data", "other")
    assert said.returncode == 0 and f"{run_id} is evaluated on other: stored" in said.stderr
    assert path.read_bytes() == before and len(said.stdout.splitlines()) == 1
    record = read_record(path)
    record["evaluation"]["model_sha256"] = "0" * 64  # as if the run had been done again since
    write_record(folder / "results/evaluations", record)
    assert ": stored" not in evaluate(folder, run_id, "--data", "other").stderr
    path.write_bytes(path.read_bytes().replace(b'"auc": 0.', b'"auc": 0.0'))  # damaged
    assert ": stored" not in evaluate(folder, run_id, "--data", "other").stderr
    assert read_record(path)["measurements"] == json.loads(before)["measurements"]


def test_a_folder_with_splits_is_evaluated_on_its_test_split(folder: Path) -> None:
    """Of the dataset itself that gives what the run has stored, and no drop."""
    run_id = run_of(folder, "bitfit")
    assert evaluate(folder, run_id, "--data", "images").returncode == 0
    own = read_record(folder / f"results/runs/{run_id}.json")["measurements"]["test"]
    assert stored(folder)[run_id]["measurements"]["test"] == own
    assert finish_inside(folder, "tables").returncode == 0
    row = pd.read_csv(folder / "results/tables/other_data.csv").iloc[0]
    assert row["drop_change"] == 0 and row["drop_low"] < 0 < row["drop_high"] and row["drop_p"] == 1


def test_tables_show_all_seeds_and_the_drop_and_rank_nothing_by_it(folder: Path) -> None:
    assert finish_inside(folder, "tables").returncode == 0
    files = [folder / f"results/tables/results.{ending}" for ending in ("md", "csv", "tex")]
    before = [path.read_bytes() for path in files]
    for method in ("linear", "bitfit"):
        said = evaluate(folder, run_of(folder, method), "--all-seeds", "--data", "other")
        assert said.returncode == 0 and len(said.stdout.splitlines()) == 2
    assert set(stored(folder)) == set(kept_models(folder / "results"))
    said = finish_inside(folder, "tables")
    assert said.returncode == 0 and "results/tables/other_data.md" in said.stdout
    assert [path.read_bytes() for path in files] == before
    table = pd.read_csv(folder / "results/tables/other_data.csv")
    assert len(table) == 2 and set(table["seeds_evaluated"]) == {2} and set(table["num_images"]) == {14}
    for _, row in table.iterrows():
        records = [record for run_id, record in stored(folder).items() if f"-{row['method']}-" in run_id]
        aucs = [record["measurements"]["test"]["auc"] for record in records]
        assert row["external_mean"] == pytest.approx(np.mean(aucs))
        assert row["external_sd"] == pytest.approx(np.std(aucs, ddof=1))
        assert row["internal_mean"] == pytest.approx(row["auc_mean"])
        assert row["drop_change"] == pytest.approx(row["internal_mean"] - row["external_mean"])
        assert row["drop_low"] < row["drop_change"] < row["drop_high"]
    text = (folder / "results/tables/other_data.md").read_text()
    assert "→ other" in text and "Drop, 95 % CI (p)" in text and "2 of 2" in text
    rows = json.loads(finish_inside(folder, "list", "runs", "--format", "json").stdout)
    assert [row["kind"] for row in rows].count("evaluation") == 4
    assert {row["status"] for row in rows} == {"done"}


def test_evaluations_of_what_is_gone_are_named_and_left_out(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    evaluate(folder, run_id, "--data", "other")
    record = next(iter(stored(folder).values()))
    record["evaluation"]["run_predictions_sha256"] = "0" * 64
    write_record(folder / "results/evaluations", record)
    said = finish_inside(folder, "tables")
    assert said.returncode == 1 and not (folder / "results/tables/other_data.md").exists()
    assert f"evaluation must be of a stored run as it is now, got {record['run_id']} of another" in said.stderr


def renamed(folder: Path) -> Path:
    """The other folder, its classes called otherwise, with images that belong to none."""
    root = folder / "renamed"
    (root / "light").mkdir(parents=True)
    (root / "lighter").mkdir()
    for number, path in enumerate(sorted((folder / "other/bright").iterdir())):
        shutil.copy(path, root / ("light" if number < 4 else "lighter") / path.name)
    shutil.copytree(folder / "other/dark", root / "2")
    shutil.copytree(folder / "other/dark", root / "ungradable")
    return root


def test_a_class_map_names_the_classes(folder: Path) -> None:
    renamed(folder)
    (folder / "map.yaml").write_text("light: bright\nlighter: bright\n2: dark\nungradable:\n")
    run_id = run_of(folder, "linear")
    assert evaluate(folder, run_id, "--data", "other").returncode == 0
    plain = stored(folder)[run_id]["measurements"]["test"]
    shutil.rmtree(folder / "results/evaluations")
    said = evaluate(folder, run_id, "--data", "renamed", "--class-map", "map.yaml")
    assert said.returncode == 0, said.stderr
    record = stored(folder)[run_id]
    assert record["measurements"]["test"]["auc"] == pytest.approx(plain["auc"])
    assert record["evaluation"]["data"]["class_map"]["ungradable"] is None
    assert record["evaluation"]["data"]["counts"] == {"bright": 7, "dark": 7}


MAPS = {
    "light: bright\nlighter: bright\n2: dark\n": "must name every class folder in .*, got none of ungradable",
    "light: bright\nlighter: brihgt\n2: dark\nungradable:\n": "got 'brihgt'; did you mean bright",
    "light: bright\nlighter: bright\n2: dark\nungradable:\nlightest: bright\n": "got 'lightest'; did you mean light",
    "light: bright\nlighter: bright\n2: true\nungradable:\n": "got '2': True .*; put names that YAML reads in quotes",
    "light: bright\nlighter: bright\n2: bright\nungradable:\n": "images of every class of the model, got none of dark",
    "light: bright\nlight: dark\n": r"key must be given once, got 'light' twice",
    "no map at all": "got another content in 'map.yaml'",
    "\x00": "class map must be a text file",
}


@pytest.mark.parametrize("content", MAPS)
def test_bad_maps_are_one_line(folder: Path, content: str) -> None:
    renamed(folder)
    (folder / "map.yaml").write_text(content)
    said = evaluate(folder, run_of(folder, "linear"), "--data", "renamed", "--class-map", "map.yaml")
    assert said.returncode == 2 and said.stderr.count("\n") == 1
    assert pd.Series([said.stderr]).str.contains(MAPS[content]).all(), said.stderr
    assert not stored(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("best", "--data", "gone"), "data must be a folder of class folders, got 'gone'; there is no such folder"),
        (("best", "--data", "results"), "named as the classes of the model (bright, dark), got runs in 'results'; say"),
        (("nothing", "--data", "other"), "run must be one of those under 'results/runs'"),
        (("best", "--data", "other", "--class-map", "gone"), "got 'gone'; there is no such file"),
        (("best", "--data", "other", "--results", "no"), "results must be a folder, got 'no'"),
        (("best",), "data must be named with --data FOLDER, got none"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained: Path, words: tuple[str, ...], message: str) -> None:
    said = evaluate(trained, *words)
    assert (said.returncode, said.stdout) == (2, "") and message in said.stderr


def test_an_image_that_cannot_be_read_is_named_and_nothing_stored(folder: Path) -> None:
    (folder / "other/dark/3.png").write_bytes((folder / "other/dark/3.png").read_bytes()[:100])
    said = evaluate(folder, "best", "--data", "other")
    assert said.returncode == 2 and "got 1 that cannot: " in said.stderr and "dark/3.png" in said.stderr
    assert not stored(folder)


def test_names_are_hashed_where_those_of_the_run_are(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    record = read_record(folder / f"results/runs/{run_id}.json")
    record["run"]["names_key"] = "01234567"
    write_record(folder / "results", record)
    assert evaluate(folder, run_id, "--data", "other").returncode == 0
    (path,) = (folder / "results/evaluations/runs").glob("*.csv")
    assert ".png" not in path.read_text() and (folder / "other/.names-key").exists()
    assert stored(folder)[run_id]["run"]["names_key"] not in (None, "01234567")


def test_seeds_are_told_from_other_settings(folder: Path) -> None:
    record = best_run(folder / "results")
    found = same_but_for_the_seed(folder / "results", record)
    assert [other["run"]["config"]["seed"] for other in found] == [0, 1]
    other = next(other for other in found if other["run_id"] != record["run_id"])
    other["run"]["config"]["weight_decay"] = 0.5
    write_record(folder / "results", other)
    assert same_but_for_the_seed(folder / "results", record) == [record]


def sample(rng: np.random.Generator, num: int, shift: float, seeds: list[float]) -> Cell:
    """Models tested on the same images: what all see of an image, and what each sees for itself."""
    labels = np.repeat([0, 1], num)
    common, cell = rng.normal(size=2 * num), {}
    for seed, skill in enumerate(seeds):
        scores = common * 0.8 + rng.normal(size=2 * num) * 0.6 + labels * (shift + skill)
        values = np.stack([np.zeros(2 * num), scores], axis=1)
        frame = pd.DataFrame({"split": "test", "path": [f"{i:04}" for i in range(2 * num)]})
        frame["label"] = np.array(["a", "b"])[labels]
        for index, name in enumerate("ab"):
            frame[f"prob_{name}"], frame[f"logit_{name}"] = softmax(values, axis=1)[:, index], values[:, index]
        cell[seed] = read_evidence(csv_text(frame).encode())
    return cell


def test_the_drop_of_one_model_is_that_of_two_independent_samples() -> None:
    """DeLong's unpaired interval, which is never narrowed and hardly widened where samples are large."""
    rng = np.random.default_rng(0)
    inside, outside = sample(rng, 300, 1.5, [0.0]), sample(rng, 200, 1.0, [0.0])
    found = drop(inside, outside)
    assert found is not None
    error = np.sqrt(sum((cell[0].influence ** 2).sum() for cell in (inside, outside)))
    assert found.change == pytest.approx(inside[0].auc - outside[0].auc)
    half = (found.high - found.low) / 2
    assert 1.96 * error * 0.999 < half < 1.96 * error * 1.15
    assert found.num_seeds == 1 and found.wins is None


def test_few_images_of_a_class_tell_no_drop() -> None:
    rng = np.random.default_rng(0)
    assert drop(sample(rng, 4, 1, [0.0]), sample(rng, 50, 1, [0.0])) is None
    assert influence(np.array([0, 1]), np.eye(2), np.arange(2)).auc == 1


@pytest.mark.slow
@pytest.mark.parametrize(("num", "spread", "seeds"), [(40, 0.0, 1), (40, 0.3, 3), (15, 0.3, 5)])
def test_intervals_of_the_drop_hold_as_often_as_they_say(num: int, spread: float, seeds: int) -> None:
    """The truth is the mean over all trainings, of which the seeds are a sample; 400 simulated studies."""
    from scipy.stats import norm

    rng = np.random.default_rng(num)
    shifts, inside = (1.4, 0.9), 0
    skills = np.random.default_rng(0).normal(size=20000) * spread
    truth = [norm.cdf((shift + skills) / np.sqrt(2)).mean() for shift in shifts]
    for _ in range(400):
        of_seeds = list(rng.normal(size=seeds) * spread)
        found = drop(*(sample(rng, num, shift, of_seeds) for shift in shifts))
        assert found is not None
        inside += found.low <= truth[0] - truth[1] <= found.high
    assert 0.92 <= inside / 400 <= 0.995
