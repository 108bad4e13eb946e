"""A method's parts on a backbone: the trainable model, its extractor, and their parameter counts."""

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.config import Attention
from benchmarks.errors import UserError, one_line
from benchmarks.model.backbone import check_needs, create_backbone, described, set_attention
from methods import METHODS
from methods.contract import Head, Method, OptionError


@dataclass(frozen=True)
class Parts:
    """A built method.

    Attributes:
        model: Trainable part; takes its inputs by name, returns logits.
        extractor: Frozen part that may run ahead of time, or None.
    """

    model: nn.Module
    extractor: nn.Module | None


def build_parts(
    method: str,
    config: Any,
    backbone: str,
    num_classes: int,
    resolution: int | None = None,
    attention: Attention = "sdpa",
    grad_checkpointing: bool = False,
    state_dict: Mapping[str, Tensor] | None = None,
) -> Parts:
    """Builds a method on a fresh backbone, on the CPU or the default device.

    Args:
        method: Name in the table of methods.
        config: The method's Config.
        backbone: Its name, with its settings.
        num_classes: Number of classes C.
        resolution: Image side (px), a multiple of the stride; None for the pretrained size.
        attention: Attention backend of every attention layer.
        grad_checkpointing: Whether blocks recompute their activations in the backward pass.
        state_dict: Pretrained weights under timm's names; None for random ones.

    Raises:
        UserError: The backbone is unknown or lacks what the method needs, an option does not suit it, nothing but the
            head would train, or the head of a plugin's method does not compute in fp32.
    """
    check_needs(backbone, METHODS[method])
    network = create_backbone(backbone, resolution, state_dict)
    for module in network.modules():
        module._is_pretrained = True  # type: ignore[assignment]
    with _options_of(method):
        model = METHODS[method].build(network, num_classes, config)
        extractor = METHODS[method].extractor(network, config)
    if METHODS[method].gradient_free:
        _check_nothing_trains(method, model)
    else:
        _check_trainable(method, model)
        _check_head(method, model)
    for part in (model, extractor):
        if part is not None:
            set_attention(part, attention)
    _checkpoint(model, grad_checkpointing, backbone)
    return Parts(model.train(), None if extractor is None else extractor.eval())


def is_pretrained(module: nn.Module) -> bool:
    """Whether a module of a built method came with the backbone, or is a copy of one that did."""
    return bool(getattr(module, "_is_pretrained", False))


def _checkpoint(model: Any, enable: bool, backbone: str) -> None:
    try:
        model.set_grad_checkpointing(enable)
    except AssertionError as error:  # as timm has it
        raise UserError(
            f"grad checkpointing must be off on a backbone that has none, got {backbone!r}; leave it out"
        ) from error


@contextmanager
def _options_of(method: str) -> Iterator[None]:
    """What a method says of its options is for the user."""
    try:
        yield
    except OptionError as error:
        raise UserError(f"{error} (an option of {method})") from error


def _check_trainable(method: str, model: nn.Module) -> None:
    head = set(model.head.parameters())  # type: ignore[union-attr]
    trains = any(p.requires_grad and p.numel() and p not in head for p in model.parameters())
    if not trains and not METHODS[method].starts_with_head_alone:
        raise UserError(
            f"{method} must have parameters to train beside its head, got none with these options; choose others, or "
            "the method linear"
        )


def _check_head(method: str, model: nn.Module) -> None:
    if not any(isinstance(module, Head) for module in model.head.modules()):  # type: ignore[union-attr]
        raise UserError(
            f"head of {method} must be a methods.contract.Head or end in one, got {type(model.head).__name__}; make it "
            "with new_head(num_features, num_classes)"
        )


def _check_nothing_trains(method: str, model: nn.Module) -> None:
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if trains:
        raise UserError(
            f"{method} must have no parameters that train, as it is gradient_free, got {', '.join(trains[:3])}; make "
            "them buffers"
        )


@functools.cache
def check_runs(method: Method, config: Any, backbone: str, resolution: int) -> None:
    """Builds a method, and has what may not take any image see one, on the meta device without weights.

    That is an extractor, and a network whose shapes follow from no patches.

    Raises:
        UserError: It could not run so; the message says why.
    """
    if method.has_extractor:
        feature_shapes(method.name, config, backbone, resolution)
        return
    with torch.device("meta"), torch.no_grad():
        model = build_parts(method.name, config, backbone, 2, resolution, "eager").model.eval()
        if "tokens" in described(backbone).lacks:
            _see(model.backbone, backbone, resolution)  # type: ignore[arg-type]


@functools.cache
def feature_shapes(
    method: str, config: Any, backbone: str, resolution: int
) -> tuple[dict[str, tuple[tuple[int, ...], str]], tuple[int, ...] | None]:
    """What a method's extractor yields for an image, found on the meta device without weights.

    Args:
        method: A method with an extractor.
        config: Its Config.
        backbone: Its name, with its settings.
        resolution: Image side (px), a multiple of the stride.

    Returns:
        Shape (without the batch's axis) and NumPy type of each feature by name, and the extractor's parts.
    """
    with torch.device("meta"), torch.no_grad(), _options_of(method):
        extractor: Any = build_parts(method, config, backbone, 2, resolution, "eager").extractor
        features = _see(extractor, backbone, resolution)
    shapes = {name: (tuple(feature.shape[1:]), str(feature.dtype)[6:]) for name, feature in features.items()}
    return shapes, extractor.parts


@functools.cache
def feature_kind(method: str, config: Any, backbone: str) -> tuple[str, frozenset[int]]:
    """What a method's features share with another's on the same images where it is equal, and the parts they have."""
    with torch.device("meta"), _options_of(method):
        extractor: Any = build_parts(method, config, backbone, 2).extractor
    identity = json.dumps(extractor.identity, sort_keys=True)
    return f"{METHODS[method].extractor.__module__} {identity}", frozenset(extractor.parts or ())


def _see(part: nn.Module, backbone: str, resolution: int) -> Any:
    """What a part makes of an image, on the meta device."""
    try:
        return part(torch.empty(1, 3, resolution, resolution))
    except OptionError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"backbone must take images of {resolution} px, got {backbone!r} ({one_line(error)}); choose another --res"
        ) from error


@functools.cache
def count_parameters(method: str, config: Any, backbone: str, num_classes: int) -> dict[str, int | float]:
    """Counts parameters at the backbone's pretrained image size, without weights.

    A resized position embedding is the pretrained one resampled, so counts do not depend on the run's resolution.

    Returns:
        `trainable_total`; `trainable_head`, the new head's share of it; `trainable`, the rest; `frozen`, the backbone
        as far as it stays in use, with its pretrained head where the method keeps it; `percent`, 100 trainable /
        (trainable + frozen), which is how the FPT papers count.
    """
    with torch.device("meta"):
        parts = build_parts(method, config, backbone, num_classes)
    everything = nn.ModuleList(part for part in (parts.model, parts.extractor) if part is not None)
    frozen = sum(p.numel() for p in everything.parameters() if not p.requires_grad)
    total = sum(p.numel() for p in parts.model.parameters() if p.requires_grad)
    has_head = not METHODS[method].gradient_free
    head = sum(p.numel() for p in parts.model.head.parameters()) if has_head else 0  # type: ignore[union-attr, misc]
    trainable = total - head
    return {
        "trainable_total": total,
        "trainable_head": head,
        "trainable": trainable,
        "frozen": frozen,
        "percent": 100 * trainable / (trainable + frozen),
    }
