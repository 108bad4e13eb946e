"""Predicted memory of a point: the method's own steps on fake tensors, every storage followed. No GPU, no weights."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.allocator import Block, CachingAllocator
from benchmarks.cuda_kernels import CudaSemantics
from benchmarks.model import Parts
from benchmarks.phases import MemoryPoint, build_point, run_phases
from benchmarks.trace import StorageTrace
from methods.contract import few_chunks

CONTEXT_BYTES = 758 * 2**20  # CUDA context and loaded kernels: as measured on an H100, driver 580, CUDA 13.0
MANY = 12  # points from which a second process is worth its start

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class PhasePeak:
    """Predicted peaks of a phase, in bytes.

    Attributes:
        allocated: As torch.cuda.max_memory_allocated counts.
        reserved: Segments of the allocator.
        process: What the driver would report: an estimate, `reserved` and a CUDA context.
        breakdown: What is allocated at the peak, by purpose; sums to `allocated`.
    """

    allocated: int
    reserved: int
    process: int
    breakdown: dict[str, int]


@dataclass(frozen=True)
class Prediction:
    """Predicted memory of a point, phase by phase; without an extractor to preload there is no phase `preload`."""

    point: MemoryPoint
    phases: dict[str, PhasePeak]

    def as_record(self) -> dict[str, Any]:
        """As records hold it."""
        phases = {
            name: {
                "peak_allocated_bytes": peak.allocated,
                "peak_reserved_bytes": peak.reserved,
                "peak_process_bytes": peak.process,
                "breakdown": peak.breakdown,
            }
            for name, peak in self.phases.items()
        }
        return {"source": "predicted", "phases": phases}


def predict_memory(point: MemoryPoint, make_parts: Callable[[MemoryPoint], Parts] = build_point) -> Prediction:
    """Predicts the peak memory of each phase of a point on an NVIDIA GPU; about a second on a CPU.

    Args:
        point: The setting.
        make_parts: Makes the parts on random weights; another than the method's own for comparisons.
    """
    trace = StorageTrace()
    bounds: dict[str, tuple[int, int]] = {}

    with torch.device("meta"):
        on_meta = [make_parts(point)]  # outside the fake mode, in which timm's initialisation would need values

    def build() -> Parts:
        parts = on_meta.pop()  # the last reference: an extractor that leaves the device is to be gone
        for part in (parts.model, parts.extractor):
            if part is not None:
                part._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
                trace.watch_model(part)
        return parts

    @contextmanager
    def watch(phase: str) -> Iterator[None]:
        begin = len(trace.events)
        yield
        bounds[phase] = (begin, len(trace.events))

    def make_state(optimizer: torch.optim.Optimizer) -> None:
        """As the first step would: the one step of the trace is then as any later one."""
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        for state in optimizer.state.values():
            for tensor in state.values():
                trace.tag(tensor, "optimizer_state")

    with warnings.catch_warnings(), few_chunks(), FakeTensorMode(), trace, trace.watch_modules(), CudaSemantics():
        warnings.simplefilter("ignore")
        run_phases(point, build, torch.device("cpu"), watch, _no_timing, steps=1, before_training=make_state)
    return Prediction(point, replay(trace.events, trace.tags, bounds))


def predict_many(points: Sequence[MemoryPoint]) -> Iterator[Prediction]:
    """Predicts points in order."""
    return map_points(predict_memory, points)


def map_points(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """Applies a function that predicts to each job, in order, in two processes where there are many jobs."""
    if len(jobs) < MANY:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, jobs)


def _no_timing(phase: str, step: Callable[[], object]) -> None:
    """What `measure` does behind each phase, and a prediction does not."""


def replay(
    events: list[tuple[int, int]], tags: dict[int, str], bounds: dict[str, tuple[int, int]]
) -> dict[str, PhasePeak]:
    """Runs a trace through the CUDA allocator.

    Args:
        events: As `StorageTrace.events`.
        tags: As `StorageTrace.tags`.
        bounds: For each phase its first event, and the one behind its last.
    """
    allocator = CachingAllocator()
    live: dict[int, Block] = {}
    sizes: dict[int, int] = {}

    def apply(storage: int, size: int) -> None:
        if size < 0:
            allocator.free(live.pop(storage))
        else:
            live[storage] = allocator.malloc(size)
            sizes[storage] = live[storage].size

    peaks, position = {}, 0
    for phase, (begin, end) in bounds.items():
        for event in events[position:begin]:
            apply(*event)
        allocator.empty_cache()
        allocated, reserved, peak = allocator.allocated, allocator.reserved, begin
        for index in range(begin, end):
            apply(*events[index])
            reserved = max(reserved, allocator.reserved)
            if allocator.allocated > allocated:
                allocated, peak = allocator.allocated, index + 1
        breakdown = _breakdown(events[:peak], sizes, tags)
        peaks[phase] = PhasePeak(allocated, reserved, reserved + CONTEXT_BYTES, breakdown)
        position = end
    return peaks


def _breakdown(events: list[tuple[int, int]], sizes: dict[int, int], tags: dict[int, str]) -> dict[str, int]:
    """Bytes by purpose of what is live after `events`, the largest first."""
    live: set[int] = set()
    for storage, size in events:
        if size < 0:
            live.remove(storage)
        else:
            live.add(storage)
    totals: dict[str, int] = {}
    for storage in live:
        totals[tags[storage]] = totals.get(tags[storage], 0) + sizes[storage]
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
