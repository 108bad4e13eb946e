"""Suites in a world that fails: full and read-only disks, data that vanishes, damaged files, hangs, signals, sharing.

Each suite is a real one, in processes of its own; what it costs to start one is why several faults share a suite.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from bench_process import BENCH, ROOT, TINY, finish, records, start
from fixed_records import make_record
from tiny_images import make_images

from benchmarks.features import FeatureRequest, open_feature_cache
from benchmarks.locks import Lock
from benchmarks.plan import Plan
from benchmarks.progress import SuiteProgress
from benchmarks.records import check_writable, write_record
from benchmarks.states import StoredStates
from benchmarks.suite import Work, announce
from benchmarks.workers import Worker, follow

GIB = 2**30


class Ended(NamedTuple):
    """A suite that has ended: its exit status, what it said, and its records by method."""

    returncode: int
    stdout: str
    stderr: str
    records: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("failures")
    make_images(root / "images")
    return root


def watch(folder: Path, results: str, *arguments: str, on: dict[str, Callable[["subprocess.Popen[str]"], Any]]) -> Ended:
    """Runs a suite; what `on` maps a piece of stderr to is called once, when a line holds it."""
    process = start(folder, *arguments, "--results", results)
    assert process.stdout is not None and process.stderr is not None
    lines, waiting = [], dict(on)
    for line in process.stderr:
        lines.append(line)
        for piece in [piece for piece in waiting if piece in line]:
            waiting.pop(piece)(process)
    stdout = process.stdout.read()
    process.communicate()
    assert not waiting, "".join(lines)
    return Ended(process.returncode, stdout, "".join(lines), records(folder / results))


def worker_of(process: "subprocess.Popen[str]") -> psutil.Process:
    """The process of the run under way: the other one waits for its run."""
    return min(psutil.Process(process.pid).children(), key=lambda worker: worker.create_time())


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


def small_disk(folder: Path, size: str) -> "contextmanager[Path]":  # type: ignore[valid-type]
    """An empty disk."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")  # type: ignore[return-value]


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


def one_line(stderr: str) -> str:
    """The only line of a command that did nothing."""
    (line,) = stderr.splitlines()
    return line


@pytest.mark.parametrize("obstacle", ["file", "read-only", "full"])
def test_results_that_cannot_be_written_stop_a_suite_before_it_starts(tmp_path: Path, obstacle: str) -> None:
    command = ("--methods", "full", *TINY, "--results", "results")
    if obstacle == "file":
        (tmp_path / "results").touch()
        ended = finish(tmp_path, *command)
    elif obstacle == "read-only":
        with mounted(tmp_path / "results", "-t", "tmpfs", "-o", "ro", "tmpfs"):
            ended = finish(tmp_path, *command)
    else:
        with small_disk(tmp_path / "results", "64k"):
            fill(tmp_path / "results")
            ended = finish(tmp_path, *command)
    reasons = {"file": "Not a directory", "read-only": "Read-only file system", "full": "No space left on device"}
    assert (ended.returncode, ended.stdout) == (2, "")
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
            stack.enter_context(mounted(results, "--bind", str(results)))
            subprocess.run(["mount", "-o", "remount,bind,ro", results], check=True)

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
    assert re.match(r"features need \S+ GiB under .*small/features, where \S+ GiB are free; make room", status["message"])
    assert "full others 32 px seed 0: started" in full_disks.stderr


def test_a_run_whose_record_does_not_fit_is_not_done(full_disks: Ended) -> None:
    assert full_disks.returncode != 0
    stderr = full_disks.stderr
    assert re.search(r"^others-32-full-\S+ is not stored: results must be a folder that can be written, got ", stderr, re.M)
    assert re.search(r"^bench.py: results must be a folder .*\(No space left on device\): free it or choose", stderr, re.M)
    assert "runs: 1 failed, 2 not done, 1 ok; records in full/runs" in stderr
    assert "[4/4]" not in stderr and "Traceback" not in stderr


