"""The process of a run, or of several one after another: reads a job from stdin, writes progress to stdout, stores.

`python -m benchmarks.suite.worker PID` is started by the suite, which has that PID, never forked. Each of several runs
gives, to the bit, what it gives in a process of its own; `benchmarks.suite.planned.process_kind` says which share one,
and the record says whether its process was `fresh` or `reused`. The process ends with its stdin. A job is one line of
JSON: its task (`run`, or `preload` for what comes before training), the fields of `RunConfig`, `Places` and
`Weights`, the results folder, the log and the state of the code. Events are lines of JSON. All that is printed goes to
the log.
"""

import contextlib
import ctypes
import errno
import faulthandler
import gc
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PARENT_DEATH_SIGNAL = 1  # Linux: prctl's PR_SET_PDEATHSIG


def main() -> int:
    """Does the jobs on stdin; exit status 0 means that each came to an end of which it told."""
    _die_with_parent()
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)  # SLURM sends them to every process; what they mean is the suite's affair
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    gc.disable()  # it would take a quarter of the time of these imports, and find nothing
    from benchmarks.errors import UserError
    from benchmarks.plugins import check_unchanged, load_plugins
    from benchmarks.suite.devices import resolve_device
    from benchmarks.suite.progress import describe

    # All that trains, before there is a job: the record says which code this process has, not what a file holds later.
    from benchmarks.suite.run import Run  # noqa: F401
    from benchmarks.training.clock import Clock

    gc.enable()
    gc.freeze()  # what was imported stays, and need not be looked at again

    def emit(event: str, **fields: Any) -> None:
        text = describe({"event": event} | fields)
        if text is not None:
            with contextlib.suppress(OSError):  # a full disk costs lines of the log, not the run
                print(f"{datetime.now():%H:%M:%S} {text}", flush=True)
        try:
            events.write(json.dumps({"event": event} | fields) + "\n")  # whole: what reads ahead in a thread emits too
        except BrokenPipeError:
            sys.exit(1)  # the suite was killed: no record, so that the run is missing and goes on another time

    reused = False
    while line := sys.stdin.readline():
        job = json.loads(line)
        clock = Clock(time.monotonic() - job["given"])  # what is left of importing once there is a job
        _open_log(Path(job["log"]))
        try:
            resolve_device(job["places"]["device"])  # a cluster's nodes are not the machine where the suite was planned
            load_plugins(map(Path, job["places"]["plugins"]))
            check_unchanged(job["config"]["plugins"])
            done = _do(job, clock, emit, reused)
        except UserError as error:
            done = {"state": "failed", "message": f"{error} ({platform.node()})", "stored": False}
        emit("done", **done)
        _give_back()
        reused = True
    return 0


def _give_back() -> None:
    """Gives back what a job has held, so that the next begins as in a fresh process, but for what is imported."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of the GNU C library
        trim(0)


def _do(job: dict[str, Any], clock: Any, emit: Callable[..., None], reused: bool = False) -> dict[str, Any]:
    """Does the job, in a process that has done another if it is reused; returns what the suite is to know."""
    from benchmarks.config import Disclosure, Places, RunConfig
    from benchmarks.errors import UserError
    from benchmarks.model.resolved_weights import Weights
    from benchmarks.records.private import private
    from benchmarks.storage.notes import heard_by
    from benchmarks.suite.known_folders import known_folders
    from benchmarks.suite.name_hashing import NameHashing
    from benchmarks.suite.run import Run
    from benchmarks.suite.tracking import Tracking
    from benchmarks.training.checkpoint import Checkpoints

    notes: list[str] = []

    def note(text: str) -> None:
        emit_and_track("note", text=text)

    def emit_and_track(event: str, **fields: Any) -> None:
        if event == "note":
            notes.append(fields["text"])
        emit(event, **fields)
        if event == "epoch":
            tracking.log(fields, fields["epoch"])

    config = RunConfig(**{name: _as_tuples(value) for name, value in job["config"].items()})
    files = tuple(map(Path, job["places"]["plugins"]))
    places = Places(**_paths(job["places"], "data_root", "cache") | {"plugins": files})
    weights = Weights(**_paths(job["weights"], "path"))
    results, whole = Path(job["results"]), job["task"] == "run"
    disclosure = Disclosure(**job["disclosure"])
    try:
        names = NameHashing.of(places) if disclosure.hash_names and whole else None
    except UserError as error:
        return {"state": "failed", "message": str(error), "stored": False}
    tracking = Tracking(job["track"] if whole else None, results, config.run_id, job["config"], note)
    checkpoints = Checkpoints(results, config.run_id, note)
    if job["afresh"]:
        checkpoints.remove()
    keep = whole and job["keep_models"] != "none"
    run = Run(config, places, weights, clock, emit_and_track, job["rivals"], checkpoints, keep, measures=not reused)
    with heard_by(note):
        record = _execute(run, run.execute if whole else run.prepare, job, clock, disclosure.record_host)
    record["environment"]["process"] = "reused" if reused else "fresh"
    tracking.finish(record)
    record["run"]["notes"] = notes
    if names is not None:
        record, run.probabilities = names.apply(record, run.probabilities)
    measured, status = record["measurements"], record["status"]
    stored = False
    if whole:
        try:
            record = private(record, known_folders(places, weights, results))
            with clock("store"):
                stored = _store(results, record, run, job["keep_models"])
        except UserError as error:
            return {"state": "failed", "message": str(error), "stored": False}
        if status["state"] != "failed":
            checkpoints.remove()  # a run that failed goes on from them when it is tried again
    preload = measured.get("preload", {}) | {"cache_bytes": measured.get("cache_bytes")}
    return {
        **{"state": status["state"], "message": status["message"], "stored": stored, "preload": preload},
        **{"seconds": clock.seconds, "processor": clock.processor},
    }


def _die_with_parent() -> None:
    """Has the system end this process with the one that started it: a run without its suite would hold the GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            sys.exit(1)  # it has died meanwhile


