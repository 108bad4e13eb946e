"""Hands a suite to several processes of this machine, through submitit's local executor.

Each of them does what `run_suite` does alone, with the whole plan and a GPU of its own; what keeps two from doing the
same run are its claims. Training one run on several GPUs, where a batch does not fit on one, is not in here.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import submitit
from submitit.helpers import DelayedSubmission

from benchmarks.environment import ROOT
from benchmarks.errors import mendable, one_line
from benchmarks.storage.modes import make_folder
from benchmarks.suite.crash import report_crash
from benchmarks.suite.planned import Cell, Plan, PlannedRun
from benchmarks.suite.signals import Stop
from benchmarks.suite.slurm_queue import FOLDER
from benchmarks.suite.suite import Work, run_suite

LOOK_EVERY = 0.5  # seconds
NO_LIMIT = 10**7  # minutes: a suite ends when it is done


@dataclass
class Agent:
    """What a process does that submitit starts, here or in a cluster.

    Attributes:
        work: Its share of the suite.
        environment: Variables to set first.
        submitter: The process that waits for it, as (pid, time of its start): once that has ended, or made the file
            `stop`, this stops too. None in a cluster, where nobody waits.
        stop: See there.
    """

    work: Work
    environment: dict[str, str] = field(default_factory=dict)
    submitter: tuple[int, float] | None = None
    stop: Path | None = None

    def __call__(self) -> None:
        """Does what is due; what goes wrong is told by records and by a line on stderr."""
        os.environ.update(self.environment)
        if self.submitter is not None:
            signal.signal(signal.SIGHUP, _stop)
            threading.Thread(target=self._watch, daemon=True).start()
        try:
            run_suite(self.work)
        except Stop:
            return
        except Exception as error:
            if mendable(error):
                print(f"bench.py: {one_line(error)}", file=sys.stderr, flush=True)
            else:
                report_crash(error, self.work.results)

    def checkpoint(self) -> DelayedSubmission:
        """What a cluster is to queue again when its time is over: the same, which goes on from the last epoch."""
        return DelayedSubmission(self)

    def _watch(self) -> None:
        assert self.submitter is not None and self.stop is not None
        while _lives(*self.submitter) and not self.stop.exists():
            time.sleep(LOOK_EVERY)
        os.kill(os.getpid(), signal.SIGHUP)  # ends what the main thread does


def _stop(signum: int, _: object) -> None:
    raise Stop(signum)


def _lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_in_processes(work: Work, devices: Sequence[str]) -> None:
    """Does what is due in several processes, and waits for them, showing what they say.

    Args:
        work: The whole suite.
        devices: One for each process; of GPUs each stands there once, so that it has one run at a time.

    Raises:
        KeyboardInterrupt: The user stopped it; the processes have ended.
    """
    make_folder(work.results / FOLDER)
    with tempfile.TemporaryDirectory(prefix="local-", dir=work.results / FOLDER) as name:
        folder = Path(name)
        with _deaf_to_signals():  # they end after us, each once its run is recorded as interrupted
            jobs = _start(work, devices, folder)
        shown = {job.paths.stderr: 0 for job in jobs}
        try:
            while not all(job.done() for job in jobs):
                _show(shown)
                time.sleep(LOOK_EVERY)
        finally:
            (folder / "stop").touch()
            while not all(job.done() for job in jobs):
                time.sleep(LOOK_EVERY)
            _show(shown)


def _start(work: Work, devices: Sequence[str], folder: Path) -> list[submitit.Job[None]]:
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=NO_LIMIT)
    submitter = (os.getpid(), psutil.Process().create_time())
    jobs = []
    with importable():
        for device in devices:
            environment, own = _alone(device, len(devices))
            share = dataclasses.replace(work, plan=on_device(work.plan, own), at_once=len(devices))
            jobs.append(executor.submit(Agent(share, environment, submitter, folder / "stop")))
    return jobs


def _alone(device: str, num_processes: int) -> tuple[dict[str, str], str]:
    """Variables with which a process sees nothing but its device, and the name that this has there."""
    kind, _, index = device.partition(":")
    if kind == "cpu":
        threads = max(1, (os.cpu_count() or 1) // num_processes)
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}, "cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[int(index)] if visible else index}, "cuda:0"


def on_device(plan: Plan, device: str) -> Plan:
    """The same plan on another device."""

    def moved(runs: list[PlannedRun]) -> list[PlannedRun]:
        return [dataclasses.replace(run, places=dataclasses.replace(run.places, device=device)) for run in runs]

    return dataclasses.replace(plan, cells=[Cell(moved(cell.trials), moved(cell.runs)) for cell in plan.cells])


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Has processes that start in here find our modules, from whatever folder the user works in."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Has processes that start in here ignore what a terminal sends to all of a group; we tell them to stop."""
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _show(shown: dict[Path, int]) -> None:
    """Prints to stderr what has come to each file since; `shown` counts the bytes of each."""
    for path, done in shown.items():
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(done)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            shown[path] += len(whole)
            print(whole.decode(errors="replace"), end="", file=sys.stderr, flush=True)
