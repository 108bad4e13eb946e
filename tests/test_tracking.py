"""Trackers: what TensorBoard reads back; a tracker that fails ends no run; one that is not installed is refused."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from bench_process import TINY, records
from inside import finish_inside
from tiny_images import make_images

from benchmarks.privacy import host_id
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


def test_tensorboard_holds_no_epoch_twice_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer.event_file_writer import AtomicCounter

    def shown(name: str) -> list[tuple[int, Any]]:
        events = EventAccumulator(str(tmp_path / "tensorboard" / "a-run"))
        events.Reload()
        return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]

    # The counter in the names of event files goes from 9 to 10, which stands before it.
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(9))
    track(tmp_path, "tensorboard", {1: 0.9, 2: 0.8, 3: 0.7})  # killed behind epoch 3, whose checkpoint was not stored
    track(tmp_path, "tensorboard", {3: 0.6, 4: 0.5}, test_auc=0.75)
    assert shown("loss") == [(1, 0.9), (2, 0.8), (3, 0.6), (4, 0.5)] and shown("test_auc") == [(0, 0.75)]
    track(tmp_path, "tensorboard", {1: 0.4, 2: 0.3}, test_auc=0.8)  # begins again
    assert shown("loss") == [(1, 0.4), (2, 0.3)] and shown("test_auc") == [(0, 0.8)]


def test_mlflow_goes_on_with_its_run_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", cast(ModuleType, fake))
    track(tmp_path, "mlflow", {1: 0.9, 2: 0.8, 3: 0.7}, run_id="another-run")
    track(tmp_path, "mlflow", {1: 0.9, 2: 0.8, 3: 0.7})
    track(tmp_path, "mlflow", {3: 0.6, 4: 0.5}, test_auc=0.75)
    assert [run.name for run in fake.runs] == ["another-run", "a-run"]
    assert fake.runs[1].metrics["loss"] == [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.5)]
    assert fake.runs[1].metrics["test_auc"] == [(0, 0.75)] and fake.runs[1].params == {"lr": 1e-3}
    track(tmp_path, "mlflow", {1: 0.4})  # begins again, which is another
    assert [run.name for run in fake.runs] == ["another-run", "a-run", "a-run"]
    track(tmp_path, "mlflow", {2: 0.3})
    assert fake.runs[2].metrics["loss"] == [(1, 0.4), (2, 0.3)] and len(fake.runs) == 3
    track(tmp_path, "mlflow", {5: 0.3}, run_id="not-tracked-before")
    assert fake.runs[3].params == {"lr": 1e-3} and fake.runs[3].metrics["loss"] == [(5, 0.3)]


def test_wandb_is_told_to_take_nothing_of_machine_and_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def init(**arguments: Any) -> SimpleNamespace:
        asked.update(arguments)
        return SimpleNamespace(log=lambda *_, **__: None, summary={}, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", cast(ModuleType, SimpleNamespace(init=init)))
    track(tmp_path, "wandb", {1: 0.9}, test_auc=0.75)
    off = {"x_disable_meta": True, "x_disable_machine_info": True, "disable_git": True, "disable_code": True}
    assert asked["settings"] == off | {"host": host_id()} and asked["id"] == "a-run"


def track(folder: Path, name: str, losses: Mapping[int, float], run_id: str = "a-run", **test: float) -> None:
    """A process of a run, which ends behind its last epoch or, with test scores, with the run."""
    notes: list[str] = []
    tracking = Tracking(name, folder, run_id, {"lr": 1e-3}, notes.append)
    for epoch, loss in losses.items():
        tracking.log(EPOCH | {"loss": loss}, epoch)
    if test:
        scores = {score.removeprefix("test_"): value for score, value in test.items()}
        tracking.finish({"measurements": {"test": scores}})
    assert notes == []


@dataclass
class FakeRun:
    """A run of `FakeMLflow`: values by step of each metric."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def info(self) -> "FakeRun":
        return self

    @property
    def run_id(self) -> str:
        return str(id(self))


class FakeMLflow:
    """As much of MLflow as is used, as version 3.17 behaves: it keeps every value, also a second one of a step."""

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []
        self.active: FakeRun | None = None

    def set_tracking_uri(self, uri: str) -> None:
        assert uri.startswith("sqlite:///")

    def set_experiment(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id="1")

    def start_run(
        self, run_name: str | None = None, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        if run_id is None:
            assert run_name is not None
            assert tags == {"mlflow.user": "unknown", "mlflow.source.name": "bench.py"}
            self.runs.append(FakeRun(run_name))
        self.active = self.runs[-1] if run_id is None else next(run for run in self.runs if run.run_id == run_id)

    def log_params(self, params: dict[str, Any]) -> None:
        assert self.active is not None and not self.active.params
        self.active.params = params

    def log_metrics(self, values: dict[str, float], step: int = 0) -> None:
        assert self.active is not None
        for name, value in values.items():
            self.active.metrics.setdefault(name, []).append((step, value))

    def end_run(self) -> None:
        self.active = None

    def MlflowClient(self) -> "FakeMLflow":
        return self

    def search_runs(self, experiments: list[str], named: str, order_by: list[str], max_results: int) -> list[FakeRun]:
        assert (experiments, order_by, max_results) == (["1"], ["attributes.start_time DESC"], 1)
        return [run for run in reversed(self.runs) if named == f"attributes.run_name = '{run.name}'"][:max_results]

    def get_metric_history(self, run_id: str, name: str) -> list[SimpleNamespace]:
        (found,) = [run for run in self.runs if run.run_id == run_id]
        return [SimpleNamespace(step=step) for step, _ in found.metrics.get(name, [])]


EPOCH = {"loss": 0.5, "lr": 1e-3, "val_auc": 0.75, "images_per_second": 10.0}


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
        tracked.log(EPOCH, epoch)
    tracked.finish({"measurements": {"test": {"auc": 0.5}}})
    assert notes == ["mlflow is left out from here on: no server"]


def test_a_tracker_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="tracker must be one of tensorboard, mlflow, wandb, got 'wand'"):
        check_tracker("wand")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="tracker must be installed, got 'mlflow': pip install mlflow"):
        check_tracker("mlflow")
