"""Runs a plan: one fresh process a run, its record stored before the next one starts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT, describe_code
from benchmarks.plan import Plan, PlannedRun
from benchmarks.progress import SuiteProgress
from benchmarks.records import read_record, write_record

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


class Workers:
    """Fresh processes, one a run. While one runs, the next already imports, and waits for its job.

    Args:
        results: What a process prints goes to `runs/<run_id>.log` there.
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

    def take(self, run_id: str, another: bool) -> "tuple[subprocess.Popen[str], Path]":
        """A process for a run, with its log; `another` starts the one after it."""
        process = self.waiting or self._start()
        log = self._log(process).rename(self.folder / f"{run_id}.log")
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


def _report(states: dict[str, str | None], results: Path) -> int:
    failed = [run_id for run_id, state in states.items() if state not in DONE]
    counts = ", ".join(f"{number} {state}" for state, number in sorted(Counter(map(str, states.values())).items()))
    print(f"runs: {counts}; records in {results / 'runs'}", file=sys.stderr)
    if failed:
        print("failed runs are tried again with --retry-failed", file=sys.stderr)
    return 1 if failed else 0


def _run_in_worker(
    worker: "tuple[subprocess.Popen[str], Path]",
    run: PlannedRun,
    results: Path,
    code: dict[str, Any],
    progress: SuiteProgress,
) -> str:
    """Has a process do a run, and returns the state of the record that it, or we for it, stored."""
    process, log = worker
    started = datetime.now(UTC)
    done: dict[str, Any] = {}
    with process:
        try:
            _give_job(process, run, results, code)
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
            _record_end(run, results, code, started, "interrupted", "stopped by the user")
            log.unlink()
            raise
    if not done:
        done = {"state": "failed", "message": f"{_ending(process.returncode)}; see {log}"}
        _record_end(run, results, code, started, "failed", done["message"])
    elif done["state"] != "failed":
        log.unlink()
    detail = f" ({done['message']})" if done["message"] else ""
    progress.finish(f"{done['state']}{detail}")
    return str(done["state"])


def _give_job(process: "subprocess.Popen[str]", run: PlannedRun, results: Path, code: dict[str, Any]) -> None:
    job = {
        "config": asdict(run.config),
        "places": asdict(run.places),
        "weights": asdict(run.weights),
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
