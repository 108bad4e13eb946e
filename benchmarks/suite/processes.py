"""Processes for jobs: started ahead, given a job or several that may share one, followed to the end of each."""

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.config import PRIVATE, Disclosure, KeepModels
from benchmarks.environment import ROOT
from benchmarks.suite.oom_kills import OomKills
from benchmarks.suite.planned import PlannedRun
from benchmarks.suite.progress import SuiteProgress
from benchmarks.suite.signals import known_signals

FROM_OUTSIDE = known_signals("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")  # not by a fault of the run
LOOK_SECONDS = 1.0  # between looks at a run that says nothing
EXIT_SECONDS = 60.0  # from the end of its work to that of the process
SERVES = ("ok", "diverged")  # states of a job after which its process may do another


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
        kind: What jobs that one process may do have in common; None for a job that has a process of its own.
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
    kind: str | None = None

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


class Worker:
    """A process for jobs, one after another.

    Args:
        process: Imports, then waits for a job on stdin.
        early: What it prints before it has a job, and so a log.

    Attributes:
        lines: What it says, line by line, and None at its end.
    """

    def __init__(self, process: subprocess.Popen[str], early: IO[str]) -> None:
        self.process, self.early = process, early
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

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

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed, as the user stopped us
            for line in self.process.stdout:
                if line.endswith("\n"):  # else it was killed while it wrote
                    self.lines.put(line)
        self.lines.put(None)

    def give(self, job: Job) -> None:
        """Hands a job over."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died while importing: its silence is handled as a failure
            self.process.stdin.write(job.as_line())
            self.process.stdin.flush()

    def next_line(self) -> str | None:
        """What it says next; empty after a while without a line, None at its end."""
        try:
            return self.lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return ""

    def leave(self) -> None:
        """Waits a while for the process to end by itself, now that there is no other job for it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_SECONDS)

    def tell(self, log: Path) -> None:
        """Appends to the log of its first job what it printed before it had one."""
        self.early.seek(0)
        text = self.early.read()
        self.early.truncate(0)
        if text:
            with contextlib.suppress(OSError), log.open("a") as file:
                file.write(text)

    def end(self) -> None:
        """Ends the process if it still runs, whatever it is at."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.early):
            with contextlib.suppress(BrokenPipeError):  # a job that it never read
                stream.close()  # type: ignore[union-attr]


class Workers:
    """Processes for jobs. While one works, the next may already import.

    A process serves further jobs of the same kind for as long as they end well; all others get a fresh one.
    """

    def __init__(self) -> None:
        self.waiting: Worker | None = None  # fresh
        self.serving: tuple[Worker, str | None] | None = None  # with the kind of its jobs

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (self.serving and self.serving[0], self.waiting):
            if worker is not None:
                worker.end()

    def follow(
        self, job: Job, progress: SuiteProgress, lost: threading.Event | None = None, another: bool = False
    ) -> dict[str, Any]:
        """Has a process do a job; see `follow`.

        Args:
            job, progress, lost: As `follow` takes them.
            another: Whether the job after this one will need a fresh process, which then starts now.
        """
        worker = self._take(job)
        if another and self.waiting is None:
            self.waiting = Worker.start()
        done = follow(worker, job, progress, lost)
        if _serves_on(job, done):
            self.serving = worker, job.kind
        return done

    def _take(self, job: Job) -> Worker:
        if self.serving is not None:
            (worker, kind), self.serving = self.serving, None
            if kind == job.kind and worker.process.poll() is None:
                return worker
            worker.end()
        worker, self.waiting = self.waiting or Worker.start(), None
        return worker


def _serves_on(job: Job, done: Mapping[str, Any]) -> bool:
    """Whether a process waits for another job: after out of memory or a failure it does not."""
    return job.kind is not None and done.get("stored", False) and done["state"] in SERVES


def follow(worker: Worker, job: Job, progress: SuiteProgress, lost: threading.Event | None = None) -> dict[str, Any]:
    """Gives a process its job, shows its progress, and waits for the job's end.

    The process has ended however this is left, unless it serves on.

    Args:
        worker: The process.
        job: What it is to do.
        progress: Shows events.
        lost: Set where another machine has taken the run over: the process is ended.

    Returns:
        `state`, `message`, `stored` (whether the process stored a record), what it measured of the phase `preload`, and
        by part its `seconds` and `processor` seconds.
    """
    process, kills = worker.process, OomKills(worker.process.pid)
    done: dict[str, Any] = {}
    ended: str | None = None
    serves = False
    try:
        worker.give(job)
        silent = 0.0  # seconds that we waited in vain; those in which we were stopped ourselves (Ctrl-Z) do not count
        while not done and (line := worker.next_line()) is not None:
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
        serves = _serves_on(job, done)
        if not serves:
            worker.leave()
    finally:
        worker.tell(job.log)
        if not serves:
            worker.end()
        progress.show_log(job.log)
    return done or _ending(process.returncode, ended, kills.any_since(), job.log)


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
