"""What using a trained model costs: its memory, computation and time for each image, and the bytes to store of it.

Nothing is trained for it: the model is built on random weights and used as `TrainedModel` uses that of a run, from
uint8 pixels on the host to logits.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import TypedDict

from benchmarks.config import RunConfig
from benchmarks.environment import code_digest
from benchmarks.errors import UserError, one_line
from benchmarks.features.cache import digest
from benchmarks.inference.trained import TrainedModel, merged
from benchmarks.memory.phases import point_resolution, views_of
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import PredictionError, fake_device, place
from benchmarks.memory.prediction_cache import key_of
from benchmarks.memory.replay import replay
from benchmarks.memory.trace import StorageTrace
from benchmarks.model.build import Parts, build_parts
from benchmarks.model.method_config import make_config
from benchmarks.storage.files import parse_as, read_disposable, write_disposable
from benchmarks.training.step import forbid_tf32
from methods import METHODS

TIMED_SECONDS = 1.0  # forward passes are repeated for about this long
_CODE = code_digest(("benchmarks/inference/",))


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A setting in which a trained model is used.

    Attributes:
        point: Method, backbone, resolution, precision, attention, classes and images at a time.
        merge: Whether what was added is merged into the weights, of methods that do so.
    """

    point: MemoryPoint
    merge: bool


class Cost(TypedDict):
    """What is known of a deployment without running it.

    memory_bytes: peak allocated on an NVIDIA GPU, weights and a batch included.
    flops: of an image, in matrix products and convolutions; a multiplication and an addition are two.
    task_bytes: to store for each task.
    shared_bytes: to store once, whatever the number of tasks: all that was not trained.
    """

    memory_bytes: int
    flops: int
    task_bytes: int
    shared_bytes: int