def _open_log(path: Path) -> None:
    """Appends to the log from here on; SIGUSR1 writes there what every thread is doing."""
    from benchmarks.storage.modes import make_folder, open_private

    make_folder(path.parent)
    log = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    print(
        f"--- {datetime.now().astimezone().isoformat(timespec='seconds')}, process {os.getpid()} on {platform.node()}"
    )


def _as_tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a configuration has."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _paths(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return fields | {name: Path(fields[name]) for name in names if fields[name] is not None}


def _execute(
    run: Any, work: Callable[[], object], job: dict[str, Any], clock: Any, record_host: bool
) -> dict[str, Any]:
    """Runs to the end or to what stops it, and returns the record either way."""
    from benchmarks.environment import describe_environment, trained_by
    from benchmarks.training.loop import Diverged
    from methods import METHODS

    started = datetime.now(UTC)
    status: dict[str, Any] = {"state": "ok", "message": None, "phase": None}
    try:
        work()
    except Diverged as error:
        status = {"state": "diverged", "message": str(error), "phase": run.memory.current}
    except Exception as error:
        status = _failure(error, run.memory.current)
    with contextlib.suppress(RuntimeError):
        run.finish()
    known, total = sum(clock.seconds.values()), clock.total()
    return {
        "schema": 1,
        "run_id": run.config.run_id,
        "status": status,
        "run": {
            "config": asdict(run.config),
            "code": job["code"] | trained_by(METHODS[run.config.method].build.__module__),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights": job["weights"],
            "tuning": job["tuning"],
            **({"stopping": job["stopping"]} if job["stopping"] else {}),
            **run.run,
        },
        "measurements": run.measurements | {"seconds": clock.seconds | {"other": total - known, "total": total}},
        "environment": describe_environment(run.device, record_host) | {"runs_at_once": job["at_once"]},
    }


# What torch raises as a plain RuntimeError where memory ends: its allocator and a mapped file on a host, cuBLAS and the
# driver on a GPU.
_NO_HOST_MEMORY = ("DefaultCPUAllocator", "Cannot allocate memory")
_NO_GPU_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def _failure(error: Exception, phase: str | None) -> dict[str, Any]:
    import traceback

    import torch

    message = " ".join(str(error).split())
    no_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if no_memory or any(part in message for part in _NO_HOST_MEMORY):
        return {"state": "oom", "message": f"host memory: {message[:300]}", "phase": phase}
    if isinstance(error, torch.OutOfMemoryError) or any(part in message for part in _NO_GPU_MEMORY):
        return {"state": "oom", "message": f"GPU memory: {message[:300]}", "phase": phase}
    with contextlib.suppress(OSError):
        traceback.print_exc()
    return {"state": "failed", "message": message or type(error).__name__, "phase": phase}


def _store(results: Path, record: dict[str, Any], run: Any, keep_models: Any) -> bool:
    """Stores the record, unless the run failed and there is one of a time when it did not; says whether it did."""
    from benchmarks.inference.stored_models import store_with_model
    from benchmarks.records.stored import DONE, StoredStates

    if record["status"]["state"] not in DONE and StoredStates(results, "only-missing").state(record["run_id"]) in DONE:
        return False
    store_with_model(results, record, run.probabilities, run.kept, keep_models)
    return True


if __name__ == "__main__":
    sys.exit(main())
