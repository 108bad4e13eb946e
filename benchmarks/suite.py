"""Runs a plan: one fresh process a run, its record stored before the next one starts."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.environment import describe_code
from benchmarks.plan import Plan, PlannedRun
from benchmarks.progress import SuiteProgress
from benchmarks.records import read_record, write_record
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


def run_suite(plan: Plan, results: Path, policy: str) -> int:
    """Does the runs that are due.

    Returns:
        The exit status: 0, or 1 if a run failed, now or in an earlier suite. Out of memory and divergence are results.

    Raises:
        KeyboardInterrupt: The user stopped it; finished records stay, the run under way is recorded as interrupted.
    """
    states = {run.config.run_id: stored_state(results, run.config.run_id) for run in plan.runs}
    due = [run for run in plan.runs if is_due(states[run.config.run_id], policy)]
    code = describe_code()
    with SuiteProgress(len(due)) as progress, Workers(results) as workers:
        for note in plan.notes:
            progress.note(f"note: {note}")
        progress.note(f"{len(plan.runs)} runs, {len(plan.runs) - len(due)} of them stored already")
        for number, run in enumerate(due, start=1):
            config = run.config
            progress.start(number, f"{config.method} {config.dataset} {config.resolution} px seed {config.seed}")
            worker = workers.take(config.run_id, another=number < len(due))
            states[config.run_id] = _run_in_worker(worker, run, results, code, progress)
    return _report(states, results)


def _report(states: dict[str, str | None], results: Path) -> int:
    failed = [run_id for run_id, state in states.items() if state not in DONE]
    counts = ", ".join(f"{number} {state}" for state, number in sorted(Counter(map(str, states.values())).items()))
    print(f"runs: {counts}; records in {results / 'runs'}", file=sys.stderr)
    if failed:
        print("failed runs are tried again with --retry-failed", file=sys.stderr)
    return 1 if failed else 0


def _run_in_worker(
    worker: Worker, run: PlannedRun, results: Path, code: dict[str, Any], progress: SuiteProgress
) -> str:
    """Has a process do a run, and returns the state of the record that it, or we for it, stored."""
    started = datetime.now(UTC)
    try:
        done = follow(worker, "run", run, results, code, progress)
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
            "weights": json.loads(json.dumps(asdict(run.weights), default=str)),
        },
        "measurements": {},
        "environment": {"device_type": run.config.device_type},
    }
    write_record(results, record)
