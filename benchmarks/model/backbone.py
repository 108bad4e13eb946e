"""The pretrained backbone: made by timm at the run's resolution, with what depends on the image's size resized."""

import copy
import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.config import Attention
from benchmarks.errors import UserError, one_line
from benchmarks.model.families import family_of
from benchmarks.model.medical import MEDICAL
from benchmarks.model.named import NamedBackbone
from benchmarks.model.published import is_published, named_backbone
from benchmarks.model.spec import Spec, parse_spec
from methods.backbone import Backbone, Need, PoolError
from methods.contract import Method

BACKBONES: dict[str, NamedBackbone] = {}  # those of plugins, beside timm's and our own

State = dict[str, Tensor]


def known_backbones() -> list[str]:
    """Names of all backbones: timm's, then our own and those of plugins."""
    return [*timm.list_models(), *MEDICAL, *BACKBONES]


def is_backbone(name: str) -> bool:
    """Whether there is such a backbone; timm's may have a tag behind a dot."""
    architecture, _, tag = name.partition(".")
    timms = timm.is_model(architecture) and (not tag or tag in tags_of(architecture))
    return timms or name in BACKBONES or name in MEDICAL or is_published(name)


def tags_of(architecture: str) -> list[str]:
    """The tags of timm's weights for an architecture, that of its default weights first."""
    names = timm.models.get_arch_pretrained_cfgs(architecture)
    return [tag for _, _, tag in (name.partition(".") for name in names) if tag]


def named(name: str) -> NamedBackbone | None:
    """What a name stands for that is not timm's; None for timm's own."""
    return BACKBONES.get(name) or named_backbone(name)


def check_backbone(name: str) -> None:
    """Checks that there is a backbone of that name, and that it can be made with the settings behind it.

    Raises:
        UserError: There is none, and the message has the nearest names; or it cannot be made so.
    """
    spec = parse_spec(name)
    if not is_backbone(spec.name):
        raise UserError(_unknown(spec.name))
    described(name)


def _unknown(name: str) -> str:
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        choices = ", ".join(tags_of(architecture)) or "none"
        return f"tag of {architecture} must be one of timm's ({choices}), got {tag!r}; or leave it out"
    known = known_backbones()
    nearest = (
        difflib.get_close_matches(architecture, known, n=3) or [item for item in known if architecture in item][:3]
    )
    return f"backbone must be a model of timm {timm.__version__} or one of `bench.py list backbones`, got {name!r}" + (
        f"; nearest: {', '.join(nearest)}" if nearest else ""
    )


