"""Predicted memory of a point: the method's own steps on fake tensors, every storage followed. No GPU, no weights."""

import gc
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, NoReturn, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from benchmarks.errors import UserError
from benchmarks.memory.cuda_kernels import CudaSemantics
from benchmarks.memory.fold import FoldRepeats
from benchmarks.memory.phases import After, build_point, run_phases, views_of
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.replay import PhasePeak, replay
from benchmarks.memory.trace import StorageTrace
from benchmarks.model.build import Parts
from benchmarks.plugins import load_plugins, loaded_plugins

PRELOAD_SLACK = 1 / 10  # of what preloading one image takes, may be used to preload more of them at once
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
class Prediction:
    """Predicted memory of a point, phase by phase; without an extractor to preload there is no phase `preload`.

    Nor is there `prepare` where preparing the model reads values, which fake tensors lack.

    Attributes:
        point: What was predicted.
        phases: The peaks of each phase.
        feature_bytes: Preloaded features of a batch, on the host; 0 where there are none.
        images_at_once: That are preloaded at once; None without an extractor to preload.
    """

    point: MemoryPoint
    phases: dict[str, PhasePeak]
    feature_bytes: int = 0
    images_at_once: int | None = None

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
        at_once = {} if self.images_at_once is None else {"preload_batch_size": self.images_at_once}
        return {"source": "predicted", "phases": phases} | at_once


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


class _PhaseIsOverError(Exception):
    """What comes behind a phase is not asked for."""


class _PreparationError(Exception):
    """What a method does before training cannot be done on fake tensors."""


def _predict(point: MemoryPoint, make_parts: Callable[[MemoryPoint], Parts]) -> Prediction:
    """Predicts a run that preloads `images_within` images at once.

    The peak of preloading is close to linear in them, so the number is guessed from one and two, and then checked. One
    is preloaded whatever the limit.
    """
    one = _predict_with(point, make_parts, 1)
    if "preload" not in one.phases or point.batch_size == 1:
        return one
    limit = preload_limit(one.phases) if point.preload_limit is None else point.preload_limit
    two = _preload_peak(point, make_parts, 2)
    at_once = images_within(limit, one.phases["preload"].allocated, two, point.batch_size)
    if point.preload_limit is not None:  # of which no room is to be left
        while at_once < point.batch_size and _preload_peak(point, make_parts, at_once + 1) <= limit:
            at_once += 1
    while at_once > 1:
        found = _predict_with(point, make_parts, at_once)
        if found.phases["preload"].allocated <= limit:
            return found
        at_once -= 1
    return one


def _preload_peak(point: MemoryPoint, make_parts: Callable[[MemoryPoint], Parts], images_at_once: int) -> int:
    """Bytes that preloading so many images at once allocates."""
    return replay_run(trace_run(point, make_parts, images_at_once=images_at_once, last="preload"))["preload"].allocated


def preload_limit(phases: Mapping[str, PhasePeak]) -> int:
    """Bytes that preloading may allocate: what another phase needs anyway, or little more than one image takes.

    Args:
        phases: Of a run that preloads one image at once.
    """
    others = (peak.allocated for name, peak in phases.items() if name != "preload")
    return max(*others, int(phases["preload"].allocated * (1 + PRELOAD_SLACK)))


def images_within(limit: int, one: int, two: int, most: int) -> int:
    """How many images, at most `most`, take no more than `limit` bytes by the line through what one and two take."""
    return max(1, min(most, 1 + (limit - one) // max(two - one, 1)))


def _predict_with(point: MemoryPoint, make_parts: Callable[[MemoryPoint], Parts], images_at_once: int) -> Prediction:
    traced = trace_run(point, make_parts, images_at_once=images_at_once)
    phases = replay_run(traced)
    features = traced.trace.host_bytes * point.batch_size // images_at_once
    return Prediction(point, phases, features, images_at_once if "preload" in phases else None)


def replay_run(traced: TracedRun) -> dict[str, PhasePeak]:
    """The peaks of each phase that was traced."""
    return replay(traced.trace.events, traced.trace.tags, traced.bounds)


def _no_timing(phase: str, step: Callable[[], object]) -> None:
    """What `measure` does behind each phase, and a prediction does not."""


def trace_run(
    point: MemoryPoint,
    make_parts: Callable[[MemoryPoint], Parts] = build_point,
    after: After = _no_timing,
    fold: bool = True,
    images_at_once: int | None = None,
    last: str | None = None,
) -> TracedRun:
    """Runs a point's phases on fake tensors.

    A method whose preparation reads values, as a start from data may, is traced without that phase.

    Args:
        point: The setting.
        make_parts: As that of `predict_memory`.
        after: As that of `run_phases`; steps that it repeats are of no phase.
        fold: Whether work in equal parts is skipped where its memory is known.
        images_at_once: As that of `run_phases`.
        last: The phase behind which it ends; None for the whole run.
    """
    try:
        return _trace_run(point, make_parts, after, fold, images_at_once, last, prepare=True)
    except _PreparationError:
        return _trace_run(point, make_parts, after, fold, images_at_once, last, prepare=False)


def _trace_run(
    point: MemoryPoint,
    make_parts: Callable[[MemoryPoint], Parts],
    after: After,
    fold: bool,
    images_at_once: int | None,
    last: str | None,
    prepare: bool,
) -> TracedRun:
    trace = StorageTrace()
    bounds: dict[str, tuple[int, int]] = {}
    images = views_of(point)

    with torch.device("meta"):
        on_meta = [make_parts(point)]  # outside the fake mode, in which timm's initialisation would need values

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
        if phase == last:
            raise _PhaseIsOverError

    with suppress(_PhaseIsOverError), _unread_tables(point), fake_device(trace, fold):
        run_phases(
            # the last reference: an extractor that leaves the device is to be gone
            *(point, on_meta.pop, torch.device("cpu"), watch, after, 1, trace.on_host, prepare),
            *(lambda part: place(part, trace, images), images_at_once, trace.offloaded),
        )
    return TracedRun(trace, bounds)


@contextmanager
def fake_device(trace: StorageTrace, fold: bool = True) -> Iterator[None]:
    """Inside, tensors are fake and as on an NVIDIA GPU, and a trace follows them.

    Args:
        trace: Follows the storages.
        fold: As that of `trace_run`.
    """
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
            yield
    finally:
        gc.unfreeze()


def place(part: nn.Module, trace: StorageTrace, images: Collection[str]) -> None:
    """Moves a part from the meta device to the fake one, and has it watched; see `StorageTrace.watch_model`."""

    def on_device(tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else torch.empty(tensor.shape, dtype=tensor.dtype)

    part._apply(on_device)
    trace.watch_model(part, images)


def _has_no_values(tensor: FakeTensor) -> NoReturn:
    """In the place of `FakeTensor.tolist`, which makes a tensor of each of millions of numbers before it says so."""
    raise TypeError("a fake tensor must not be read, as it has no values")


def _unread_tables(point: MemoryPoint) -> AbstractContextManager[object]:
    """In the place of AdamW's tables of what 8 bits stand for, which are made by reading values, others as large."""
    if point.optimizer != "adamw8bit":
        return nullcontext()
    return patch("bitsandbytes.functional.create_dynamic_map", lambda signed: torch.empty(256))


def map_points(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """Applies a function that predicts to each job, in order, in two processes where there are many jobs."""
    if len(jobs) < MANY:
        yield from map(function, jobs)
        return
    plugins = (loaded_plugins(),)
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=load_plugins, initargs=plugins) as pool:
        yield from pool.map(function, jobs)
