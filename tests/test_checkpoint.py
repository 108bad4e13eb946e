"""Checkpoints: what goes on from one ends bit for bit where an undisturbed training ends; damage is left aside."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_process import TINY, options_of
from tiny_images import make_images

from benchmarks.suite.plan import PlannedRun, make_plan
from benchmarks.suite.run import Run
from benchmarks.suite.suite import Work
from benchmarks.training import checkpoint
from benchmarks.training.checkpoint import Checkpoints
from benchmarks.training.clock import Clock
from methods import METHODS

EPOCHS = 3
STATE = {"weight": torch.arange(5.0), "epoch": 1, "names": ["a", "b"]}


class Killed(Exception):
    """Stands in for the end of a process."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_images(folder / "images")
    return folder


def planned(images: Path, method: str, *options: str) -> PlannedRun:
    flags = [word if word != "images" else str(images / "images") for word in TINY]
    flags += ["--methods", method, "--epochs", str(EPOCHS), "--cache", str(images / "cache"), *options]
    return make_plan(options_of(*flags)).runs[0]


def execute(run: PlannedRun, checkpoints: Checkpoints | None, emit: Callable[..., None] = lambda *_, **__: None) -> Run:
    torch.manual_seed(99)  # what a fresh process has differs
    done = Run(run.config, run.places, run.weights, Clock(), emit, (), checkpoints)
    done.execute()
    return done


def outcome(run: Run) -> dict[str, Any]:
    """All that training decides, without what the clock decides."""
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in run.measurements["history"]]
    assert run.probabilities is not None
    scores = {split: run.measurements[split] for split in ("val", "test")}
    return {"history": history, "selection": run.run["selection"], "predictions": run.probabilities.to_csv()} | scores


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_after_any_epoch_ends_as_an_undisturbed_one(images: Path, tmp_path: Path, method: str) -> None:
    run = planned(images, method)
    undisturbed = execute(run, None)

    checkpoints = Checkpoints(tmp_path, run.config.run_id, pytest.fail)
    for last in range(2, EPOCHS + 1):  # the epoch that is lost, as its checkpoint is not there yet

        def die(event: str, last: int = last, **fields: Any) -> None:
            if event == "epoch" and fields["epoch"] == last:
                raise Killed

        with pytest.raises(Killed):
            execute(run, checkpoints, die)
    resumed = execute(run, checkpoints)
    assert resumed.run["resumed_after"] == list(range(1, EPOCHS))
    assert undisturbed.run["resumed_after"] == []
    assert outcome(resumed) == outcome(undisturbed)
    seconds = resumed.clock.seconds
    assert seconds["train"] == pytest.approx(sum(e["seconds"] for e in resumed.measurements["history"]), rel=0.2)
    assert 0 < sum(seconds.values()) < resumed.clock.total()


def test_only_the_newest_is_kept_and_none_at_the_end(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a-run", pytest.fail)
    assert checkpoints.load() is None
    for epoch in (1, 2, 10):
        checkpoints.store(epoch, STATE | {"epoch": epoch})
    (path,) = checkpoints.folder.iterdir()
    assert path.name.startswith("epoch-00010-")
    loaded = checkpoints.load()
    assert loaded is not None and loaded["epoch"] == 10 and loaded["names"] == ["a", "b"]
    assert torch.equal(loaded["weight"], STATE["weight"])  # type: ignore[arg-type]
    checkpoints.remove()
    assert checkpoints.load() is None and not checkpoints.folder.exists()


def test_a_damaged_one_is_left_aside_for_the_one_before(tmp_path: Path) -> None:
    notes: list[str] = []
    checkpoints = Checkpoints(tmp_path, "a-run", notes.append)
    checkpoints.store(1, STATE)
    (first,) = checkpoints.folder.iterdir()
    kept = first.read_bytes()
    checkpoints.store(2, STATE | {"epoch": 2})
    (second,) = checkpoints.folder.iterdir()
    first.write_bytes(kept)  # killed before it was removed
    for damage in (kept, second.read_bytes()[:-1], b""):
        second.write_bytes(damage)
        loaded = checkpoints.load()
        assert loaded is not None and loaded["epoch"] == 1
    assert notes == [f"checkpoint {second} is left aside: it is damaged"] * 3


def test_a_half_written_one_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a-run", pytest.fail)
    checkpoints.folder.mkdir(parents=True)
    (checkpoints.folder / ".4711.tmp").write_bytes(b"half")
    assert checkpoints.load() is None


def test_another_version_of_the_code_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    Checkpoints(tmp_path, "a-run", notes.append).store(1, STATE)
    monkeypatch.setattr(checkpoint, "CODE_DIGEST", "other")
    assert Checkpoints(tmp_path, "a-run", notes.append).load() is None
    assert notes[0].endswith("it was made by another version of the code or of torch")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    pickle.loads(pickle.dumps(Payload()))
    (tmp_path / "ran").unlink()  # the payload works
    notes: list[str] = []
    checkpoints = Checkpoints(tmp_path, "a-run", notes.append)
    checkpoints.store(1, {"payload": Payload()})
    assert checkpoints.load() is None
    assert "holds more than tensors and plain values" in notes[0] and "\n" not in notes[0]
    assert not (tmp_path / "ran").exists()


def test_a_disk_that_cannot_hold_one_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    checkpoints = Checkpoints(tmp_path, "a-run", notes.append)
    checkpoints.store(1, STATE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint._Hashing, "write", full)
    checkpoints.store(2, STATE)
    assert len(notes) == 1 and notes[0].startswith("checkpoint of epoch 2 cannot be stored in ")
    monkeypatch.undo()
    assert [path.name[:11] for path in checkpoints.folder.iterdir()] == ["epoch-00001"]


def test_those_of_a_run_that_has_its_record_are_removed(tmp_path: Path, images: Path) -> None:
    from fixed_records import make_record

    from benchmarks.records.record import write_record
    from benchmarks.suite.suite import _clear_up

    record = make_record("lora")
    write_record(tmp_path, record)
    for run_id in (record["run_id"], "another-run"):
        Checkpoints(tmp_path, run_id, pytest.fail).store(1, STATE)
    work = Work.make(make_plan_of_nothing(), tmp_path, "only-missing", 1)
    _clear_up(work.runs)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["another-run"]


def make_plan_of_nothing() -> Any:
    from benchmarks.suite.plan import Plan

    return Plan([], [])
