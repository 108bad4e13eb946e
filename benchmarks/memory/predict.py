"""Predicted memory of a point: the method's own steps on fake tensors, every storage followed. No GPU, no weights."""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, NoReturn, TypeVar
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from benchmarks.errors import UserError
from benchmarks.memory.allocator import Block, CachingAllocator
from benchmarks.memory.cuda_kernels import CudaSemantics
from benchmarks.memory.fold import FoldRepeats
from benchmarks.memory.needs import CONTEXT_BYTES
from benchmarks.memory.phases import After, build_point, run_phases, views_of
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.trace import StorageTrace
from benchmarks.model.build import Parts
from benchmarks.plugins import load_plugins, loaded_plugins

STEPS = 3  # of training, as many as are measured: state that the first one makes lies among what it then releases
MANY = 12  # points from which a second process is worth its start

Job = TypeVar("Job")
Result = TypeVar("Result")


class PredictionError(RuntimeError):
    """The memory of a point cannot be predicted, as where a forward pass reads a value: fake tensors have none.

    Args:
        point: What was to be predicted.
        reason: What stands in the way.
    """

    def __init__(self, point: MemoryPoint, reason: str) -> None:
        super().__init__(point, reason)
        self.point, self.reason = point, reason

    def __str__(self) -> str:
        return f"memory of {self.point.name} cannot be predicted: {self.reason}"


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
    """Predicted memory of a point, phase by phase; without an extractor to preload there is no phase `preload`.

    Nor is there `prepare` where preparing the model reads values, which fake tensors lack.

    Attributes:
        point: What was predicted.
        phases: The peaks of each phase.
        feature_bytes: Preloaded features of a batch, on the host; 0 where there are none.
    """

    point: MemoryPoint
    phases: dict[str, PhasePeak]
    feature_bytes: int = 0

    @property
    def highest(self) -> PhasePeak:
        """The phase with the highest peak: what a whole run needs."""
        return max(self.phases.values(), key=lambda peak: peak.allocated)

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

    Raises:
        PredictionError: The method does what cannot be done on fake tensors.
        UserError: The setting is none that the method can work with.
    """
    try:
        return _predict(point, make_parts)
    except UserError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise PredictionError(point, f"{type(error).__name__}: {lines[0]}") from error


@dataclass(frozen=True)
class TracedRun:
    """What a point allocates and releases, without an allocator's view of it; see `replay`."""

    trace: StorageTrace
    bounds: dict[str, tuple[int, int]]


class _PreparationError(Exception):
    """What a method does before training cannot be done on fake tensors."""


def _predict(point: MemoryPoint, make_parts: Callable[[MemoryPoint], Parts]) -> Prediction:
    traced = trace_run(point, make_parts)
    return Prediction(point, replay(traced.trace.events, traced.trace.tags, traced.bounds), traced.trace.host_bytes)


def _no_timing(phase: str, step: Callable[[], object]) -> None:
    """What `measure` does behind each phase, and a prediction does not."""


def trace_run(
    point: MemoryPoint,
    make_parts: Callable[[MemoryPoint], Parts] = build_point,
    after: After = _no_timing,
    fold: bool = True,
) -> TracedRun:
    """Runs a point's phases on fake tensors.

    A method whose preparation reads values, as a start from data may, is traced without that phase.

    Args:
        point: The setting.
        make_parts: As that of `predict_memory`.
        after: As that of `run_phases`; steps that it repeats are of no phase.
        fold: Whether work in equal parts is skipped where its memory is known.
    """
    try:
        return _trace_run(point, make_parts, after, fold, prepare=True)
    except _PreparationError:
        return _trace_run(point, make_parts, after, fold, prepare=False)


def _trace_run(
    point: MemoryPoint, make_parts: Callable[[MemoryPoint], Parts], after: After, fold: bool, prepare: bool
) -> TracedRun:
    trace = StorageTrace()
    bounds: dict[str, tuple[int, int]] = {}
    images = views_of(point)

    with torch.device("meta"):
        on_meta = [make_parts(point)]  # outside the fake mode, in which timm's initialisation would need values

    def build() -> Parts:
        parts = on_meta.pop()  # the last reference: an extractor that leaves the device is to be gone
        for part in (parts.model, parts.extractor):
            if part is not None:
                part._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
                trace.watch_model(part, images)
        return parts

    @contextmanager
    def watch(phase: str) -> Iterator[None]:
        begin = len(trace.events)
        try:
            yield
        except Exception as error:
            if phase == "prepare":
                raise _PreparationError from error
            raise
        bounds[phase] = (begin, len(trace.events))

    gc.freeze()  # collections on the way then pass over all that is older, torch and its modules, in no time
    try:
        with (
            warnings.catch_warnings(),
            patch.object(FakeTensor, "tolist", _has_no_values),
            FakeTensorMode(),
            trace,
            trace.watch_modules(),
            CudaSemantics(),
            FoldRepeats(trace) if fold else nullcontext(),
        ):
            warnings.simplefilter("ignore")
            run_phases(point, build, torch.device("cpu"), watch, after, 1, trace.on_host, prepare)
    finally:
        gc.unfreeze()
    return TracedRun(trace, bounds)


def _has_no_values(tensor: FakeTensor) -> NoReturn:
    """In the place of `FakeTensor.tolist`, which makes a tensor of each of millions of numbers before it says so."""
    raise TypeError("a fake tensor must not be read, as it has no values")


def map_points(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """Applies a function that predicts to each job, in order, in two processes where there are many jobs."""
    if len(jobs) < MANY:
        yield from map(function, jobs)
        return
    plugins = (loaded_plugins(),)
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=load_plugins, initargs=plugins) as pool:
        yield from pool.map(function, jobs)


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

    peaks: dict[str, PhasePeak] = {}
    position = 0
    for phase, (begin, end) in bounds.items():
        for event in events[position:begin]:
            apply(*event)
        allocator.empty_cache()
        run = events[begin:end]
        if phase == "train":
            run += _transient(run) * (STEPS - 1)
        allocated, reserved, peak = allocator.allocated, allocator.reserved, 0
        for count, event in enumerate(run, start=1):
            apply(*event)
            reserved = max(reserved, allocator.reserved)
            if allocator.allocated > allocated:
                allocated, peak = allocator.allocated, count
        breakdown = _breakdown(events[:begin] + run[:peak], sizes, tags)
        peaks[phase] = PhasePeak(allocated, reserved, reserved + CONTEXT_BYTES[phase], breakdown)
        position = end
    return peaks


def _transient(events: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The events of a step that any later step repeats: of storages that are both made and released in it."""
    made = {storage for storage, size in events if size >= 0}
    both = {storage for storage, size in events if size < 0 and storage in made}
    return [event for event in events if event[0] in both]


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
