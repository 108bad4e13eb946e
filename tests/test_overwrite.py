"""What is stored of a run stays until something new is whole: record and predictions change together, or not at all."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bench_process import TINY
from fixed_records import make_record
from inside import finish_inside
from tiny_images import make_images

from benchmarks.choices import SPLITS
from benchmarks.memory import measure, measured
from benchmarks.memory.point import MemoryPoint
from benchmarks.records.record import half_replaced, kept_models, remove_partial, store_run, write_record
from benchmarks.suite.run import Run


def pair(results: Path) -> tuple[bytes, bytes | None]:
    """Record and predictions as they lie there."""
    (record,) = (results / "runs").glob("[!.]*.json")
    predictions = record.with_suffix(".predictions.csv")
    return record.read_bytes(), predictions.read_bytes() if predictions.exists() else None


def files(results: Path) -> tuple[bytes, bytes | None, bytes | None]:
    """The same, and the model."""
    (record,) = (results / "runs").glob("[!.]*.json")
    model = record.with_suffix(".model.safetensors")
    return *pair(results), model.read_bytes() if model.exists() else None


def frame(value: float) -> pd.DataFrame:
    return pd.DataFrame({"split": SPLITS, "path": ["a", "b", "c"], "label": "x", "prob_x": value})


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("state", ["ok", "oom"])
def test_an_end_at_any_rename_or_removal_leaves_the_old_or_what_completes_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    old = make_record("lora", auc=0.8)
    new = make_record("lora", auc=0.9) if state == "ok" else make_record("lora", state="oom")
    new["run_id"] = old["run_id"]
    fresh = frame(0.9) if state == "ok" else None
    fresh_model = b"new model" if state == "ok" else None
    store_run(tmp_path / "old", old, frame(0.8), b"old model")
    store_run(tmp_path / "new", old, frame(0.8), b"old model")
    store_run(tmp_path / "new", new, fresh, fresh_model)
    before, after = files(tmp_path / "old"), files(tmp_path / "new")
    assert before[2] == b"old model" and after[2] == fresh_model
    assert before[0] != after[0] and (after[1] is None) == (state == "oom")
    calls: dict[str, Callable[..., Any]] = {"replace": Path.replace, "unlink": Path.unlink}
    ends = 0
    for number in range(20):
        results, left = tmp_path / f"end-{number}", [number]
        store_run(results, old, frame(0.8), b"old model")

        def ending(self: Path, *args: Any, name: str, left: list[int] = left, **more: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return calls[name](self, *args, **more)

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(Path, name, lambda self, *args, name=name, **more: ending(self, *args, name=name, **more))
            try:
                store_run(results, new, fresh, fresh_model)
            except Killed:
                ends += 1
        if half_replaced(results) == []:
            assert files(results) in (before, after)
        remove_partial(results, old["run_id"])
        assert files(results) in (before, after)
        assert sorted(path.name for path in (results / "runs").iterdir() if path.suffix in (".tmp", ".whole")) == []
    assert ends >= 4 and files(tmp_path / "end-19") == after


def test_a_run_that_keeps_no_model_takes_the_old_one_with_it_once_it_is_whole(tmp_path: Path) -> None:
    record = make_record("lora", auc=0.8)
    store_run(tmp_path, record, frame(0.8), b"old model")
    store_run(tmp_path, record, frame(0.8))
    assert files(tmp_path)[2] is None and kept_models(tmp_path) == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that is done."""
    root = tmp_path_factory.mktemp("overwrite")
    make_images(root / "images")
    ended = finish_inside(root, *COMMAND)
    assert ended.returncode == 0, ended.stderr
    yield root


COMMAND = ("--methods", "linear", *TINY, "--epochs", "1")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("it broke"), 1, "linear images 32 px seed 0: failed; the result of before stays as it is (ok)"),
        (KeyboardInterrupt(), 130, "linear images 32 px seed 0: interrupted; the result of before stays as it is (ok)"),
    ],
)
def test_a_rerun_that_fails_or_is_stopped_leaves_what_was_stored(
    stored: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str
) -> None:
    before = pair(stored / "results")

    def fail(_: Run) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Run, "execute", fail)
        ended = finish_inside(stored, *COMMAND, "--overwrite")
    assert ended.returncode == status
    assert said in ended.stderr
    assert pair(stored / "results") == before


def test_a_rerun_that_is_whole_takes_the_place_of_what_was_stored(stored: Path) -> None:
    record, predictions = pair(stored / "results")
    assert finish_inside(stored, *COMMAND, "--overwrite").returncode == 0
    again = pair(stored / "results")
    assert again[0] != record and again[1] == predictions  # the same numbers at another time
    assert half_replaced(stored / "results") == []


def test_the_next_command_completes_what_a_kill_left_half_replaced(stored: Path) -> None:
    record, _ = pair(stored / "results")
    (path,) = (stored / "results/runs").glob("[!.]*.json")
    path.with_name(f"{path.name}.whole").write_bytes(record.replace(b'"images_per_second"', b'"images_per_second" ', 1))
    assert finish_inside(stored, *COMMAND).returncode == 0
    assert pair(stored / "results")[0] != record and half_replaced(stored / "results") == []


@pytest.mark.parametrize("damage", ["record", "predictions", "none left"])
def test_a_damaged_run_is_named_and_made_again_by_the_same_command(stored: Path, damage: str) -> None:
    (path,) = (stored / "results/runs").glob("[!.]*.json")
    predictions = path.with_suffix(".predictions.csv")
    record, whole = pair(stored / "results")
    damaged = path if damage == "record" else predictions
    if damage == "none left":
        predictions.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes().replace(b"0.", b"0.1", 1))
    assert "1 damaged" in (planned := finish_inside(stored, *COMMAND, "--dry-run")).stdout
    assert f"{damaged.name}'" in planned.stderr and "1 runs in 1 cells, 1 to do" in planned.stderr
    ended = finish_inside(stored, *COMMAND)
    assert ended.returncode == 0, ended.stderr
    assert f"{damaged.name}'" in ended.stderr and "run it again; this command does so" in ended.stderr
    again = pair(stored / "results")
    assert again[0] != record and again[1] == whole
    assert "1 runs, 1 of them stored already" in finish_inside(stored, *COMMAND).stderr


def test_a_failed_measurement_leaves_the_one_before(tmp_path: Path) -> None:
    point = MemoryPoint("linear", 32, 4, "vit_tiny_patch16_224")
    path = measured.record_path(tmp_path, point)
    good = {"schema": measured.SCHEMA, "point": point.as_dict(), "status": {"state": "ok", "message": None}}
    measured.write_record(path, good)
    before = path.read_bytes()

    class Process:
        returncode = 1

        def communicate(self, *_: object, **__: object) -> tuple[str, str]:
            return "", "no GPU today"

    record = measure._finish(point, Process(), tmp_path)  # type: ignore[arg-type]
    assert record["status"]["message"] == "no GPU today; what was measured before stays"
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    path.unlink()
    assert measure._finish(point, Process(), tmp_path)["status"]["state"] == "failed"  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [path]
    write_record(tmp_path, make_record("lora"))