@pytest.fixture(scope="module")
def lost_data(folder: Path) -> Ended:
    """Of four datasets one vanishes and one changes once the suite has begun; the run of the third hangs."""
    for name in ("gone", "changed", "stuck"):
        shutil.copytree(folder / "images", folder / name)

    def lose(_: object) -> None:
        shutil.rmtree(folder / "gone")
        shutil.copy(folder / "changed/test/dark/0.png", folder / "changed/train/dark/0.png")

    flags = (*TINY, "--datasets", "gone", "changed", "stuck", "images", "--epochs", "2", "--hang-minutes", "0.25")
    on = {
        "4 runs, 0 of them stored already": lose,
        "[3/4] linear stuck 32 px seed 0: started": lambda suite: worker_of(suite).suspend(),
    }
    return watch(folder, "lost", "--methods", "linear", *flags, on=on)


def by_dataset(folder: Path, results: str) -> dict[str, dict[str, Any]]:
    read = [json.loads(path.read_text()) for path in (folder / results / "runs").glob("*.json")]
    return {record["run"]["config"]["dataset"]: record["status"] for record in read}


def test_runs_on_data_that_is_lost_fail_and_others_go_on(folder: Path, lost_data: Ended) -> None:
    statuses = by_dataset(folder, "lost")
    assert {name: status["state"] for name, status in statuses.items()} == {
        "gone": "failed",
        "changed": "failed",
        "stuck": "failed",
        "images": "ok",
    }
    assert re.match(r"dataset must be .*/gone'", statuses["gone"]["message"])
    assert statuses["changed"]["message"] == "dataset changed has changed since this suite started; start it again"
    for name in ("gone", "changed"):
        assert f"failed ({statuses[name]['message']}) in " in lost_data.stderr


def test_a_run_that_hangs_is_ended_and_recorded(folder: Path, lost_data: Ended) -> None:
    message = by_dataset(folder, "lost")["stuck"]["message"]
    assert message.startswith("no sign of life for 0.25 min (--hang-minutes), so it was ended; see ")
    assert "[4/4] linear images 32 px seed 0: ok in " in lost_data.stderr


def test_failed_runs_are_summed_up_and_show_in_the_exit_status(lost_data: Ended) -> None:
    assert lost_data.returncode == 1
    assert "runs: 3 failed, 1 ok; records in lost/runs" in lost_data.stderr
    assert "failed runs are tried again with --retry-failed" in lost_data.stderr
    assert "Traceback" not in lost_data.stderr
    assert "Linear probe" in lost_data.stdout


class OutOfMemory(NamedTuple):
    """A run that asks for more memory than there is, one that does not, and the latter again from damaged files."""

    ended: Ended
    again: Ended
    before: dict[str, bytes]
    after: dict[str, bytes]


BIG, SMALL = "images-1536-full-", "images-32-full-"


@pytest.fixture(scope="module")
def out_of_memory(folder: Path) -> OutOfMemory:
    command = ("--methods", "full", *TINY, "--res", "1536", "32", "--attention", "eager", "--batch-size", "10")
    command += ("--epochs", "3", "--precision", "fp32")

    def limit(suite: "subprocess.Popen[str]") -> None:
        resource.prlimit(worker_of(suite).pid, resource.RLIMIT_AS, (9 * GIB, 9 * GIB))  # eager attention: 9.5 GiB

    ended = watch(folder, "oom", *command, on={"[1/2] full images 1536 px seed 0: resizing images: 10 done": limit})
    runs = folder / "oom" / "runs"
    before = {path.name: path.read_bytes() for path in runs.iterdir()}
    (record,) = runs.glob(f"{SMALL}*.json")
    record.write_bytes(record.read_bytes()[:1000])
    checkpoints = folder / "oom" / "checkpoints" / record.stem
    checkpoints.mkdir(parents=True)
    (checkpoints / f"epoch-00002-{'0' * 64}.pt").write_bytes(b"damaged")
    again = watch(folder, "oom", *command, on={})
    return OutOfMemory(ended, again, before, {path.name: path.read_bytes() for path in runs.iterdir()})


