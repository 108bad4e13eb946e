"""The process of one run: reads a job from stdin, writes progress to stdout, stores the record.

`python -m benchmarks.worker` is started by the suite, once a run, never forked. A job is one line of JSON: its task
(`run`, or `preload` for what comes before training), the fields of `RunConfig`, `Places` and `Weights`, the results
folder and the state of the code. Events are lines of JSON.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def main() -> int:
    """Runs the job on stdin; exit status 0 means that it came to an end of which it told."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    from benchmarks.config import Places, RunConfig
    from benchmarks.run import Run  # imports torch, timm and the methods: seconds, taken before the job comes
    from benchmarks.train import Clock
    from benchmarks.weights import Weights

    line = sys.stdin.readline()
    if not line:
        return 1  # the suite has ended
    job = json.loads(line)
    clock = Clock()
    clock.seconds["import"] = time.time() - job["given"]  # what is left of it once there is a job
    places = Places(**_paths(job["places"], "data_root", "cache"))
    weights = Weights(**_paths(job["weights"], "path"))

    def emit(event: str, **fields: Any) -> None:
        try:
            print(json.dumps({"event": event} | fields), file=events, flush=True)
        except BrokenPipeError:
            sys.exit(1)  # the suite was killed: no record, so that the run is missing and done again

    config = RunConfig(**job["config"] | {"lr_grid": tuple(job["config"]["lr_grid"])})
    run = Run(config, places, weights, clock, emit, job["rivals"])
    whole = job["task"] == "run"
    record = _execute(run, run.execute if whole else run.prepare, job, clock)
    if whole:
        _store(Path(job["results"]), record, run)
    status, measured = record["status"], record["measurements"]
    preload = measured.get("preload", {}) | {"cache_bytes": measured.get("cache_bytes")}
    emit("done", state=status["state"], message=status["message"], stored=whole, preload=preload)
    return 0


def _paths(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return fields | {name: Path(fields[name]) for name in names if fields[name] is not None}


def _execute(run: Any, work: Callable[[], object], job: dict[str, Any], clock: Any) -> dict[str, Any]:
    """Runs to the end or to what stops it, and returns the record either way."""
    from benchmarks.environment import describe_environment
    from benchmarks.train import Diverged

    started, begin = datetime.now(UTC), time.perf_counter()
    status: dict[str, Any] = {"state": "ok", "message": None, "phase": None}
    try:
        work()
    except Diverged as error:
        status = {"state": "diverged", "message": str(error), "phase": run.memory.current}
    except MemoryError as error:
        status = {"state": "oom", "message": f"host memory: {error}", "phase": run.memory.current}
    except Exception as error:
        status = _failure(error, run.memory.current)
    with contextlib.suppress(RuntimeError):
        run.finish()
    clock.seconds["total"] = clock.seconds["import"] + time.perf_counter() - begin
    known = sum(seconds for part, seconds in clock.seconds.items() if part != "total")
    clock.seconds["other"] = clock.seconds["total"] - known
    return {
        "schema": 1,
        "run_id": run.config.run_id,
        "status": status,
        "run": {
            "config": asdict(run.config),
            "code": job["code"],
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights": job["weights"],
            "tuning": job["tuning"],
            **run.run,
        },
        "measurements": run.measurements | {"seconds": clock.seconds},
        "environment": describe_environment(run.device),
    }


def _failure(error: Exception, phase: str | None) -> dict[str, Any]:
    import traceback

    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return {"state": "oom", "message": " ".join(str(error).split())[:300], "phase": phase}
    traceback.print_exc()
    return {"state": "failed", "message": " ".join(str(error).split()) or type(error).__name__, "phase": phase}


def _store(results: Path, record: dict[str, Any], run: Any) -> None:
    from benchmarks.records import write_predictions, write_record

    if run.predictions is not None:
        write_predictions(results, record["run_id"], run.predictions)
    write_record(results, record)


if __name__ == "__main__":
    sys.exit(main())