class _Stored(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    key: dict[str, Any]
    cost: Cost


_STORED = TypeAdapter(_Stored)


def deployments(point: MemoryPoint) -> list[Deployment]:
    """As a method can be used: with what it added apart, and, where it merges, merged."""
    return [Deployment(point, merge) for merge in (False, True) if not merge or merges(point.method, point)]


def merges(method: str, point: MemoryPoint) -> bool:
    """Whether a method merges what it added into the weights."""
    with torch.device("meta"):
        model = _build(point).model
    config = make_config(method, dict(point.options))
    return METHODS[method].recipe(model, config, 1).before_inference is not None


def _build(point: MemoryPoint) -> Parts:
    """A method's parts as they are after training, on random weights."""
    config = make_config(point.method, dict(point.options))
    resolution = point_resolution(point)
    return build_parts(point.method, config, point.backbone, point.num_classes, resolution, point.attention)


def _card(point: MemoryPoint) -> dict[str, Any]:
    """What `TrainedModel` asks of the card of a run."""
    config = RunConfig(
        method=point.method,
        dataset="none",
        dataset_digest="",
        resolution=point.resolution,
        seed=0,
        backbone=point.backbone,
        weights="none",
        weights_sha256=None,
        epochs=1,
        batch_size=point.batch_size,
        lr=None,
        weight_decay=None,
        options=dict(point.options),
        precision=point.precision,
        attention=point.attention,
    )
    dataset = {
        "classes": [str(number) for number in range(point.num_classes)],
        "counts": {"train": {"0": point.batch_size}},
        "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    return {"config": dataclasses.asdict(config), "dataset": dataset, "input": {"views": views_of(point)}}


def _parts(deployment: Deployment) -> Parts:
    """The parts as they are used, on the default device."""
    parts = _build(deployment.point)
    parts.model.eval()
    if deployment.merge:
        parts = merged(_card(deployment.point), parts)
    parts.model.requires_grad_(False)  # before fake tensors of what trains have hooks, with which they cannot move
    return parts


def build_deployed(deployment: Deployment, device: torch.device) -> TrainedModel:
    """A model as it is used, on random weights; on a GPU it forbids TF32, as runs do."""
    if device.type == "cuda":
        forbid_tf32()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TrainedModel(_card(deployment.point), _parts(deployment), device)


class _OnHost(Mapping[str, Tensor]):
    """Views of a batch that come to the device when they are asked for, as those of `TrainedModel` do."""

    def __init__(self, batch_size: int, sides: Mapping[str, int]) -> None:
        self._batch_size, self._sides = batch_size, sides

    def __getitem__(self, name: str) -> Tensor:
        side = self._sides[name]
        return torch.empty(self._batch_size, 3, side, side, dtype=torch.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sides)

    def __len__(self) -> int:
        return len(self._sides)


def cost_of(deployment: Deployment, cache: Path) -> Cost:
    """The cost of a deployment, from the cache where it was found before.

    Raises:
        PredictionError: It cannot be found on fake tensors.
        UserError: The setting is none that the method can work with.
    """
    key = key_of(deployment.point) | {"inference": _CODE, "merge": deployment.merge}
    path = cache / "predictions" / f"inference-{deployment.point.method}-{digest(key)}"
    data = read_disposable(path)
    if data is not None and (stored := parse_as(_STORED, data))["key"] == key:
        return Cost(**stored["cost"])
    try:
        found = predict_cost(deployment)
    except (UserError, PredictionError):
        raise
    except Exception as error:  # whatever a method does that fake tensors cannot
        raise PredictionError(deployment.point, f"{type(error).__name__}: {one_line(error)}") from error
    write_disposable(path, (json.dumps({"key": key, "cost": found}, indent=1) + "\n").encode())
    return found


def predict_cost(deployment: Deployment) -> Cost:
    """Finds the cost of a deployment on fake tensors; raises whatever a method does there."""
    task, shared = storage_bytes(deployment)
    return Cost(memory_bytes=_memory(deployment), flops=_flops(deployment), task_bytes=task, shared_bytes=shared)


def _memory(deployment: Deployment) -> int:
    """Peak bytes allocated."""
    with _faked(deployment) as (trace, forward):
        begin = len(trace.events)
        logits = forward()
        peaks = replay(trace.events, trace.tags, {"setup": (0, begin), "eval": (begin, len(trace.events))})
        del logits
    return peaks["eval"].allocated


def _flops(deployment: Deployment) -> int:
    """Of one image."""
    point = dataclasses.replace(deployment.point, batch_size=1, attention="eager", precision="fp32")
    whole = _faked(Deployment(point, deployment.merge), fold=False)  # work that is skipped would not be counted
    with whole as (_, forward), FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops())


@contextmanager
def _faked(deployment: Deployment, fold: bool = True) -> Iterator[tuple[StorageTrace, Callable[[], Tensor]]]:
    """A model on fake tensors, which a trace follows, and what has it classify a batch; `fold` as in `trace_run`."""
    point, trace = deployment.point, StorageTrace()
    views = views_of(point)
    with torch.device("meta"):
        parts = _parts(deployment)
    with fake_device(trace, fold):
        for part in (parts.model, parts.extractor):
            if part is not None:
                place(part, trace, views)
        model = TrainedModel(_card(point), parts, torch.device("cpu"))
        yield trace, lambda: model(_OnHost(point.batch_size, views))


def storage_bytes(deployment: Deployment) -> tuple[int, int]:
    """Bytes to store for each task, and once for all tasks.

    Apart, a task has what `kept.kept_of` keeps: what trains, and buffers. Merged, as `bench.py export --merged` writes
    it, every task has a network of its own.

    Raises:
        PredictionError: The method keeps features of its training images, however many those are.
    """
    with torch.device("meta"):
        parts = _parts(deployment) if deployment.merge else _build(deployment.point)
    model = parts.model.state_dict(keep_vars=True)
    extractor = {} if parts.extractor is None else parts.extractor.state_dict(keep_vars=True)
    everything = {id(tensor): tensor.nbytes for tensor in (*model.values(), *extractor.values())}
    if deployment.merge:
        return sum(everything.values()), 0
    own = [tensor for tensor in model.values() if tensor.requires_grad or not isinstance(tensor, torch.nn.Parameter)]
    if any(tensor.numel() == 0 for tensor in own):
        raise PredictionError(deployment.point, "it keeps the features of all its training images")
    task = sum({id(tensor): tensor.nbytes for tensor in own}.values())
    return task, sum(everything.values()) - task


def time_deployed(model: TrainedModel, batch_size: int) -> float:
    """Median seconds of a batch, from uint8 views on the host to logits on the device, each waited for."""
    views = random_views(model, batch_size)
    model(views)
    timer = Timer("model(views)", globals={"model": model, "views": views}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=TIMED_SECONDS).median)


def measured_bytes(deployment: Deployment, device: torch.device) -> int:
    """Peak allocated on a GPU on which this process holds nothing else, weights included."""
    torch.cuda.reset_peak_memory_stats(device)
    model = build_deployed(deployment, device)
    model(random_views(model, deployment.point.batch_size))
    return int(torch.cuda.max_memory_allocated(device))


def random_views(model: TrainedModel, batch_size: int) -> dict[str, Tensor]:
    """A batch of noise on the host, as a model takes it."""
    return {
        name: torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8)
        for name, side in model.sides.items()
    }