def test_host_memory_that_runs_out_is_a_result(out_of_memory: OutOfMemory) -> None:
    ended = out_of_memory.ended
    statuses = {name: json.loads(out_of_memory.before[name])["status"] for name in out_of_memory.before if ".json" in name}
    (big,) = [status for name, status in statuses.items() if name.startswith(BIG)]
    assert (big["state"], big["phase"]) == ("oom", "train")
    assert big["message"].startswith("host memory: ") and "can't allocate memory" in big["message"]
    assert ended.returncode == 0
    assert "runs: 1 ok, 1 oom; records in oom/runs" in ended.stderr


def test_a_damaged_record_is_named_and_its_run_done_again(out_of_memory: OutOfMemory) -> None:
    again, before, after = out_of_memory.again, out_of_memory.before, out_of_memory.after
    (line,) = [line for line in again.stderr.splitlines() if "record must be readable, got " in line]
    assert line.startswith("note: ") and f"/{SMALL}" in line
    assert again.returncode == 0 and "2 runs, 1 of them stored already" in again.stderr
    assert again.stdout == out_of_memory.ended.stdout
    assert set(after) == set(before)
    changed = [name for name in before if after[name] != before[name]]
    assert len(changed) == 1 and changed[0].startswith(SMALL) and changed[0].endswith(".json")


def test_a_damaged_checkpoint_is_named_and_its_run_begins_again(out_of_memory: OutOfMemory) -> None:
    (line,) = [line for line in out_of_memory.again.stderr.splitlines() if "checkpoint" in line]
    assert re.match(r"\[2/2\] full images 32 px seed 0: checkpoint \S+/epoch-00002-0+\.pt is left aside: it is damaged$", line)
    first, second = (
        next(json.loads(files[name]) for name in files if name.startswith(SMALL) and ".json" in name)
        for files in (out_of_memory.before, out_of_memory.after)
    )
    assert second["run"]["resumed_after"] == []
    for split in ("val", "test"):
        assert second["measurements"][split] == first["measurements"][split]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', "of another run"])
def test_a_damaged_record_is_due_whatever_the_damage(
    tmp_path: Path, damage: bytes | str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path, make_record("lora") | {"run_id": "a-run"})
    path = write_record(tmp_path, make_record("lora") | {"run_id": "another-run"})
    path.write_bytes(damage if isinstance(damage, bytes) else (tmp_path / "runs" / "a-run.json").read_bytes())
    work = Work.make(Plan([], []), tmp_path, "only-missing", 1)
    assert work.runs.is_due("another-run") and not work.runs.is_due("a-run")
    announce(work)
    assert f"note: record must be readable, got '{path}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signum", "moment"),
    [(signal.SIGTERM, "epoch 2/400"), (signal.SIGHUP, "started"), (signal.SIGINT, "started")],
    ids=["SIGTERM", "SIGHUP", "SIGINT-many-times"],
)
def test_a_signal_ends_a_suite_within_seconds(folder: Path, signum: signal.Signals, moment: str) -> None:
    processes: list[psutil.Process] = []
    began = 0.0

    def stop(suite: "subprocess.Popen[str]") -> None:
        nonlocal began
        began = time.monotonic()
        suite.send_signal(signum)
        while signum == signal.SIGINT and suite.poll() is None:
            suite.send_signal(signum)
            time.sleep(0.02)

    def note_processes(suite: "subprocess.Popen[str]") -> None:
        processes.extend(psutil.Process(suite.pid).children())

    results = signum.name
    on = {moment: lambda suite: (note_processes(suite), stop(suite))}
    ended = watch(folder, results, "--methods", "full", *TINY, "--epochs", "400", on=on)
    assert time.monotonic() - began < 20
    assert ended.returncode == 128 + signum
    said = f"stopped by {signum.name}; what is finished is kept, and the same command goes on from there"
    assert ended.stderr.splitlines()[-1] == said
    assert "Traceback" not in ended.stderr
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    if signum != signal.SIGINT:
        assert ended.records["full"]["status"]["state"] == "interrupted"
        assert ended.records["full"]["status"]["message"] == f"stopped by {signum.name}"
