"""Fresh processes for jobs: started ahead, given one job each, followed to their end."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.config import PRIVATE, Disclosure, KeepModels
from benchmarks.environment import ROOT
from benchmarks.suite.oom_kills import OomKills
from benchmarks.suite.planned import PlannedRun
from benchmarks.suite.progress import SuiteProgress

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # not by a fault of the run
LOOK_SECONDS = 1.0  # between looks at a run that says nothing
EXIT_SECONDS = 60.0  # from the end of its work to that of the process


@dataclass(frozen=True)
class Job:
    """What a process is to do.

    Attributes:
        task: `run`, or `preload` for what comes before training.
        run: The run.
        results: Where the process stores its record.
        log: Takes all that it prints, behind what earlier tries of the run have printed.
        code: State of the code, for the record.
        hang_seconds: Without a sign of life for so long it is ended.
        rivals: Of a trial that may be stopped: validation AUC by epoch of the trials before it.
        afresh: Whether to begin again where checkpoints are left.
        at_once: How many runs of the suite are under way on the machine at once, for the record.
        track: The tracker that gets what the run measures.
        disclosure: What the record may tell.
        keep_models: Which models are kept.
    """

    task: str
    run: PlannedRun
    results: Path
    log: Path
    code: dict[str, Any]
    hang_seconds: float
    rivals: Sequence[Sequence[float]] = ()
    afresh: bool = False
    at_once: int = 1
    track: str | None = None
    disclosure: Disclosure = PRIVATE
    keep_models: KeepModels = "lean"

    def as_line(self) -> str:
        """The job as its process reads it."""
        run = self.run
        fields = {
            "task": self.task,
            "config": asdict(run.config),
            "places": asdict(run.places),
            "weights": asdict(run.weights),
            "tuning": run.tuning,
            "stopping": run.stopping,
            "rivals": self.rivals,
            "afresh": self.afresh,
            "at_once": self.at_once,
            "track": self.track,
            "disclosure": asdict(self.disclosure),
            "keep_models": self.keep_models,
            "results": str(self.results.resolve()),
            "log": str(self.log.resolve()),
            "code": self.code,
            "given": time.monotonic(),
        }
        return json.dumps(fields, default=str) + "\n"


@dataclass(frozen=True)
class Worker:
    """A process for one job.

    Attributes:
        process: Imports, then waits for its job on stdin.
        early: What it prints before it has a job, and so a log.
    """

    process: subprocess.Popen[str]
    early: IO[str]

    @staticmethod
    def start() -> "Worker":
        """Starts one."""
        early = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by `end`
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.suite.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=early,
            text=True,
            cwd=ROOT,
            # On a CPU, threads that spin while they wait slow small models down many times on a machine that does
            # anything else: an FPT step took 0.3 s instead of 1 to 8 s beside one busy process, and 0.3 s alone.
            env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the run
        )
        return Worker(process, early)

    def end(self, log: Path | None) -> None:
        """Ends the process if it still runs, whatever it is at, and appends to its log what it printed early."""
        self.process.kill()
        self.process.wait()
        self.early.seek(0)
        text = self.early.read()
        if text and log is not None:
            with contextlib.suppress(OSError), log.open("a") as file:
                file.write(text)
        for stream in (self.process.stdin, self.process.stdout, self.early):
            with contextlib.suppress(BrokenPipeError):  # a job that it never read
                stream.close()  # type: ignore[union-attr]


class Workers:
    """Fresh processes, one a job. While one works, the next already imports, and waits for its job."""

    def __init__(self) -> None:
        self.waiting: Worker | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self.waiting is not None:
            self.waiting.end(None)

    def take(self, another: bool) -> Worker:
        """A process for a job; `another` starts the one after it."""
        worker = self.waiting or Worker.start()
        self.waiting = Worker.start() if another else None
        return worker


def follow(worker: Worker, job: Job, progress: SuiteProgress, lost: threading.Event | None = None) -> dict[str, Any]:
    """Gives a process its job, shows its progress, and waits for its end; it has ended however this is left.

    Args:
        worker: The process.
        job: What it is to do.
        progress: Shows events.
        lost: Set where another machine has taken the run over: the process is ended.

    Returns:
        `state`, `message`, `stored` (whether the process stored a record), and what it measured of the preload phase.
    """
    process, kills = worker.process, OomKills(worker.process.pid)
    done: dict[str, Any] = {}
    ended: str | None = None
    try:
        lines = _give(process, job)
        silent = 0.0  # seconds that we waited in vain; those in which we were stopped ourselves (Ctrl-Z) do not count
        while (line := _next(lines)) is not None:
            silent = 0.0 if line else silent + LOOK_SECONDS
            if line:
                event = json.loads(line)
                if event["event"] == "done":
                    done = event
                else:
                    progress.event(event)
            elif ended is None and silent > job.hang_seconds:
                ended = f"no sign of life for {job.hang_seconds / 60:g} min (--hang-minutes), so it was ended"
                process.send_signal(signal.SIGUSR1)  # the log gets to know what each thread was doing
                time.sleep(1)
                process.kill()
            elif ended is None and lost is not None and lost.is_set():
                ended = "another machine took it over, as this one showed no sign of life"
                process.kill()
            progress.show_log(job.log)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_SECONDS)
    finally:
        worker.end(job.log)
        progress.show_log(job.log)
    return done or _ending(process.returncode, ended, kills.any_since(), job.log)


def _give(process: subprocess.Popen[str], job: Job) -> "queue.SimpleQueue[str | None]":
    """Hands the job over; returns what the process says, line by line, and None at its end."""
    assert process.stdin is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # closed, as the user stopped us
            for line in process.stdout:
                if line.endswith("\n"):  # else it was killed while it wrote
                    lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # it died while importing: its silence is handled as a failure
        process.stdin.write(job.as_line())
        process.stdin.flush()
    return lines


def _next(lines: "queue.SimpleQueue[str | None]") -> str | None:
    """The next line; empty after a while without one."""
    try:
        return lines.get(timeout=LOOK_SECONDS)
    except queue.Empty:
        return ""


def _ending(returncode: int, ended: str | None, oom_killed: bool | None, log: Path) -> dict[str, Any]:
    """What becomes of a run whose process did not say so.

    Args:
        returncode: Of the process.
        ended: Why we ended it, if we did.
        oom_killed: Whether the system ended a process of its group for want of memory; None where it does not say.
        log: Of the run.
    """
    if ended is not None:
        state, message = "failed", ended
    elif returncode == -signal.SIGKILL and oom_killed:
        state, message = "oom", "host memory: the system's out-of-memory killer ended the process"
    elif returncode >= 0:
        state, message = "failed", f"the run's process ended with exit status {returncode}"
    else:
        number = signal.Signals(-returncode)
        state = "interrupted" if number in FROM_OUTSIDE else "failed"
        message = f"the run's process was killed ({number.name})"
        if number == signal.SIGKILL and oom_killed is None:
            message += ", perhaps out of host memory"
    return {"state": state, "message": f"{message}; see {log}", "stored": False}
