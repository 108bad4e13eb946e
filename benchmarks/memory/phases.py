"""The phases of a point of the memory grid: what is measured on a GPU and predicted without one alike."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.memory.point import MemoryPoint
from benchmarks.model.backbone import described, effective_resolution
from benchmarks.model.build import Parts, build_parts
from benchmarks.model.method_config import make_config
from benchmarks.tasks import TASKS
from benchmarks.training.frozen import cast_frozen, save_weights
from benchmarks.training.offload import OnHost
from benchmarks.training.step import (
    Optimization,
    evaluation_step,
    extraction_step,
    make_optimization,
    training_step,
)
from methods import METHODS
from methods.contract import IMAGE, Views

PREPARED_BATCHES = 64  # that a model of a method without gradients is made from: it may keep their features

Watch = Callable[[str], AbstractContextManager[None]]
After = Callable[[str, Callable[[], object]], None]
Place = Callable[[nn.Module], object]


def point_resolution(point: MemoryPoint) -> int:
    """The point's resolution as the backbone runs it: the nearest multiple of the patch size."""
    return effective_resolution(point.resolution, described(point.backbone).stride)


def build_point(point: MemoryPoint) -> Parts:
    """The method's parts on random weights, on the default device; what is frozen lies as it does in a run."""
    config = make_config(point.method, dict(point.options))
    parts = build_parts(
        point.method,
        config,
        point.backbone,
        TASKS[point.loss].num_outputs(point.num_classes),
        point_resolution(point),
        point.attention,
        point.grad_checkpointing or point.recompute == "cheap",
    )
    save_weights(parts, point)
    if parts.extractor is not None:
        cast_frozen(parts.extractor, point.precision, parts.model.parameters())
    return parts


def views_of(point: MemoryPoint) -> Views:
    """The images that a sample of the point carries: names and sides (px)."""
    return METHODS[point.method].views(make_config(point.method, dict(point.options)), point_resolution(point))


def synthetic_images(point: MemoryPoint, device: torch.device, extracted: bool = False) -> dict[str, Tensor]:
    """A batch of random images, one `(B, 3, H, W)` for each view of the method.

    Args:
        point: Says which views, and their size.
        device: Where they go.
        extracted: Whether features stand in for the extractor's view `image`.
    """
    return {
        name: torch.randn(point.batch_size, 3, side, side, device=device)
        for name, side in views_of(point).items()
        if not (extracted and name == IMAGE)
    }


def run_phases(
    point: MemoryPoint,
    build: Callable[[], Parts],
    device: torch.device,
    watch: Watch,
    after: After,
    steps: int = 3,
    on_host: OnHost = nullcontext,
    prepare: bool = True,
    place: Place | None = None,
    images_at_once: int | None = None,
    offloaded: OnHost = nullcontext,
) -> None:
    """Runs setup, preload, preparation, training and evaluation of a point on synthetic batches.

    A method that trains nothing by gradients has no training, and is prepared from `PREPARED_BATCHES` batches, whatever
    `prepare` says.

    Args:
        point: What to run.
        build: Makes the parts, off the device.
        device: Where it runs.
        watch: `watch(phase)` is entered around each phase.
        after: `after(phase, step)` is called behind each phase but setup, outside its watch; `step` repeats its step.
        steps: Training steps; from the second on there is optimiser state.
        on_host: Entered where features are copied to the host's memory.
        prepare: Whether a method that prepares its model does so, on one batch.
        place: Moves a part to the device, in another way than by `to`.
        images_at_once: That are preloaded; None for as many as a step of training has.
        offloaded: Entered where activations are copied to the host's memory.
    """
    move = place or (lambda part: part.to(device))
    with watch("setup"):
        steps_of = _Steps(point, build(), device, steps, move, offloaded)
    features: dict[str, Tensor] = {}
    if steps_of.extractor is not None and point.preload:
        features = _preload(point, steps_of.extractor, device, watch, after, on_host, move, images_at_once)
        steps_of.extractor = None  # the backbone leaves the device
        gc.collect()
    untrained = METHODS[point.method].gradient_free
    if (prepare or untrained) and steps_of.recipe.prepare is not None:
        with watch("prepare"):
            steps_of.load_batch(features)
            steps_of.prepare(PREPARED_BATCHES if untrained else 1)
    if untrained:
        steps_of.load_batch(features)
    else:
        with watch("train"):
            steps_of.load_batch(features)
            for _ in range(steps):
                steps_of.train()
        after("train", steps_of.train)
    steps_of.model.eval()
    with watch("eval"):
        steps_of.evaluate()
    after("eval", steps_of.evaluate)


