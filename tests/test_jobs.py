"""A suite in several processes of one machine: each run once, the same numbers, and no process that outlives it."""

import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from bench_process import TINY, finish, records, start
from fault_injection import scores
from inside import finish_inside
from tiny_images import make_images

from benchmarks.suite.local import _alone

pytestmark = pytest.mark.process

METHODS_RUN = ("full", "linear")
COMMAND = ("--methods", *METHODS_RUN, *TINY, "--jobs", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jobs")
    make_images(root / "images")
    return root


def test_two_processes_do_what_one_does(folder: Path) -> None:
    grid = ("--epochs", "2", "--lr", "1e-3", "1e-2")
    ended = finish(folder, *COMMAND, *grid)
    assert ended.returncode == 0, ended.stderr
    assert "trials: 4 ok" in ended.stderr and "runs: 2 ok" in ended.stderr
    titles = [line.partition(": started")[0] for line in ended.stderr.splitlines() if line.endswith(": started")]
    assert len(titles) == len(set(titles)) == 6
    assert finish_inside(folder, "--methods", *METHODS_RUN, *TINY, *grid, "--results", "alone").returncode == 0
    alone = records(folder / "alone")
    for method, record in records(folder / "results").items():
        assert record["run_id"] == alone[method]["run_id"]
        assert scores(record) == scores(alone[method])
        assert (record["environment"]["runs_at_once"], alone[method]["environment"]["runs_at_once"]) == (2, 1)
    assert not list((folder / "results" / "jobs").iterdir())


class Stopped(NamedTuple):
    """A suite in two processes that got a signal while two runs trained."""

    returncode: int
    stderr: str
    seconds: float
    left: list[psutil.Process]
    records: dict[str, dict[str, Any]]


def stopped(folder: Path, signum: int, results: str) -> Stopped:
    slow = ("--methods", "full", "vpt", "vpt_shallow", *TINY, "--jobs", "2", "--epochs", "500")
    process = start(folder, *slow, "--results", results)
    assert process.stderr is not None
    lines, training = [], set()
    for line in process.stderr:
        lines.append(line)
        if "epoch 3/500" in line:
            training.add(line[:6])
        if len(training) == 2:
            break
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 6, "controllers, suites, runs"
    process.send_signal(signum)
    sent = time.monotonic()
    _, stderr = process.communicate()
    _, left = psutil.wait_procs(below, timeout=30)
    return Stopped(
        process.returncode, "".join(lines) + stderr, time.monotonic() - sent, left, records(folder / results)
    )


def test_ctrl_c_ends_them_all_and_records_what_was_under_way(folder: Path) -> None:
    end = stopped(folder, signal.SIGINT, "stopped")
    assert end.returncode == 130 and end.left == [] and end.seconds < 30
    assert "Traceback" not in end.stderr
    assert end.stderr.splitlines()[-1].startswith("stopped by SIGINT; what is finished is kept")
    assert {record["status"]["state"] for record in end.records.values()} == {"interrupted"}
    assert len(end.records) == 2


def test_a_killed_suite_takes_its_processes_along(folder: Path) -> None:
    end = stopped(folder, signal.SIGKILL, "killed")
    assert end.returncode == -signal.SIGKILL and end.left == []
    assert {record["status"]["state"] for record in end.records.values()} <= {"interrupted"}


def test_each_process_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _alone("cuda:1", 2) == ({"CUDA_VISIBLE_DEVICES": "1"}, "cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,5")
    assert _alone("cuda:0", 2) == ({"CUDA_VISIBLE_DEVICES": "GPU-aa"}, "cuda:0")
    assert _alone("cuda:1", 2) == ({"CUDA_VISIBLE_DEVICES": "5"}, "cuda:0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--jobs 0", "must be at least 1"),
        ("--slurm minutes=5", "slurm must be used with --launcher slurm, got it alone"),
        ("--launcher slurm --jobs 2 --slurm minutes=5", "jobs and device must be left to SLURM"),
        ("--launcher slurm", "slurm must have minutes, the time limit of a run"),
        ("--launcher slurm --slurm hours=5", "key of slurm must be one of minutes, "),
        ("--launcher slurm --slurm minutes=0", "minutes of slurm must be at least 1, got '0'"),
    ],
)
def test_what_does_not_fit_is_said_first(folder: Path, options: str, message: str) -> None:
    words = [word for word in TINY if word not in ("--device", "cpu")]
    ended = finish_inside(folder, "--methods", "linear", *words, *options.split(), "--results", "none")
    assert ended.returncode == 2
    assert message in ended.stderr.splitlines()[-1]
    assert not list((folder / "none").rglob("*.json"))
