"""The pretrained backbone: made by timm at the run's resolution, with what depends on the image's size resized."""

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.config import Attention
from benchmarks.errors import UserError
from benchmarks.model.families import family_of
from benchmarks.model.spec import Spec, parse_spec
from methods.backbone import Backbone, Need, PoolError
from methods.contract import Method


@dataclass(frozen=True)
class NamedBackbone:
    """A backbone that is not in timm's table.

    Attributes:
        name: On the command line and in records.
        create: `create(**size)` makes a network of timm's with random weights; `size` is empty for the image side that
            it was pretrained with, else `img_size`, the side in px.
    """

    name: str
    create: Callable[..., nn.Module]


BACKBONES: dict[str, NamedBackbone] = {}  # those of plugins, beside timm's


def known_backbones() -> list[str]:
    """Names of all backbones: timm's, then our own and those of plugins."""
    return [*timm.list_models(), *BACKBONES]


def is_backbone(name: str) -> bool:
    """Whether there is such a backbone; timm's may have a tag behind a dot."""
    return name in BACKBONES or timm.is_model(name.partition(".")[0])


def check_backbone(name: str) -> None:
    """Checks that there is a backbone of that name, and that it can be made with the settings behind it.

    Raises:
        UserError: There is none, and the message has the nearest names; or it cannot be made so.
    """
    spec = parse_spec(name)
    if not is_backbone(spec.name):
        architecture = spec.name.partition(".")[0]
        nearest = ", ".join(difflib.get_close_matches(architecture, known_backbones(), n=3))
        raise UserError(
            f"backbone must be a model of timm {timm.__version__} or one of `bench.py list backbones`, got "
            f"{spec.name!r}" + (f"; nearest: {nearest}" if nearest else "")
        )
    described(name)


def check_needs(name: str, method: Method) -> None:
    """Checks that a backbone has what a method asks of it; made on the meta device, without weights.

    Raises:
        UserError: It has not; the message says what it lacks.
    """
    lacking = lacks(name, method)
    if lacking:
        raise UserError(
            f"backbone must suit {method.name}, got {name!r}, which has {' and '.join(lacking)}; choose another "
            "--backbone or leave the method out"
        )


def lacks(name: str, method: Method) -> list[str]:
    """What a backbone has instead of what a method asks of it; nothing where the method runs on it."""
    reasons: dict[Need, str] = described(name).lacks
    return list(dict.fromkeys(reason for need, reason in reasons.items() if need in method.needs))


@functools.cache
def described(name: str) -> Backbone:
    """A backbone to be asked, on the meta device, without weights: never changed, nor run."""
    with torch.device("meta"):
        return create_backbone(name)


def effective_resolution(resolution: int, stride: int) -> int:
    """The multiple of the backbone's stride nearest to `resolution`, the larger of two equally near, in px.

    Raises:
        UserError: `resolution` is smaller than a stride.
    """
    if resolution < stride:
        raise UserError(f"resolution must be at least {stride} px, a patch of the backbone, got {resolution!r}")
    return (2 * resolution + stride) // (2 * stride) * stride


def create_backbone(
    name: str, resolution: int | None = None, state_dict: Mapping[str, Tensor] | None = None
) -> Backbone:
    """Makes the backbone with its pretrained head still attached, in eval mode.

    Args:
        name: A backbone, with its settings.
        resolution: Image side (px), a multiple of the stride; None for the pretrained size.
        state_dict: Weights under timm's names; position embeddings and tables of another size are resized as timm does
            it for the family. A head in it is passed over. None leaves random weights.

    Raises:
        UserError: It cannot be made so, or the weights do not fit it.
    """
    spec = parse_spec(name)
    kind, arguments = _family(spec.name)
    trunk = _create_trunk(spec, resolution, arguments)
    if state_dict is not None:
        _load_trunk(trunk, state_dict, name)
    try:
        return kind(trunk, spec.pool).eval()
    except PoolError as error:
        raise UserError(f"{error} for {spec.name}") from error


@functools.cache
def _family(name: str) -> tuple[type[Backbone], dict[str, Any]]:
    return family_of(_network(name))


@functools.cache
def _network(name: str) -> nn.Module:
    """As timm makes it, on the meta device, to be looked at."""
    with torch.device("meta"):
        return _make(name)()


def _make(name: str) -> Callable[..., nn.Module]:
    return BACKBONES[name].create if name in BACKBONES else functools.partial(timm.create_model, name)


def _create_trunk(spec: Spec, resolution: int | None, arguments: Mapping[str, Any]) -> nn.Module:
    size = {} if resolution is None or not _takes_size(_network(spec.name)) else {"img_size": resolution}
    own = {key: _layer(value) if key.endswith("_layer") else value for key, value in spec.args.items()}
    try:
        return _make(spec.name)(**{**arguments, **own, **size})
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        if not (own or size):
            raise
        place = "" if resolution is None else f" at {resolution} px"
        raise UserError(
            f"backbone must be one that can be made, got {str(spec)!r}{place}: {' '.join(str(error).split())[:200]}"
        ) from error


def _layer(name: Any) -> Any:
    """The class of layers that is meant, torch's or timm's; what is none of theirs timm may know by its name."""
    return getattr(nn, str(name), getattr(timm.layers, str(name), name))


def _takes_size(network: nn.Module) -> bool:
    """Whether the constructor takes the image's size; networks of convolutions run at any."""
    kind = type(network)
    return issubclass(kind, VisionTransformer) or "img_size" in inspect.signature(kind).parameters


def _load_trunk(trunk: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Loads all weights but the head's, which no method uses and checkpoints may lack."""
    fit = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", lambda state, trunk: state)
    heads = _head_prefixes(trunk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm's own code, where it resamples BEiT's tables
        fitting = fit(dict(state_dict), trunk)
    weights = {key: tensor for key, tensor in fitting.items() if not key.startswith(heads)}
    try:
        missing, unexpected = trunk.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"weights must be those of {name}, got others: {' '.join(str(error).split())[:300]}") from error
    wrong = [key for key in missing if not key.startswith(heads)] + unexpected
    if wrong:
        raise UserError(f"weights must be those of {name}, got others: {', '.join(wrong[:3])} missing or unexpected")


def _head_prefixes(trunk: Any) -> tuple[str, ...]:
    """How the names of the pretrained head's weights begin."""
    names = (getattr(trunk, "pretrained_cfg", None) or {}).get("classifier") or "head"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def set_attention(model: nn.Module, attention: Attention) -> None:
    """Chooses eager or fused (SDPA) attention in every attention layer of `model`."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = attention == "sdpa"  # type: ignore[assignment]