class _Steps:
    """The steps of a point's parts, on one synthetic batch."""

    def __init__(
        self,
        point: MemoryPoint,
        parts: Parts,
        device: torch.device,
        num_steps: int,
        move: Place,
        offloaded: OnHost,
    ) -> None:
        self.point, self.device = point, device
        self.model, self.extractor = parts.model, parts.extractor
        move(self.model)
        if self.extractor is not None and not point.preload:
            move(self.extractor)
        method = METHODS[point.method]
        self.recipe = method.recipe(self.model, make_config(point.method, dict(point.options)), num_steps)
        self.optimization: Optimization | None = None
        if not method.gradient_free:
            self.optimization = make_optimization(
                *(self.model, 1e-4, 0.01, point.precision, device.type, self.recipe),
                savers=point,
                on_host=offloaded,
                loss=point.loss,
            )
        self.inputs: dict[str, Tensor] = {}

    def load_batch(self, features: dict[str, Tensor]) -> None:
        """Puts a batch on the device: images, and features that were preloaded."""
        self.inputs = synthetic_images(self.point, self.device, extracted=bool(features))
        self.inputs |= {name: tensor.to(self.device, copy=True) for name, tensor in features.items()}
        num_images, num_classes = self.point.batch_size, self.point.num_classes
        if TASKS[self.point.loss].has_findings:
            self.labels = torch.zeros(num_images, num_classes, device=self.device)
        else:
            self.labels = torch.zeros(num_images, dtype=torch.long, device=self.device)

    def prepare(self, num_batches: int) -> None:
        """The method's start from data, on this batch again and again, which is then gone."""
        assert self.recipe.prepare is not None
        self.recipe.prepare(self.model, _Repeated(self, num_batches))
        if self.optimization is not None:
            self.optimization.regroup(self.model)
        self.inputs = {}

    def train(self) -> None:
        assert self.optimization is not None
        training_step(self.model, self.model_inputs(), self.labels, self.optimization)

    def evaluate(self) -> None:
        evaluation_step(self.model, self.model_inputs(), self.point.precision, self.device.type, self.point.loss)

    def model_inputs(self) -> dict[str, Tensor]:
        if self.extractor is None:
            return self.inputs
        others = {name: tensor for name, tensor in self.inputs.items() if name != IMAGE}
        return others | extraction_step(self.extractor, self.inputs[IMAGE], self.point.precision, self.device.type)


@dataclass(frozen=True)
class _Repeated:
    """Batches as `Recipe.prepare` gets them, all of them the one that there is."""

    steps: _Steps
    count: int

    def loss(self, outputs: Tensor, labels: Tensor, /) -> Tensor:
        return TASKS[self.steps.point.loss].loss(outputs, labels)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for _ in range(self.count):
            yield self.steps.model_inputs(), self.steps.labels


def _preload(
    point: MemoryPoint,
    extractor: nn.Module,
    device: torch.device,
    watch: Watch,
    after: After,
    on_host: OnHost,
    move: Place,
    images_at_once: int | None,
) -> dict[str, Tensor]:
    """Extracts the features of some images, and returns as many of them as a step of training needs, on the host."""
    count = min(images_at_once or point.batch_size, point.batch_size)
    with watch("preload"):
        move(extractor)
        image = synthetic_images(replace(point, batch_size=count), device)[IMAGE]
        features = extraction_step(extractor, image, point.precision, device.type)
    places = torch.arange(point.batch_size) % count
    with on_host():
        features = {name: tensor.to("cpu", copy=True)[places] for name, tensor in features.items()}
    after("preload", lambda: extraction_step(extractor, image, point.precision, device.type))
    return features
