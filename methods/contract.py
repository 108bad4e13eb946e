"""What a fine-tuning method is: the contract that every file of this folder fulfils (see the folder's docstring)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from methods.backbone import Backbone, Need

IMAGE = "image"  # the view of the run's resolution; an extractor's, where there is one

Views = dict[str, int]
Batches = Iterable[tuple[dict[str, Tensor], Tensor]]
ParameterGroups = list[dict[str, Any]]


class OptionError(ValueError):
    """An option has a value that the method cannot work with, on this backbone or on any; the message says why."""


@dataclass(frozen=True)
class Bounds:
    """What a number among a method's options may be; it stands behind the type: `Annotated[int, Bounds(at_least=1)]`.

    The number is finite in any case.
    """

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf

    def hold(self, value: float) -> bool:
        """Whether a number lies within them."""
        return self.above < value < self.below and self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        limits = {name.replace("_", " "): limit for name, limit in vars(self).items() if math.isfinite(limit)}
        return " and ".join(f"{name} {limit:g}" for name, limit in limits.items())


Count = Annotated[int, Bounds(at_least=1)]  # of what a method adds: with none of it nothing would train
Factor = Annotated[float, Bounds(above=0)]  # with 0 nothing of what a method adds would be heard, nor train
Share = Annotated[float, Bounds(above=0, at_most=1)]
Dropout = Annotated[float, Bounds(at_least=0, below=1)]


class MethodConfig(Protocol):
    """A method's frozen dataclass of defaults; every method that trains by gradients has at least these.

    Its further fields are the method's options: `bool`, `int`, `float`, `str`, `Literal[...]` for a fixed choice,
    `tuple[T, ...]` of one of these, or `T | None`; `Bounds` say what a number may be, as `Count` does.

    Attributes:
        lr_grid: Learning rates to choose among with `--lr grid`, ascending: for every method five over a factor of 100,
            its default inside.

    A `shorthand: ClassVar[str]` beside them names the option whose value a word alone is: `peft:OFT` for its `type`.
    """

    lr_grid: ClassVar[tuple[float, ...]]

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


class Extractor(Protocol):
    """The frozen part that may run ahead of time: ``extractor(image) -> {feature name: tensor}``.

    Attributes:
        identity: Everything besides backbone, weights, data and resolution that its features depend on: two extractors
            with the same identity may share one feature cache.
        parts: What the first axis of every feature runs over behind the batch's, as the chosen blocks; None without
            such an axis. Features of more parts hold those of fewer.
        augment_live: Whether its image is augmented in training where it runs in every step. Features computed ahead of
            time are of the image as it is.
    """

    identity: Mapping[str, Any]
    parts: tuple[int, ...] | None
    augment_live: bool

    def __call__(self, image: Tensor) -> dict[str, Tensor]: ...


class TrainingBatches(Protocol):
    """The whole training split, shuffled and not augmented, as often as it is iterated: inputs by name, and labels.

    Labels are class indices `(B,)` or, of images with several findings, `(B, C)`: 1 with it, 0 without, nan where that
    is not known.
    """

    def loss(self, outputs: Tensor, labels: Tensor, /) -> Tensor:
        """The loss that the run trains with: a scalar, of what the model gives of a batch in fp32."""

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]: ...


@dataclass(frozen=True)
class Recipe:
    """How a method's model trains and is used, where the defaults will not do.

    Attributes:
        groups: `groups(model)`, the parameter groups of the optimiser, as torch.optim takes them; a group without `lr`
            has the run's; one without `weight_decay` has the run's too, which spares vectors (biases, norms) and what a
            module names by `no_weight_decay() -> set[str]`, as timm's models do. None: all that trains, in one group.
        optimizer: `optimizer(groups)`, where it is not AdamW. Its rates follow the run's schedule in any case.
        prepare: `prepare(model, batches)` before training, as for a start from data: see `TrainingBatches`. It may
            change what trains. A run that goes on after it was stopped prepares anew.
        extra_loss: `extra_loss(model, logits, labels)`, a scalar that is added to the loss.
        after_step: `after_step(model, step)` behind the optimiser's step number `step` (from 0), gradients still there;
            True says that other parameters train from now on: what `requires_grad` says then holds.
        before_inference: `before_inference(model)` gets a copy of the trained model, and returns what is used: the copy
            with its additions merged into the weights, or another module with the same inputs and outputs. It is not
            called where frozen weights are quantised: a merged weight would have to be quantised anew.
    """

    groups: Callable[[nn.Module], ParameterGroups] | None = None
    optimizer: Callable[[ParameterGroups], torch.optim.Optimizer] | None = None
    prepare: Callable[[nn.Module, TrainingBatches], None] | None = None
    extra_loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    after_step: Callable[[nn.Module, int], bool] | None = None
    before_inference: Callable[[nn.Module], nn.Module] | None = None


def full_resolution_view(config: Any, resolution: int) -> Views:
    """The default views: one image at the run's resolution (px)."""
    return {IMAGE: resolution}


