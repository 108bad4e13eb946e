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
from bench_process import ROOT

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
    job = SimpleNamespace(log=log, hang_seconds=hang_seconds, as_line=lambda: json.dumps({"log": str(log)}) + "\n")
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
    assert done["message"].startswith("the run's process was ended by SIGKILL")
