"""Runs a plan in processes of their own, the record of a run stored before the next one starts.

Any number of processes may work on one results folder, of one suite or of several, on one machine or on many: each
claims a run before it does it, by a lock file that does not outlive it.
"""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.config import PRIVATE, Disclosure, KeepModels
from benchmarks.environment import describe_code, describe_host
from benchmarks.errors import MachineError
from benchmarks.records.private import private
from benchmarks.records.record import half_replaced, remove_partial, write_record
from benchmarks.records.stored import DONE, StoredStates, trial_results
from benchmarks.storage.files import check_writable, not_writable
from benchmarks.storage.locks import SAY_EVERY, Lock
from benchmarks.suite.known_folders import known_folders
from benchmarks.suite.planned import Cell, Plan, PlannedRun, process_kind
from benchmarks.suite.processes import Job, Workers
from benchmarks.suite.progress import SuiteProgress
from benchmarks.suite.tuning import rivals_of, tuned_runs, val_aucs_of
from benchmarks.training.checkpoint import Checkpoints

LOOK_EVERY = 2.0  # seconds between looks at the runs that another process does


@dataclass(frozen=True)
class Work:
    """A plan to be done, and how; processes that share it may have it each.

    Attributes:
        plan: What to do.
        results: The results folder.
        runs, trials: What is stored already.
        hang_seconds: A run without a sign of life for so long is ended.
        verbose: Whether to show what runs write to their logs.
        at_once: How many processes of this machine work on the plan at once.
        track: The tracker that gets what runs measure.
        disclosure: What records may tell.
        deadline: On the clock of `time.monotonic`, which all processes of a machine share: no run starts after it.
        keep_models: Which trained models are kept.
    """

    plan: Plan
    results: Path
    runs: StoredStates
    trials: StoredStates
    hang_seconds: float
    verbose: bool = False
    at_once: int = 1
    track: str | None = None
    disclosure: Disclosure = PRIVATE
    deadline: float | None = None
    keep_models: KeepModels = "lean"

    @staticmethod
    def make(
        plan: Plan,
        results: Path,
        policy: str,
        hang_minutes: float,
        verbose: bool = False,
        track: str | None = None,
        disclosure: Disclosure = PRIVATE,
        keep_models: KeepModels = "lean",
    ) -> "Work":
        """Notes what is stored at this moment."""
        results = results.resolve()
        runs, trials = StoredStates(results, policy), StoredStates(trial_results(results), policy)
        return Work(plan, results, runs, trials, hang_minutes * 60, verbose, 1, track, disclosure, None, keep_models)

    def stored_of(self, run: PlannedRun) -> StoredStates:
        """Where the record of a run or trial lies."""
        return self.trials if run.config.trial else self.runs

    def num_stored(self) -> int:
        """Trials and runs that are not due; of cells whose trials are to come, nothing is known yet."""
        known = [*self.plan.trials, *(run for cell in self.plan.cells for run in tuned_runs(cell, self.results) or ())]
        return sum(not self.stored_of(run).is_due(run.config.run_id) for run in known)


def run_suite(work: Work) -> None:
    """Does what is due, cell by cell: first the trials, which choose the rate of the runs.

    Raises:
        KeyboardInterrupt: The user stopped it; finished records stay, the run under way is recorded as interrupted.
        MachineError: Records can no longer be stored; those that were are whole.
    """
    for stored in (work.trials, work.runs):
        _clear_up(stored)
    suite = _Suite(work)
    with suite.progress, suite.workers:
        suite.work_through()


def _clear_up(stored: StoredStates) -> None:
    """Finishes what was begun by processes that were killed between storing a record and removing what it replaces."""
    results = stored.folder.parent
    for path in stored.folder.glob(".*.lease"):
        lock = Lock(path)
        if lock.try_acquire():  # its holder has died
            lock.release()
    for run_id in half_replaced(results):
        lock = Lock(stored.folder / f".{run_id}.lease")
        if lock.try_acquire():
            remove_partial(results, run_id)
            lock.release()
    for folder in (results / "checkpoints").glob("*"):
        lock = Lock(stored.folder / f".{folder.name}.lease")
        if stored.state(folder.name) in DONE and lock.try_acquire():
            Checkpoints(results, folder.name, note=print).remove()
            lock.release()


