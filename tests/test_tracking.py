"""Trackers: what TensorBoard reads back; a tracker that fails ends no run; one that is not installed is refused."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
from bench_process import TINY, records
from inside import finish_inside
from tiny_images import make_images

from benchmarks.suite import tracking
from benchmarks.suite.tracking import Tracking, check_tracker


def test_tensorboard_shows_what_the_record_holds(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_images(tmp_path / "images")
    ended = finish_inside(tmp_path, "--methods", "linear", *TINY, "--epochs", "2", "--track", "tensorboard")
    assert ended.returncode == 0, ended.stderr
    record = records(tmp_path / "results")["linear"]
    events = EventAccumulator(str(tmp_path / "results" / "tensorboard" / record["run_id"]))
    events.Reload()
    for name in ("loss", "lr", "val_auc"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(e["epoch"], pytest.approx(e[name])) for e in record["measurements"]["history"]]
    (last,) = events.Scalars("test_auc")
    assert last.value == pytest.approx(record["measurements"]["test"]["auc"])


class Broken:
    """A tracker whose server is gone."""

    def __init__(self, *_: object) -> None:
        self.calls = 0

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        raise ConnectionError("no\nserver")

    def finish(self, values: Mapping[str, float]) -> None:
        raise AssertionError("it was left out")


def test_a_tracker_that_fails_is_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Broken)
    tracked = Tracking("mlflow", tmp_path, "a-run", {}, notes.append)
    for epoch in (1, 2):
        tracked.log({"loss": 0.5}, epoch)
    tracked.finish({"measurements": {"test": {"auc": 0.5}}})
    assert notes == ["mlflow is left out from here on: no server"]


def test_a_tracker_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="tracker must be one of tensorboard, mlflow, wandb, got 'wand'"):
        check_tracker("wand")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="tracker must be installed, got 'mlflow': pip install mlflow"):
        check_tracker("mlflow")
