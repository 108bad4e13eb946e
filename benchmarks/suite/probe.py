"""What runs will take that nothing stored tells of: a few steps of each kind, timed on this machine."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from benchmarks.errors import one_line
from benchmarks.memory.phases import build_point, run_phases
from benchmarks.memory.point import MemoryPoint
from benchmarks.training.step import forbid_tf32

MOST_STEPS, ENOUGH_SECONDS = 3, 5.0  # timed steps of each kind: as many, or fewer that together take so long

Steps = dict[str, float]  # seconds of a step by phase: preload, train, eval


def probe_points(
    points: Sequence[MemoryPoint], device: torch.device, note: Callable[[str], None]
) -> Iterator[tuple[MemoryPoint, Steps | None]]:
    """Times points one after another; None where one cannot be run here, and a note why.

    Args:
        points: What to time, on random weights and images of the runs' size, which are read from nowhere.
        device: Where.
        note: Is told what goes wrong.
    """
    forbid_tf32()
    for point in points:
        try:
            yield point, probe(point, device)
        except Exception as error:  # out of memory, no such device: an estimate that is missing stops nobody
            note(f"{point.variant} at {point.resolution} px is not probed: {type(error).__name__}: {one_line(error)}")
            yield point, None


def probe(point: MemoryPoint, device: torch.device) -> Steps:
    """Seconds of a step of each phase, the median of a few behind a first one.

    Args:
        point: What to time.
        device: Where.
    """
    seconds: Steps = {}

    def after(phase: str, step: Callable[[], object]) -> None:
        seconds[phase] = _time(step, device)

    def watch(_: str) -> AbstractContextManager[None]:
        return nullcontext()

    run_phases(point, lambda: build_point(point), device, watch, after, steps=1, prepare=False)
    return seconds


def _time(step: Callable[[], object], device: torch.device) -> float:
    found: list[float] = []
    while len(found) < MOST_STEPS and sum(found) < ENOUGH_SECONDS:
        _wait(device)
        started = time.perf_counter()
        step()
        _wait(device)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