def announce(work: Work) -> None:
    """Says on stderr what there is to do."""
    plan = work.plan
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    num_stored = work.num_stored()
    trials = f"{len(plan.trials)} trials and " if plan.trials else ""
    print(f"{trials}{len(plan.runs)} runs, {num_stored} of them stored already", file=sys.stderr)
    for problem in (*work.trials.damaged.values(), *work.runs.damaged.values()):
        print(f"note: {problem}; this command does so", file=sys.stderr)


def say_states(work: Work) -> tuple[int, set[str]]:
    """Says on stderr how all runs stand.

    Returns:
        The exit status: 0, or 1 if a run failed or is not done, now or in an earlier suite; out of memory and
        divergence are results. And the ids of the runs, without the trials.
    """
    failed = 0
    if work.plan.trials:
        states = [_state_now(work.trials, trial.config.run_id) for trial in work.plan.trials]
        failed = _say_counts("trials", states, trial_results(work.results))
    runs = [run for cell in work.plan.cells for run in tuned_runs(cell, work.results) or cell.runs]
    states = [_state_now(work.runs, run.config.run_id) for run in runs]
    return max(failed, _say_counts("runs", states, work.results)), {run.config.run_id for run in runs}


def _state_now(stored: StoredStates, run_id: str) -> str:
    """The state of a run; where it was to be done again and was not, what is stored from before does not count."""
    state = stored.state(run_id)
    return "not done" if state is None or (state in DONE and stored.is_due(run_id)) else state


