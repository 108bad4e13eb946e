"""What the suite makes of a process that hangs or dies."""

import errno
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from bench_process import ROOT

from benchmarks.suite import oom_kills
from benchmarks.suite.processes import Job, Worker, follow
from benchmarks.suite.progress import SuiteProgress
from benchmarks.suite.worker import _failure

SLEEPS = "sleep_soundly()"
SPEAKS = """
for number in range(3):
    time.sleep(1.2)
    print(json.dumps({"event": "note", "text": str(number)}), file=events)
print(json.dumps({"event": "done", "state": "ok", "message": None, "stored": True}), file=events)
"""
DIES = 'os.write(events.fileno(), b\'{"event": "note", "te\'); os.kill(os.getpid(), signal.SIGKILL)'


def followed(tmp_path: Path, deed: str, hang_seconds: float) -> tuple[dict[str, Any], str]:
    """What is known of a process that takes a job, opens its log and does something; and its log."""
    script = f"""
import json, os, signal, sys, time
from pathlib import Path
from benchmarks.suite.worker import _open_log

def sleep_soundly():
    time.sleep(600)

events = os.fdopen(os.dup(1), "w", buffering=1)
_open_log(Path(json.loads(sys.stdin.readline())["log"]))
{deed}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "a.log"
    job = SimpleNamespace(
        log=log, hang_seconds=hang_seconds, kind=None, as_line=lambda: json.dumps({"log": str(log)}) + "\n"
    )
    progress = SuiteProgress(1)
    progress.start(1, "a run")
    early = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `follow`
    done = follow(Worker(process, early), cast(Job, job), progress)
    return done, log.read_text()


@pytest.mark.process
def test_the_log_of_a_run_that_hangs_tells_what_it_was_doing(tmp_path: Path) -> None:
    done, log = followed(tmp_path, SLEEPS, hang_seconds=3)
    assert (done["state"], done["stored"]) == ("failed", False)
    assert (
        done["message"] == f"no sign of life for 0.05 min (--hang-minutes), so it was ended; see {tmp_path / 'a.log'}"
    )
    assert "most recent call first" in log and "in sleep_soundly" in log


@pytest.mark.process
def test_a_clock_that_jumps_lets_no_run_seem_to_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a suite that was stopped itself: to it, too, an hour passes between two looks."""
    hours = itertools.count(step=3600.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(hours))
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
    assert followed(tmp_path, SPEAKS, hang_seconds=60)[0]["state"] == "ok"


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("DefaultCPUAllocator: no")]
)
def test_host_memory_that_runs_out_is_known_by_its_error(error: Exception) -> None:
    status = _failure(error, "train")
    assert status["state"] == "oom" and status["message"].startswith("host memory: ")


@pytest.mark.process
def test_a_run_killed_while_it_speaks_was_interrupted(tmp_path: Path) -> None:
    done = followed(tmp_path, DIES, hang_seconds=60)[0]
    assert done["state"] == "interrupted"
    assert done["message"].startswith("the run's process was killed (SIGKILL)")


@pytest.mark.process
@pytest.mark.parametrize(
    ("before", "after", "state", "message"),
    [
        (2, 3, "oom", "host memory: the system's out-of-memory killer ended the process; see"),
        (2, 2, "interrupted", "the run's process was killed (SIGKILL); see"),
        (None, None, "interrupted", "the run's process was killed (SIGKILL), perhaps out of host memory; see"),
    ],
    ids=["in-its-group", "elsewhere-on-the-node", "the-system-does-not-say"],
)
def test_only_what_ends_in_its_own_control_group_is_a_run_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int | None, after: int | None, state: str, message: str
) -> None:
    counter = tmp_path / "memory.events"
    if before is not None:
        counter.write_text(f"oom 0\noom_kill {before}\n")
    monkeypatch.setattr(oom_kills, "_counters", lambda _: [counter])
    count = "" if after is None else f"Path({str(counter)!r}).write_text('oom 9\\noom_kill {after}\\n'); "
    done = followed(tmp_path, count + DIES, hang_seconds=60)[0]
    assert (done["state"], done["message"].partition("see")[0] + "see") == (state, message)


# The group of a process and where the memory controller's tree is mounted, as a node of a cluster with the second
# version, one with the first, a container of either (which sees its own group as the root of the mount), and both.
LAYOUTS = {
    "v2": ("0::/slurm/job_7", "29 23 0:26 / {root}/cg rw - cgroup2 cgroup2 rw", "cg/slurm/job_7/memory.events"),
    "v1": (
        "9:name=systemd:/a\n4:memory:/slurm/job_7\n2:cpu,cpuacct:/b",
        "30 23 0:27 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "31 23 0:28 / {root}/mem rw shared:9 - cgroup cgroup rw,memory",
        "mem/slurm/job_7/memory.oom_control",
    ),
    "v1-container": (
        "4:memory:/docker/abc",
        "31 23 0:28 /docker/abc {root}/mem ro - cgroup cgroup rw,memory",
        "mem/memory.oom_control",
    ),
    "v2-container": ("0::/", "29 23 0:26 / {root}/cg ro - cgroup2 cgroup ro", "cg/memory.events"),
    "v1-beside-v2": (
        "4:memory:/a\n0::/",
        "28 23 0:25 / {root}/unified rw - cgroup2 cgroup2 rw\n31 23 0:28 / {root}/mem rw - cgroup cgroup rw,memory",
        "mem/a/memory.oom_control",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_control_group_of_a_process_is_found(tmp_path: Path, layout: str) -> None:
    groups, mounts, place = LAYOUTS[layout]
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(groups + "\n")
    (tmp_path / "7/mountinfo").write_text(mounts.format(root=tmp_path) + "\n")
    counter = tmp_path / place
    counter.parent.mkdir(parents=True)
    counter.write_text("under_oom 0\noom_kill 4\n")
    kills = oom_kills.OomKills(7, tmp_path)
    assert kills.any_since() is False
    counter.write_text("under_oom 0\noom_kill 5\n")
    assert kills.any_since() is True
    counter.unlink()
    assert kills.any_since() is None
    assert oom_kills.OomKills(8, tmp_path).any_since() is None


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "GPU"),
        (RuntimeError("CUDA error: out of memory"), "GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "GPU"),
        (RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"), "host"),
    ],
)
def test_whose_memory_ran_out_is_said(error: Exception, place: str) -> None:
    status = _failure(error, "train")
    assert status["state"] == "oom" and status["message"].startswith(f"{place} memory: ")
