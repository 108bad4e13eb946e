"""Suites on disks that are full or read-only, from the start or once they run; each disk is a real one."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from bench_process import TINY, Ended, watch
from inside import finish_inside
from tiny_images import make_images

from benchmarks.data.dataset import open_dataset
from benchmarks.features.cache import FeatureRequest, open_feature_cache
from benchmarks.storage.locks import Lock

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("disks")
    make_images(root / "images")
    return root


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    done = subprocess.run([mount, *options, folder], capture_output=True, text=True) if mount else None
    if done is None or done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip() if done else 'no mount'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def small_disk(folder: Path, size: str) -> AbstractContextManager[Path]:
    """An empty disk."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def fill(folder: Path) -> Path:
    """Leaves a disk no room; returns the file to remove."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk takes everything")


@pytest.mark.parametrize("obstacle", ["file", "read-only", "full"])
def test_results_that_cannot_be_written_stop_a_suite_before_it_starts(tmp_path: Path, obstacle: str) -> None:
    command = ("--methods", "full", *TINY, "--results", "results")
    if obstacle == "file":
        (tmp_path / "results").touch()
        ended = finish_inside(tmp_path, *command)
    elif obstacle == "read-only":
        with mounted(tmp_path / "results", "-t", "tmpfs", "-o", "ro", "tmpfs"):
            ended = finish_inside(tmp_path, *command)
    else:
        with small_disk(tmp_path / "results", "64k"):
            fill(tmp_path / "results")
            ended = finish_inside(tmp_path, *command)
    reasons = {"read-only": "Read-only file system", "full": "No space left on device"}
    assert (ended.returncode, ended.stdout) == (2, "")
    if obstacle == "file":
        assert ended.stderr == "bench.py: results must be a folder and no file (results is one), got 'results'\n"
        return
    assert ended.stderr == (
        f"bench.py: results must be a folder that can be written, got 'results/runs' ({reasons[obstacle]}): "
        "free it or choose another with --results\n"
    )


class ReadOnly(NamedTuple):
    """A suite whose results become read-only during its second run, and the same command again."""

    ended: Ended
    again: Ended
    first: bytes
    first_after: bytes


@pytest.fixture(scope="module")
def read_only(folder: Path) -> ReadOnly:
    results = folder / "locked"
    command = ("--methods", "full", "linear", *TINY, "--epochs", "2")
    with contextlib.ExitStack() as stack:

        def lock(_: object) -> None:
            # Made read-only elsewhere first: where the suite already writes, a remount finds the mount busy.
            locked = stack.enter_context(mounted(folder / "read-only", "--bind", str(results)))
            subprocess.run(["mount", "-o", "remount,bind,ro", locked], check=True)
            stack.enter_context(mounted(results, "--bind", str(locked)))

        ended = watch(folder, "locked", *command, on={"[2/2] linear images 32 px seed 0: started": lock})
    (path,) = results.glob("runs/images-32-full-*.json")
    first = path.read_bytes()
    again = watch(folder, "locked", *command, on={})
    return ReadOnly(ended, again, first, path.read_bytes())


def test_results_that_become_read_only_end_a_suite_with_a_summary(read_only: ReadOnly) -> None:
    stderr = read_only.ended.stderr
    refused = "results must be a folder that can be written, got "
    assert f"bench.py: {refused}" in stderr and "(Read-only file system): free it or choose another with" in stderr
    assert "is not stored: " + refused in stderr
    assert "runs: 1 not done, 1 ok; records in locked/runs" in stderr
    assert "the same command goes on with runs that were interrupted or are not done" in stderr
    assert read_only.ended.returncode != 0
    assert "Traceback" not in stderr
    assert "Full fine-tuning" in read_only.ended.stdout
    assert set(read_only.ended.records) == {"full"}


def test_the_same_command_goes_on_once_results_can_be_written(read_only: ReadOnly) -> None:
    assert read_only.again.returncode == 0
    assert "2 runs, 1 of them stored already" in read_only.again.stderr
    assert {method: record["status"]["state"] for method, record in read_only.again.records.items()} == {
        "full": "ok",
        "linear": "ok",
    }
    assert read_only.first_after == read_only.first


@pytest.fixture(scope="module")
def full_disks(folder: Path) -> Ended:
    """Results where no checkpoint fits and, later, nothing at all; a cache that cannot hold the features of FPT."""
    flags = ("--methods", "full", "fpt", *TINY, "--datasets", "images", "others", "--epochs", "2", "--cache", "small")
    shutil.copytree(folder / "images", folder / "others")
    with small_disk(folder / "small", "240k"), small_disk(folder / "full", "4m"):
        on = {"full others 32 px seed 0: started": lambda _: fill(folder / "full")}
        ended = watch(folder, "full", *flags, "--set", "fpt.side_resolution=32", on=on)
        stored = {path.name for path in (folder / "full" / "runs").iterdir()}
    ids = [record["run_id"] for record in ended.records.values()]
    assert stored == {f"{run_id}.json" for run_id in ids} | {f"{ids[1]}.predictions.csv"}
    return ended


def test_a_checkpoint_that_does_not_fit_costs_a_note(full_disks: Ended) -> None:
    assert full_disks.records["full"]["status"]["state"] == "ok"
    assert [epoch["epoch"] for epoch in full_disks.records["full"]["measurements"]["history"]] == [1, 2]
    (line,) = [line for line in full_disks.stderr.splitlines() if "checkpoint" in line]
    assert line.startswith("[1/4] full images 32 px seed 0: checkpoint of epoch 1 cannot be stored in ")
    assert line.endswith(": No space left on device")


def test_a_cache_that_cannot_hold_the_features_fails_its_runs_alone(full_disks: Ended) -> None:
    status = full_disks.records["fpt"]["status"]
    assert (status["state"], status["phase"]) == ("failed", "preload")
    assert re.match(
        r"features need \S+ GiB under <cache>/features, where \S+ GiB are free; make room", status["message"]
    )
    assert "full others 32 px seed 0: started" in full_disks.stderr


def test_a_run_whose_record_does_not_fit_is_not_done(full_disks: Ended) -> None:
    assert full_disks.returncode != 0
    stderr = full_disks.stderr
    assert re.search(
        r"^others-32-full-\S+ is not stored: results must be a folder that can be written, got ", stderr, re.M
    )
    assert re.search(
        r"^bench.py: results must be a folder .*\(No space left on device\): free it or choose", stderr, re.M
    )
    assert "runs: 1 failed, 2 not done, 1 ok; records in full/runs" in stderr
    assert "[4/4]" not in stderr and "Traceback" not in stderr


def test_a_disk_that_fills_up_while_features_are_computed_keeps_those_that_are_whole(tmp_path: Path) -> None:
    request = FeatureRequest({}, None, {"feature": ((4,), "float32")}, [range(2), range(2, 4), range(4, 6)])
    asked: list[Sequence[range]] = []

    def compute(batches: Sequence[range]) -> Iterator[dict[str, torch.Tensor]]:
        asked.append(batches)
        for batch in batches:
            if len(asked) == 1 and batch.start == 4:
                time.sleep(0.5)  # the first batch is written meanwhile
                ballast.append(fill(disk))
            yield {"feature": torch.arange(batch.start, batch.stop).float().repeat(4, 1).T}

    ballast: list[Path] = []
    with small_disk(tmp_path / "disk", "128k") as disk:
        with pytest.raises(RuntimeError, match=r"cache must be a folder .*No space left on device.*--cache"):
            open_feature_cache(disk, request, compute, pytest.fail)
        ballast[0].unlink()
        cache = open_feature_cache(disk, request, compute, pytest.fail)
        assert len(asked[1]) < len(asked[0])
        with ThreadPoolExecutor(1) as pool:
            rows = cache.read(np.arange(6), False, pool.map)["feature"]
        assert rows[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_cache_without_room_for_anything_costs_a_note_and_statistics_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        fill(disk)
        assert open_dataset(str(folder / "images"), tmp_path, disk).classes == ("bright", "dark")
    err = capsys.readouterr().err
    for name in ("hashes", "normalization"):
        assert re.search(rf"^note: {name} is made anew .*{name}' \(No space left on device\): .*--cache$", err, re.M)


def test_a_lock_on_a_full_disk_is_not_held(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        ballast = fill(disk)
        lock = Lock(disk / ".a-run.lease")
        with pytest.raises(OSError, match=r"No space left on device: '.*/.a-run.lease'"):
            lock.try_acquire()
        assert not lock.path.exists()
        ballast.unlink()
        assert lock.try_acquire()
        lock.release()
