"""Measured memory and speed of points on a GPU: a fresh process for each, one at a time, one record each.

`python -m benchmarks.memory.measure` is the process of one point. It imports and builds on the host ahead of time,
while the point before is still measured, and touches the GPU only when it is told to start.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.environment import ROOT, describe_code, describe_environment
from benchmarks.memory.measured import SCHEMA, Record, record_path, write_record
from benchmarks.memory.phases import build_point, point_resolution, run_phases
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import preload_batch_size
from benchmarks.model.build import Parts
from benchmarks.plugins import load_plugins, loaded_plugins
from benchmarks.storage.files import read_regular
from benchmarks.training.peak_memory import NvmlDriver, PhaseMemory, check_idle, host_peak_bytes
from benchmarks.training.step import forbid_tf32

BURN_IN = 3  # steps before the clock starts; those of the memory loop come on top
TIMED_SECONDS = 1.0  # a step is repeated for about this long
TIMED_STEPS = (3, 50)  # at least, at most
TIMEOUT = 300  # seconds for one point
AHEAD = 5  # processes that import while another measures


def gpu_folder(results: Path, device: torch.device) -> Path:
    """Where the records of this GPU lie."""
    return results / "measured" / re.sub(r"[^a-z0-9]+", "-", NvmlDriver(device).name().lower()).strip("-")


def measure_points(
    points: Sequence[MemoryPoint],
    folder: Path,
    device: torch.device,
    cache: Path,
    allow_busy: bool = False,
    record_host: bool = False,
) -> Iterator[Record]:
    """Measures points one after another; yields each record once it is stored.

    Args:
        points: What to measure.
        folder: Where records go.
        device: A GPU.
        cache: Folder of caches, where predictions are kept.
        allow_busy: Whether other processes may hold memory on it.
        record_host: Whether records name the machine.

    Raises:
        RuntimeError: Another process holds memory on the GPU.
    """
    if not allow_busy:
        check_idle(NvmlDriver(device))
    waiting, started = list(points), deque[tuple[MemoryPoint, subprocess.Popen[str]]]()
    try:
        while waiting or started:
            while waiting and len(started) <= min(AHEAD, (os.cpu_count() or 1) // 2):
                started.append((waiting[0], _start(waiting.pop(0), folder, device, cache, record_host)))
            point, process = started.popleft()
            yield _finish(point, process, folder)
    finally:
        for _, process in started:
            process.kill()
            process.communicate()


def _start(
    point: MemoryPoint, folder: Path, device: torch.device, cache: Path, record_host: bool
) -> subprocess.Popen[str]:
    job: Record = {"point": point.as_dict(), "path": str(_made(record_path(folder, point))), "device": str(device)}
    job |= {"plugins": list(map(str, loaded_plugins())), "record_host": record_host, "cache": str(cache.resolve())}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.memory.measure", json.dumps(job)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(point: MemoryPoint, process: subprocess.Popen[str], folder: Path) -> Record:
    """Lets a process measure, and stores the record it made; a process that made none leaves a failed one.

    What was measured before stays until there is more than a failure to put in its place.
    """
    path = record_path(folder, point)
    made = _made(path)
    made.unlink(missing_ok=True)
    try:
        _, errors = process.communicate("go\n", timeout=TIMEOUT)
        message = (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        message = f"took longer than {TIMEOUT} s"
    if not made.exists():
        status = {"state": "failed", "message": message, "phase": None}
        write_record(made, {"schema": SCHEMA, "point": point.as_dict(), "status": status})
    record: Record = json.loads(read_regular(made))
    if record["status"]["state"] == "failed" and path.exists():
        made.unlink()
        record["status"]["message"] = f"{record['status']['message']}; what was measured before stays"
    else:
        made.replace(path)
    return record


def _made(path: Path) -> Path:
    """Where a record waits to take its place."""
    return path.with_name(f".{path.name}.new")


def measure(
    point: MemoryPoint,
    device: torch.device,
    make: Callable[[], Parts],
    record_host: bool = False,
    images_at_once: int | None = None,
) -> Record:
    """Measures a point in this process, which must not have used the device before.

    Out of memory is a result: the record then holds the phases before it. So is any other error of a step.

    Args:
        point: What to measure.
        device: Where.
        make: Returns the point's parts on the host, and keeps no reference to them; they move as those of a run.
        record_host: Whether the record names the machine.
        images_at_once: That are preloaded; None for as many as a step of training has.
    """
    forbid_tf32()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    memory = PhaseMemory(device)
    seconds: dict[str, float] = {}
    status: Record = {"state": "ok", "message": None, "phase": None}

    def after(phase: str, step: Callable[[], object]) -> None:
        seconds[phase] = time_step(step, device)

    try:
        run_phases(point, make, device, memory.phase, after, images_at_once=images_at_once)
    except Exception as error:  # whatever stops a point is its result; the next point runs
        state = "oom" if isinstance(error, torch.OutOfMemoryError) else "failed"
        message = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        status = {"state": state, "message": message, "phase": memory.current}
    return {
        "schema": SCHEMA,
        "point": point.as_dict(),
        "effective_resolution": point_resolution(point),
        "status": status,
        "memory": memory.record(),
        "host_peak_bytes": host_peak_bytes(),
        "seconds_per_step": seconds,
        "images_per_second": {
            phase: ((phase == "preload" and images_at_once) or point.batch_size) / value
            for phase, value in seconds.items()
        },
        "preload_batch_size": images_at_once,
        "started": started,
        "code": describe_code(),
        "environment": describe_environment(device, record_host) | allocator_settings(),
    }


def allocator_settings() -> Record:
    """Settings from outside that change what the allocator and the libraries take."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")
    return {"allocator": {name: os.environ.get(name) for name in names}}


def time_step(step: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a step after a burn-in, each waited for; long steps are repeated less often."""
    first = _seconds(step, device)
    for _ in range(BURN_IN - 1 if first < TIMED_SECONDS else 0):
        step()
    repeats = min(max(int(TIMED_SECONDS / first), TIMED_STEPS[0]), TIMED_STEPS[1])
    return statistics.median(_seconds(step, device) for _ in range(repeats))


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def main() -> int:
    """The process of one point: the job is its argument, a line on stdin starts it."""
    job = json.loads(sys.argv[1])
    load_plugins(map(Path, job["plugins"]))
    point = MemoryPoint.from_dict(job["point"])
    parts = [build_point(point)]
    images_at_once = preload_batch_size(point, Path(job["cache"]))
    if not sys.stdin.readline():
        return 1
    record = measure(point, torch.device(job["device"]), parts.pop, job["record_host"], images_at_once)
    write_record(Path(job["path"]), record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
