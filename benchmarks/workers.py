"""Fresh processes for jobs: started ahead, given one job each, followed to their end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT
from benchmarks.plan import PlannedRun
from benchmarks.progress import SuiteProgress

Worker = tuple["subprocess.Popen[str]", Path]  # a process and its log


class Workers:
    """Fresh processes, one a run. While one runs, the next already imports, and waits for its job.

    Args:
        results: What a waiting process prints goes to a file in `runs` there.
    """

    def __init__(self, results: Path) -> None:
        self.folder = results / "runs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.waiting: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self.waiting is not None:
            self.waiting.kill()
            self.waiting.communicate()
            self._log(self.waiting).unlink(missing_ok=True)

    def take(self, log: Path, another: bool) -> Worker:
        """A process for a run, with its log; `another` starts the one after it."""
        process = self.waiting or self._start()
        log.parent.mkdir(parents=True, exist_ok=True)
        log = self._log(process).rename(log)
        self.waiting = self._start() if another else None
        return process, log

    def _log(self, process: "subprocess.Popen[str]") -> Path:
        command: Any = process.args
        return self.folder / f".worker-{command[-1]}.log"

    def _start(self) -> "subprocess.Popen[str]":
        name = uuid.uuid4().hex
        with (self.folder / f".worker-{name}.log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                # On a CPU, threads that spin while they wait slow small models down many times on a machine that does
                # anything else: an FPT step took 0.3 s instead of 1 to 8 s beside one busy process, and 0.3 s alone.
                env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end the run
            )


def follow(
    worker: Worker,
    task: str,
    run: PlannedRun,
    results: Path,
    code: dict[str, Any],
    progress: SuiteProgress,
    rivals: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """Gives a process its job, shows its progress, and waits for its end.

    Args:
        worker: The process and its log, which stays only where the job failed.
        task: `run`, or `preload` for what comes before training.
        run: What to do.
        results: Where the process stores a record.
        code: State of the code, for the record.
        progress: Shows events.
        rivals: Of a trial that may be stopped: validation AUC by epoch of the trials before it.

    Returns:
        `state`, `message`, `stored` (whether the process stored a record), and what it measured of the preload phase.

    Raises:
        KeyboardInterrupt: The user stopped it; the process has ended.
    """
    process, log = worker
    done: dict[str, Any] = {}
    with process:
        try:
            _give_job(process, task, run, results, code, rivals)
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "done":
                    done = event
                else:
                    progress.event(event)
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            log.unlink()
            raise
    if not done:
        done = {"state": "failed", "message": f"{_ending(process.returncode)}; see {log}", "stored": False}
    elif done["state"] != "failed":
        log.unlink()
    detail = f" ({done['message']})" if done["message"] else ""
    progress.finish(f"{done['state']}{detail}")
    return done


def _give_job(
    process: "subprocess.Popen[str]",
    task: str,
    run: PlannedRun,
    results: Path,
    code: dict[str, Any],
    rivals: Sequence[Sequence[float]],
) -> None:
    job = {
        "task": task,
        "config": asdict(run.config),
        "places": asdict(run.places),
        "weights": asdict(run.weights),
        "tuning": run.tuning,
        "rivals": rivals,
        "results": str(results.resolve()),
        "code": code,
        "given": time.time(),
    }
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died while importing: its silence is handled as a failure
        process.stdin.write(json.dumps(job, default=str) + "\n")
        process.stdin.flush()


def _ending(returncode: int) -> str:
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = ", perhaps out of host memory" if name == "SIGKILL" else ""
        return f"the run's process was ended by {name}{hint}"
    return f"the run's process ended with exit status {returncode}"
