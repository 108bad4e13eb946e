"""What a fine-tuning method is: the contract that every file of this folder fulfils (see the folder's docstring)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class MethodConfig(Protocol):
    """A method's frozen dataclass of defaults; every method has at least these.

    Attributes:
        lr_grid: Learning rates to choose among with `--lr grid`, five for every method, around its default.
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
    """

    identity: Mapping[str, Any]
    parts: tuple[int, ...] | None

    def __call__(self, image: Tensor) -> dict[str, Tensor]: ...


Views = dict[str, int]


def full_resolution_view(config: Any, resolution: int) -> Views:
    """The default views: one image at the run's resolution (px)."""
    return {"image": resolution}


def no_extractor(backbone: VisionTransformer, config: Any) -> None:
    """The default extractor: none, the whole model runs in every step."""


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: a frozen part that may run ahead of time, and a trainable part.

    Attributes:
        name: Name on the command line and in records.
        title: Name in tables and plots.
        paper: Where it comes from.
        config: Its frozen dataclass of defaults, with at least `lr`, `weight_decay` and `lr_grid`.
        build: `build(backbone, num_classes, config) -> nn.Module`, the trainable model. It may change and keep the
            backbone. Its `forward` takes its inputs by name and returns logits `(B, C)`; its head is its attribute
            `head`, and every other parameter with `requires_grad` is the method's own.
        views: `views(config, resolution) -> {input name: side length}`, the resized images that a sample carries.
            With an extractor, the view `image` goes to the extractor, the others to the model.
        extractor: `extractor(backbone, config) -> nn.Module | None`, the frozen part (see `Extractor`). It may keep
            the backbone, whose pretrained head is still attached.
    """

    name: str
    title: str
    paper: str
    config: type
    build: Callable[[VisionTransformer, int, Any], nn.Module]
    views: Callable[[Any, int], Views] = full_resolution_view
    extractor: Callable[[VisionTransformer, Any], nn.Module | None] = no_extractor


def freeze(module: nn.Module) -> None:
    """Stops every parameter of `module` from training."""
    module.requires_grad_(False)


_imagined_gpu = ContextVar("imagined_gpu", default=False)


@contextmanager
def imagined_gpu() -> Iterator[None]:
    """Inside, what runs on fake tensors of a CPU stands for a GPU: `on_cpu` says no, and `chunks` leaves some out."""
    token = _imagined_gpu.set(True)
    try:
        yield
    finally:
        _imagined_gpu.reset(token)


def on_cpu(tensor: Tensor) -> bool:
    """Whether a CPU computes on this tensor, for code that has a faster way there."""
    return tensor.device.type == "cpu" and not _imagined_gpu.get()


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `total`: for work in parts that hold no more memory than one part at a time.

    Since all but the last take the same memory, a prediction of memory runs the first, the second and the last.
    """
    starts = range(0, total, size)
    for start in [*starts[:2], *starts[2:][-1:]] if _imagined_gpu.get() else starts:
        yield slice(start, start + size)


def attach_head(backbone: VisionTransformer, num_classes: int) -> None:
    """Replaces the backbone's pretrained head by a new trainable linear one, truncated normal 0.02, zero bias."""
    backbone.reset_classifier(num_classes)
    init_head(backbone.head)


def init_head(head: nn.Module) -> None:
    """Initialises a linear head the same way for every method: truncated normal 0.02, zero bias."""
    assert isinstance(head, nn.Linear)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)


class ImageModel(nn.Module):
    """A timm ViT whose `forward` takes the image by name.

    Args:
        backbone: The adapted ViT, with its new head.
    """

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def head(self) -> nn.Module:
        """The classification head."""
        return self.backbone.head

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recomputes each block's activations in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: logits `(B, C)`
        """
        return self.backbone(image)