def _say_counts(what: str, states: Sequence[str], results: Path) -> int:
    counts = Counter(states)
    text = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    print(f"{what}: {text}; records in {_short(results / 'runs')}", file=sys.stderr)
    if counts["failed"]:
        print(f"failed {what} are tried again with --retry-failed", file=sys.stderr)
    if counts["interrupted"] or counts["not done"]:
        print(f"the same command goes on with {what} that were interrupted or are not done", file=sys.stderr)
    return int(any(state not in DONE for state in counts))


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class _Suite:
    """A suite under way in this process."""

    def __init__(self, work: Work) -> None:
        self.work, self.code = work, describe_code()
        self.in_order = [run for cell in work.plan.cells for run in (*cell.trials, *cell.runs)]
        self.total = len(self.in_order)
        self.left = self.total - work.num_stored()
        self.progress = SuiteProgress(self.total, work.verbose, work.at_once)
        self.workers = Workers()
        self.waiting: dict[str, Lock] = {}  # by run, where another process has it
        self.tried: set[str] = set()  # what ends badly here is for the next command
        self.num_done = 0

    def work_through(self) -> None:
        """Does what no other process does, again and again until nothing is left."""
        cells, said = self._numbered_cells(), 0.0
        while cells:
            before = self.num_done
            cells = [(number, cell) for number, cell in cells if not self._do_cell(number, cell)]
            if not cells or self.num_done > before:
                continue
            if time.monotonic() - said > SAY_EVERY * 6:
                said = time.monotonic()
                names = ", ".join(f"{run_id} ({lock.holder()})" for run_id, lock in list(self.waiting.items())[:3])
                self.progress.note(f"waiting for {len(self.waiting)} that other processes do: {names}")
            time.sleep(LOOK_EVERY)

    def _numbered_cells(self) -> list[tuple[int, Cell]]:
        """The cells, each with the place of its first run in the suite."""
        cells, number = [], 1
        for cell in self.work.plan.cells:
            cells.append((number, cell))
            number += len(cell.trials) + len(cell.runs)
        return cells

    def _do_cell(self, number: int, cell: Cell) -> bool:
        """Does the trials of a cell that are due, then its runs; False where another process has one of them."""
        if self._is_over():
            return True
        results = self.work.results
        done = []
        for place, trial in enumerate(cell.trials, start=number):
            rivals = rivals_of(trial, cell)
            to_come = [rival.config.run_id for rival in rivals if self.work.trials.is_due(rival.config.run_id)]
            if to_come:
                done.append(self.tried.issuperset(to_come))  # then they could not be stored, and it is not done either
            else:
                done.append(self._do(place, trial, val_aucs_of(rivals, results)))
        if not all(done):
            return False
        runs = tuned_runs(cell, results)
        if runs is None and self._is_over():
            return True
        if runs is None:
            name, config = cell.runs[0].name, cell.runs[0].config
            where = f"{name} on {config.dataset} at {config.resolution} px"
            self.progress.note(f"no rate is chosen for {where}: a trial was interrupted or could not be stored")
            return True
        first = number + len(cell.trials)
        done = [self._do(place, run) for place, run in enumerate(runs, start=first)]
        return all(done)

    def _do(self, number: int, run: PlannedRun, rivals: Sequence[Sequence[float]] = ()) -> bool:
        """Does a run if it is due; False where another process has it."""
        stored, run_id = self.work.stored_of(run), run.config.run_id
        if run_id in self.tried or not stored.is_due(run_id):
            self.left -= self.waiting.pop(run_id, None) is not None
            return True
        if self._is_over():
            return True
        lock = self.waiting.setdefault(run_id, Lock(stored.folder / f".{run_id}.lease"))
        if not self._claim(lock):
            return False
        try:
            if not stored.is_due(run_id):  # another process has just done it
                return self._do(number, run)
            del self.waiting[run_id]
            self.tried.add(run_id)
            self._run(number, run, rivals, lock.lost)
        except MachineError as error:
            self.progress.note(f"{run_id} is not stored: {error}")
            check_writable(self.work.results / "runs")
        finally:
            lock.release()
        if lock.lost.is_set():
            self.tried.discard(run_id)
        return not lock.lost.is_set()

    def _is_over(self) -> bool:
        deadline = self.work.deadline
        return deadline is not None and time.monotonic() > deadline

    def _claim(self, lock: Lock) -> bool:
        try:
            return lock.try_acquire()
        except OSError as error:
            raise not_writable(lock.path.parent, error) from error

    def _run(self, number: int, run: PlannedRun, rivals: Sequence[Sequence[float]], lost: threading.Event) -> None:
        """Has a process do a run, and stores the record that it could not store."""
        run_id, stored = run.config.run_id, self.work.stored_of(run)
        results = stored.folder.parent
        remove_partial(results, run_id)
        log = results / "logs" / f"{run_id}.log"
        work, afresh = self.work, stored.policy == "overwrite"
        job = Job(
            "run", run, results, log, self.code, work.hang_seconds, rivals, afresh, work.at_once, work.track,
            work.disclosure, work.keep_models, process_kind(run),
        )  # fmt: skip
        self.num_done += 1
        started = datetime.now(UTC)
        try:
            self.progress.start(number, run.title, log)
            done = self.workers.follow(job, self.progress, lost, another=self._needs_another(number, job.kind))
        except BaseException as error:
            self._record_end(run, stored, started, "interrupted", f"stopped by {_stopped_by(error)}")
            raise
        if not done["stored"] and not lost.is_set():
            self._record_end(run, stored, started, done["state"], done["message"])
            check_writable(
                self.work.results / "runs"
            )  # where there is room for this alone, the next runs would be in vain
        self.left = self.left - 1 if self.work.at_once == 1 else self.total - self.work.num_stored()
        self.progress.finish(done, self.left)

    def _needs_another(self, number: int, kind: str | None) -> bool:
        """Whether what comes after a place in the suite cannot be done by the process that does this kind of run."""
        for run in self.in_order[number:]:
            if run.config.run_id not in self.tried and self.work.stored_of(run).is_due(run.config.run_id):
                return kind is None or process_kind(run) != kind
        return False

    def _record_end(self, run: PlannedRun, stored: StoredStates, started: datetime, state: str, message: str) -> None:
        """Stores a record for a process that stored none; a finished record of the same run stays."""
        before = stored.state(run.config.run_id)
        if before in DONE:
            self.progress.note(f"{run.title}: {state}; the result of before stays as it is ({before})")
            return
        host = describe_host(self.work.disclosure.record_host)
        record = _record_of_end(run, self.code, started, state, message, host)
        results = stored.folder.parent
        write_record(results, private(record, known_folders(run.places, run.weights, results)))


def _stopped_by(error: BaseException) -> str:
    """In words; submitit exits where a cluster's time is over."""
    return "the cluster, to be queued again" if isinstance(error, SystemExit) else str(error) or type(error).__name__


def _record_of_end(
    run: PlannedRun, code: dict[str, Any], started: datetime, state: str, message: str, host: dict[str, str]
) -> dict[str, Any]:
    """The record of a run that did not come far enough to have one of its own."""
    return {
        "schema": 1,
        "run_id": run.config.run_id,
        "status": {"state": state, "message": message, "phase": None},
        "run": {
            "config": asdict(run.config),
            "code": code,
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "tuning": run.tuning,
            **({"stopping": run.stopping} if run.stopping else {}),
            "weights": json.loads(json.dumps(asdict(run.weights), default=str)),
        },
        "measurements": {},
        "environment": {"device_type": run.config.device_type} | host,
    }
