"""What is beside a training never ends it: predictions, trackers, tables and plots; nor is a fault given its name."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from bench_process import TINY, records
from inside import finish_inside
from safetensors.torch import save_file
from tiny_images import make_images

from benchmarks.errors import MachineError
from benchmarks.suite import tracking

COMMAND = ("--methods", "linear", *TINY, "--epochs", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path / "images")
    return tmp_path


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            MachineError("cache must be a folder that can be written, got '/c'"),
            "MachineError: cache must be a folder that",
        ),
        (KeyError("aten::new"), "KeyError: 'aten::new'"),
        (MemoryError(), "MemoryError: MemoryError"),
    ],
)
def test_a_prediction_that_fails_is_a_note_of_a_run_that_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("benchmarks.memory.prediction_cache.predict_point", fail)
    ended = finish_inside(folder, *COMMAND)
    assert ended.returncode == 0, ended.stderr
    record = records(folder / "results")["linear"]
    assert record["status"]["state"] == "ok" and "predicted_memory" not in record["measurements"]
    note, consequence = record["run"]["notes"]
    assert consequence == "features are extracted one image at a time, since memory is not predicted"
    assert note.startswith(f"memory is not predicted: {said}") and note.replace(".../c", "/c") in ended.stderr


class Broken:
    """A tracker whose server is gone."""

    def __init__(self, *_: object) -> None:
        raise ConnectionError("no server")


def test_a_tracker_that_fails_is_a_note_in_the_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", Broken)
    assert finish_inside(folder, *COMMAND, "--track", "tensorboard").returncode == 0
    notes = records(folder / "results")["linear"]["run"]["notes"]
    assert notes == ["tensorboard is left out from here on: no server"]


@pytest.mark.parametrize(("error", "status"), [(MachineError("no room"), 1), (KeyError("a fault"), 70)])
@pytest.mark.parametrize("of", ["plots", "tables"])
def test_a_plot_or_table_that_fails_leaves_the_runs_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, of: str, error: Exception, status: int
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(f"benchmarks.report.{of}.write_{of}", fail)
    ended = finish_inside(folder, *COMMAND)
    assert ended.returncode == status
    assert "not all tables and plots are written: " in ended.stderr and "the runs are stored" in ended.stderr
    assert "runs: 1 ok; records in " in ended.stderr and "Linear probe" in ended.stdout
    assert (folder / "results/tables/results.md").exists() is (of == "plots")
    assert bool(list((folder / "results").glob("logs/crash-*"))) is (status == 70)


def test_weights_that_are_not_finite_are_no_divergence(folder: Path) -> None:
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    state["blocks.3.mlp.fc1.weight"][5, 7] = torch.nan
    save_file(state, folder / "damaged.safetensors")
    ended = finish_inside(folder, *COMMAND, "--weights", "damaged.safetensors")
    assert ended.returncode == 2 and ended.stderr.splitlines()[-1].startswith(
        "bench.py: weights must be finite, got nan in 'blocks.3.mlp.fc1.weight' of 'damaged.safetensors'; take an undam"
    )
    assert not list((folder / "results").rglob("*.json"))


def test_features_that_are_not_finite_are_no_divergence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where what was computed does not fit into half precision."""
    from methods.probes.pooled import PooledFeature

    plain = PooledFeature.forward
    monkeypatch.setattr(PooledFeature, "forward", lambda self, image: {"feature": plain(self, image)["feature"] / 0})
    ended = finish_inside(folder, *COMMAND)
    status = json.loads(next((folder / "results/runs").glob("*.json")).read_text())["status"]
    assert ended.returncode == 1 and (status["state"], status["phase"]) == ("failed", "preload")
    assert status["message"].startswith("features must be finite, got inf in 'feature'")