def no_extractor(backbone: Backbone, config: Any) -> None:
    """The default extractor: none, the whole model runs in every step."""


def any_number(config: Any) -> int:
    """The default number of training images that a method needs."""
    return 1


def default_recipe(model: nn.Module, config: Any, num_steps: int) -> Recipe:
    """The default recipe: AdamW on all that trains, the loss alone."""
    return Recipe()


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: a frozen part that may run ahead of time, and a trainable part.

    Attributes:
        name: Name on the command line and in records.
        title: Name in tables and plots.
        paper: Where it comes from.
        config: Its frozen dataclass of defaults, with at least `lr`, `weight_decay` and `lr_grid` where it trains.
        build: `build(backbone, num_classes, config) -> nn.Module`, the trainable model. It may change and keep the
            backbone. Its `forward` takes its inputs by name and returns logits `(B, C)`; its head is its attribute
            `head`, a `Head` or a module that ends in one, and every other parameter with `requires_grad` is the
            method's own. Raises `OptionError`.
        count: `count(backbone, config) -> int`, the closed formula of the parameters that train besides the head, from
            the sizes of the backbone as it was before `build`.
        views: `views(config, resolution) -> {input name: side length}`, the resized images that a sample carries.
            With an extractor, the view `image` goes to the extractor, the others to the model.
        extractor: `extractor(backbone, config) -> nn.Module | None`, the frozen part (see `Extractor`), made after the
            model. It may change and keep the backbone. Raises `OptionError`.
        recipe: `recipe(model, config, num_steps) -> Recipe`, how it trains; `num_steps` are the optimiser's, in all.
        needs: What it asks of a backbone beside its parameters; on one that lacks any of it the method is refused.
        gradient_free: Whether nothing of it trains by gradients. Its recipe's `prepare` makes all of its model from the
            training split; it has no parameters that train, no epochs, rate or weight decay, and no `head`.
        min_images: `min_images(config) -> int`, how many training images it needs; with fewer a run is refused.
        min_batch_size: How many images a step must have, as for statistics of a batch; with fewer a run is refused.
        attention_maps: `attention_maps(model, extractor, inputs)`, the attention that what it adds pays to the tokens
            of the backbone: `(B, K, N)`, each of the K maps (of a query, head or layer) summing to one over the tokens,
            the prefix first. `inputs` are all views by name, normalised. None where nothing that it adds attends.
        starts_as_pretrained: Whether the model computes at its start what the backbone with the same head does.
        starts_with_head_alone: Whether nothing but the head trains at its start. Any other method of which that holds
            has options that leave it nothing to train, and is refused.
    """

    name: str
    title: str
    paper: str
    config: type
    build: Callable[[Backbone, int, Any], nn.Module]
    count: Callable[[Backbone, Any], int]
    views: Callable[[Any, int], Views] = full_resolution_view
    extractor: Callable[[Backbone, Any], nn.Module | None] = no_extractor
    recipe: Callable[[nn.Module, Any, int], Recipe] = default_recipe
    needs: frozenset[Need] = frozenset()
    gradient_free: bool = False
    min_images: Callable[[Any], int] = any_number
    min_batch_size: int = 1
    attention_maps: Callable[[nn.Module, nn.Module | None, Mapping[str, Tensor]], Tensor] | None = None
    starts_as_pretrained: bool = False
    starts_with_head_alone: bool = False

    @property
    def has_extractor(self) -> bool:
        """Whether it has a frozen part that may run ahead of time."""
        return self.extractor is not no_extractor


def freeze(module: nn.Module) -> None:
    """Stops every parameter of `module` from training."""
    module.requires_grad_(False)


def train_only(module: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Stops every parameter of `module` but these from training."""
    freeze(module)
    for parameter in parameters:
        parameter.requires_grad_(True)


class Head(nn.Linear):
    """A linear classification head that computes in its weights' type, fp32, whatever the rest of the model runs in.

    Logits in bf16 have eight significant bits: in a few hundred images many are equal, and AUC counts ties half.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Classifies features.

        Shape:
            - input: `(B, E)`, E the width of the features, of any floating type
            - Output: logits `(B, C)`
        """
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def new_head(num_features: int, num_classes: int) -> Head:
    """A head that trains, initialised; see `init_head`."""
    head = Head(num_features, num_classes)
    init_head(head)
    return head


def init_head(head: Head) -> None:
    """Initialises a head the same way for every method: truncated normal 0.02, zero bias."""
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)


class ImageModel(nn.Module):
    """A backbone and a new head; its `forward` takes the image by name.

    Args:
        backbone: The adapted backbone; its pretrained head is dropped.
        num_classes: Number of classes C.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        backbone.drop_head()
        self.backbone = backbone
        self.head = new_head(backbone.num_features, num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recomputes each block's activations in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: logits `(B, C)`
        """
        logits: Tensor = self.head(self.backbone(image))
        return logits