def statistics_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels in [0, 1], with which a backbone was pretrained.

    Raises:
        UserError: Nobody states them.
    """
    spec = parse_spec(name)
    known: Any = named(spec.name) or timm.get_pretrained_cfg(spec.name)
    if known.mean is None or known.std is None:
        raise UserError(
            f"normalization backbone must have a backbone whose mean and std are known, got {spec.name!r}; state both "
            "in its NamedBackbone, or use --normalization dataset"
        )
    return tuple(known.mean), tuple(known.std)


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
    trunk = _create_trunk(spec, resolution, {} if spec.name in BACKBONES else arguments)
    if "drop_path_rate" not in spec.args:
        _keep_all_paths(trunk)
    if state_dict is not None:
        _load_trunk(trunk, state_dict, name)
    own = named(spec.name)
    pool = own.pool if own is not None and spec.pool == "native" else spec.pool
    try:
        return kind(trunk, pool).eval()
    except PoolError as error:
        raise UserError(f"{error} for {spec.name}") from error


def make_native(name: str) -> nn.Module:
    """The network at its pretrained size on the meta device: names and shapes without numbers.

    Raises:
        UserError: It cannot be made.
        MachineError: The hub, which describes it, cannot be reached or refuses.
    """
    with torch.device("meta"):
        trunk: nn.Module = create_backbone(name).trunk
    return trunk


@functools.cache
def _family(name: str) -> tuple[type[Backbone], dict[str, Any]]:
    return family_of(_network(name))


@functools.cache
def _network(name: str) -> nn.Module:
    """As timm makes it, on the meta device, to be looked at."""
    with torch.device("meta"):
        return _make(Spec(name))


def _create_trunk(spec: Spec, resolution: int | None, arguments: Mapping[str, Any]) -> nn.Module:
    sized = resolution is not None and _takes_size(_network(spec.name))
    whole = {**arguments, **({"img_size": resolution} if sized else {})}
    if not torch.empty(0).is_meta:
        return _make(spec, **whole)
    key = (str(spec), repr(whole))  # a network of shapes without numbers: a copy takes a tenth of the time of making it
    if key not in _ON_META:
        _ON_META.clear()
        _ON_META[key] = _make(spec, **whole)
    return copy.deepcopy(_ON_META[key])


_ON_META: dict[tuple[str, str], nn.Module] = {}  # the last one that was asked for


def _make(spec: Spec, **arguments: Any) -> nn.Module:
    own = named(spec.name)
    create = functools.partial(timm.create_model, spec.name) if own is None else own.create
    asked = {key: _layer(value) if key.endswith("_layer") else value for key, value in spec.args.items()}
    try:
        with _Unfilled():
            return create(**{**asked, **arguments})
    except Exception as error:  # whatever the constructor of any network makes of its arguments
        place = f" at {arguments['img_size']} px" if "img_size" in arguments else ""
        raise UserError(
            f"backbone must be one that can be made, got {str(spec)!r}{place} ({type(error).__name__}: "
            f"{one_line(error)[:200]})"
        ) from error


class _Unfilled(TorchFunctionMode):
    """Draws no numbers for tensors that have none: on the meta device that is most of the time a network takes."""

    FILLS = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _layer(name: Any) -> Any:
    """The class of layers that is meant, torch's or timm's; what is none of theirs timm may know by its name."""
    return getattr(nn, str(name), getattr(timm.layers, str(name), name))


def _takes_size(network: nn.Module) -> bool:
    """Whether the constructor takes the image's size; networks of convolutions run at any."""
    kind = type(network)
    return issubclass(kind, VisionTransformer) or "img_size" in inspect.signature(kind).parameters


def _keep_all_paths(trunk: nn.Module) -> None:
    """No stochastic depth, which some of timm's networks have by default: it is part of a recipe, not of a backbone."""
    for module in trunk.modules():
        if isinstance(module, timm.layers.DropPath):
            module.drop_prob = 0.0


def _load_trunk(trunk: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Loads all weights but the head's, which no method uses and checkpoints may lack."""
    heads = head_prefixes(trunk)
    weights = {key: tensor for key, tensor in filtered(state_dict, trunk).items() if not key.startswith(heads)}
    try:
        missing, unexpected = trunk.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"weights must be those of {name}, got others: {' '.join(str(error).split())[:300]}") from error
    wrong = [key for key in missing if not key.startswith(heads)] + unexpected
    if wrong:
        raise UserError(f"weights must be those of {name}, got others: {', '.join(wrong[:3])} missing or unexpected")


def filtered(state_dict: Mapping[str, Tensor], trunk: nn.Module) -> State:
    """Through timm's own filter for the architecture, which knows its authors' names and resizes what it must."""
    modules = (sys.modules[kind.__module__] for kind in type(trunk).__mro__)
    through = next(filter(None, (getattr(module, "checkpoint_filter_fn", None) for module in modules)), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about how the filter resamples
        return dict(state_dict) if through is None else dict(through(dict(state_dict), trunk))


def head_prefixes(trunk: Any) -> tuple[str, ...]:
    """How the names of the pretrained head's weights begin."""
    names = (getattr(trunk, "pretrained_cfg", None) or {}).get("classifier") or "head"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def set_attention(model: nn.Module, attention: Attention) -> None:
    """Chooses eager or fused (SDPA) attention in every attention layer of `model`."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = attention == "sdpa"  # type: ignore[assignment]
