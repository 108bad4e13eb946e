"""Runs a plan: one fresh process a run, its record stored before the next one starts."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.environment import describe_code
from benchmarks.plan import Cell, Plan, PlannedRun
from benchmarks.progress import SuiteProgress
from benchmarks.records import read_record, write_record
from benchmarks.tuning import rivals_of, trial_results, tuned_runs
from benchmarks.workers import Worker, Workers, follow

DONE = ("ok", "oom", "diverged")  # results; failed and interrupted runs are none


def stored_state(results: Path, run_id: str) -> str | None:
    """The state of a run's stored record, None where there is none or it cannot be read."""
    try:
        return str(read_record(results / "runs" / f"{run_id}.json")["status"]["state"])
    except (FileNotFoundError, ValueError):
        return None


def is_due(state: str | None, policy: str) -> bool:
    """Whether a run is to be done.

    Args:
        state: Of its stored record, None without one.
        policy: `only-missing` does what has no record or was interrupted, `retry-failed` also what failed,
            `overwrite` everything.
    """
    if policy == "overwrite" or state in (None, "interrupted"):
        return True
    return policy == "retry-failed" and state not in DONE


def run_suite(plan: Plan, results: Path, policy: str) -> tuple[int, set[str]]:
    """Does the trials and runs that are due, cell by cell: first the trials, which choose the rate of the runs.

    Returns:
        The exit status: 0, or 1 if a run failed, now or in an earlier suite. Out of memory and divergence are results.
        And the ids of the runs, without the trials.

    Raises:
        KeyboardInterrupt: The user stopped it; finished records stay, the run under way is recorded as interrupted.
    """
    job = _Suite(plan, results, policy)
    with job.progress, job.workers:
        for note in plan.notes:
            job.progress.note(f"note: {note}")
        job.progress.note(
            f"{len(plan.trials)} trials and {len(plan.runs)} runs, {job.num_stored} of them stored already"
        )
        for cell in plan.cells:
            job.do_cell(cell)
    failed = _report("trials", job.trial_states, trial_results(results)) if plan.trials else 0
    return max(failed, _report("runs", job.run_states, results)), set(job.run_states)


class _Suite:
    """A suite under way.

    Attributes:
        run_states, trial_states: Of each run and trial by id.
        num_stored: What was there already; of cells with trials to come, nothing is known yet.
    """

    def __init__(self, plan: Plan, results: Path, policy: str) -> None:
        self.results, self.policy, self.code = results, policy, describe_code()
        self.run_states: dict[str, str | None] = {}
        self.trial_states: dict[str, str | None] = {}
        known = [(run, trial_results(results)) for run in plan.trials]
        known += [(run, results) for cell in plan.cells for run in tuned_runs(cell, results) or ()]
        self.num_stored = sum(not self._due(run, where) for run, where in known)
        self.left = len(plan.trials) + len(plan.runs) - self.num_stored
        self.number = 0
        self.progress = SuiteProgress(self.left)
        self.workers = Workers(results)

    def _due(self, run: PlannedRun, where: Path) -> bool:
        return is_due(stored_state(where, run.config.run_id), self.policy)

    def do_cell(self, cell: Cell) -> None:
        """Does the trials of a cell that are due, then its runs."""
        for trial in cell.trials:
            rivals = rivals_of(trial, cell, self.results) if trial.config.stop_hopeless else []
            state = self._do(trial, trial_results(self.results), f"trial lr {trial.config.lr:g}", rivals)
            self.trial_states[trial.config.run_id] = state
        runs = tuned_runs(cell, self.results)
        assert runs is not None  # every trial has a record by now
        for run in runs:
            self.run_states[run.config.run_id] = self._do(run, self.results, "", [])

    def _do(self, run: PlannedRun, where: Path, what: str, rivals: Sequence[Sequence[float]]) -> str | None:
        config = run.config
        if not self._due(run, where):
            return stored_state(where, config.run_id)
        self.number += 1
        title = f"{config.method} {config.dataset} {config.resolution} px seed {config.seed} {what}".rstrip()
        self.progress.start(self.number, title)
        log = where / "runs" / f"{config.run_id}.log"
        worker = self.workers.take(log, another=self.number < self.left)
        return _run_in_worker(worker, run, where, self.code, self.progress, rivals)


def _report(what: str, states: dict[str, str | None], results: Path) -> int:
    failed = [run_id for run_id, state in states.items() if state not in DONE]
    counts = ", ".join(f"{number} {state}" for state, number in sorted(Counter(map(str, states.values())).items()))
    print(f"{what}: {counts}; records in {results / 'runs'}", file=sys.stderr)
    if failed:
        print(f"failed {what} are tried again with --retry-failed", file=sys.stderr)
    return 1 if failed else 0


def _run_in_worker(
    worker: Worker,
    run: PlannedRun,
    results: Path,
    code: dict[str, Any],
    progress: SuiteProgress,
    rivals: Sequence[Sequence[float]],
) -> str:
    """Has a process do a run, and returns the state of the record that it, or we for it, stored."""
    started = datetime.now(UTC)
    try:
        done = follow(worker, "run", run, results, code, progress, rivals)
    except KeyboardInterrupt:
        _record_end(run, results, code, started, "interrupted", "stopped by the user")
        raise
    if not done["stored"]:
        _record_end(run, results, code, started, done["state"], done["message"])
    return str(done["state"])


def _record_end(
    run: PlannedRun, results: Path, code: dict[str, Any], started: datetime, state: str, message: str
) -> None:
    """Stores a record for a process that could not; a finished record of the same run stays."""
    run_id = run.config.run_id
    if stored_state(results, run_id) in DONE:
        return
    record = {
        "schema": 1,
        "run_id": run_id,
        "status": {"state": state, "message": message, "phase": None},
        "run": {
            "config": asdict(run.config),
            "code": code,
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "tuning": run.tuning,
            "weights": json.loads(json.dumps(asdict(run.weights), default=str)),
        },
        "measurements": {},
        "environment": {"device_type": run.config.device_type},
    }
    write_record(results, record)
