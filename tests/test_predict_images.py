"""bench.py predict: files, folders and DICOM to probabilities, as the run stored them."""

import csv
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from bench_process import TINY
from deep_images import dicom
from inside import finish_inside
from small_backbones import SMALL
from tiny_images import make_images

from benchmarks.inference.stored_models import best_run
from benchmarks.records.record import kept_models, model_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predict")
    make_images(root / "images")
    backbone = ["--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1"]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        assert finish_inside(root, "--methods", "linear", "bitfit", *TINY, *backbone).returncode == 0
    return root


def predict(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return finish_inside(folder, "predict", *words)


def run_of(folder: Path, method: str) -> str:
    (run_id,) = [run_id for run_id in kept_models(folder / "results") if f"-{method}-" in run_id]
    return run_id


def test_a_folder_has_the_stored_probabilities(folder: Path) -> None:
    run_id = run_of(folder, "linear")
    said = predict(folder, run_id, "images/test", "--out", "made.csv")
    assert (said.returncode, said.stdout) == (0, "")
    assert said.stderr.splitlines()[0].startswith(f"{run_id}: linear on images at 32 px, validation AUC ")
    assert said.stderr.splitlines()[0].endswith("; not for clinical use") and "8/8 images" in said.stderr
    made = pd.read_csv(folder / "made.csv")
    stored = pd.read_csv(folder / f"results/runs/{run_id}.predictions.csv")
    stored = stored[stored["split"] == "test"].drop(columns=["split", "label"]).reset_index(drop=True)
    stored["path"] = "images/" + stored["path"]
    pd.testing.assert_frame_equal(made, stored, check_exact=True)
    assert (folder / "made.csv").stat().st_mode & 0o777 == 0o600


def test_the_best_is_chosen_and_named(folder: Path) -> None:
    best = best_run(folder / "results")["run_id"]
    said = predict(folder, "best", "images/test/dark/0.png", "--batch-size", "1")
    assert said.returncode == 0 and said.stderr.startswith(f"{best}: ")
    (row,) = csv.DictReader(io.StringIO(said.stdout))
    assert row["path"] == "images/test/dark/0.png"
    assert float(row["prob_bright"]) + float(row["prob_dark"]) == pytest.approx(1)


def test_a_model_may_be_a_file(folder: Path, tmp_path: Path) -> None:
    path = shutil.copy(model_path(folder / "results", run_of(folder, "bitfit")), tmp_path / "mine.safetensors")
    said = predict(folder, str(path), "images/val")
    assert said.returncode == 0 and len(said.stdout.splitlines()) == 7
    other = predict(folder, "gone.safetensors", "images/val")
    assert other.returncode == 2 and "model must be a file that can be read, got 'gone.safetensors'" in other.stderr


def test_what_cannot_be_read_is_named_and_the_others_are_predicted(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "images/test/dark", mixed)
    (mixed / "1.png").write_bytes((mixed / "1.png").read_bytes()[:200])
    (mixed / "2.png").write_text("no image")
    (mixed / "notes.txt").write_text("not meant")
    (mixed / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(mixed / "pipe.png")
    said = predict(folder, run_of(folder, "linear"), str(mixed), str(mixed / "pipe.png"))
    assert said.returncode == 1
    assert [Path(row["path"]).name for row in csv.DictReader(io.StringIO(said.stdout))] == ["0.png", "3.png"]
    named = [line for line in said.stderr.splitlines() if "must" in line]
    for name in ("1.png", "2.png", "lost.png", "pipe.png"):
        assert sum(name in line for line in named) == 1, named
    assert len(named) == 4


def test_dicom_is_read(folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 48)).astype(np.uint16)
    (tmp_path / "one.dcm").write_bytes(dicom(pixels, WindowCenter="2048", WindowWidth="4096"))
    said = predict(folder, run_of(folder, "linear"), str(tmp_path))
    assert said.returncode == 0 and "one.dcm" in said.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing", "images/test"), "run must be one of those under 'results/runs'"),
        (("best", "images/gone"), "files must be images or folders of them, got 'images/gone'; there is no such file"),
        (("best", "results/runs"), "files must be images or folders of them, got none in 'results/runs'"),
        (("best", "images/test", "--results", "no"), "results must be a folder, got 'no'"),
        (("best", "images/test", "--out", "images"), "out must be a file, got the folder 'images'"),
        (("best", "images/test", "--device", "tpu"), "device must be auto, cpu, cuda or cuda:<n>, got 'tpu'"),
        (("best", "images/test", "--batch-size", "0"), "batch_size must be at least 1, got '0'"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder: Path, words: tuple[str, ...], message: str) -> None:
    said = predict(folder, *words)
    assert (said.returncode, said.stdout) == (2, "")
    assert message in said.stderr and said.stderr.count("\n") == 1


def test_the_card_lies_in_the_file_for_other_programs(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(model_path(folder / "results", run_of(folder, "linear")), "pt") as file:
        card = json.loads(file.metadata()["card"])
        assert {"head.weight", "head.bias", "mean", "std"} == set(file.keys())
    assert card["method"]["name"] == "linear"
