"""The pretrained ViT: made by timm at the run's resolution, with its position embedding resized."""

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import timm
import torch
from timm.layers import Attention as PlainAttention
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from benchmarks.config import Attention
from benchmarks.errors import UserError
from methods.contract import Method, Need


@dataclass(frozen=True)
class Backbone:
    """A ViT that is not in timm's table.

    Attributes:
        name: On the command line and in records.
        create: `create(**size) -> VisionTransformer` with random weights; `size` is empty for the image side that it
            was pretrained with, else `img_size`, the side in px.
    """

    name: str
    create: Callable[..., VisionTransformer]


BACKBONES: dict[str, Backbone] = {}  # those of plugins, beside timm's


def known_backbones() -> list[str]:
    """Names of all backbones: timm's plain ViTs, then those of plugins."""
    return [*timm.list_models(module="vision_transformer"), *BACKBONES]


def is_backbone(name: str) -> bool:
    """Whether there is such a backbone; timm's may have a tag behind a dot."""
    return name in BACKBONES or name.partition(".")[0] in timm.list_models(module="vision_transformer")


def check_backbone(name: str) -> None:
    """Checks that there is a plain ViT of that name.

    Raises:
        UserError: There is none; the message has the nearest names.
    """
    if not is_backbone(name):
        architecture, known = name.partition(".")[0], known_backbones()
        nearest = ", ".join(difflib.get_close_matches(architecture, known, n=3)) or "see bench.py list backbones"
        raise UserError(f"backbone must be a timm ViT, got {name!r}; nearest: {nearest}")


def check_needs(name: str, method: Method) -> None:
    """Checks that a backbone has what a method asks of it; made on the meta device, without weights.

    Raises:
        UserError: It has not; the message says what it lacks.
    """
    lacking = [reason for need, reason in _lacks(name).items() if need in method.needs]
    if lacking:
        raise UserError(
            f"backbone must suit {method.name}, got {name!r}, which has {' and '.join(lacking)}; choose another "
            "--backbone or leave the method out"
        )


@functools.cache
def _lacks(name: str) -> dict[Need, str]:
    """What a backbone does not have of all that methods may need, and what it has instead."""
    with torch.device("meta"):
        blocks = create_backbone(name).blocks
    lacks: dict[Need, str] = {}
    attentions = [getattr(block, "attn", None) for block in blocks]
    kind = "fused with the MLP" if attentions[0] is None else f"of another kind ({type(attentions[0]).__name__})"
    if not all(type(block) is Block for block in blocks):
        lacks["blocks"] = f"blocks of another kind ({type(blocks[0]).__name__})"
    if not all(isinstance(getattr(attn, "qkv", None), nn.Linear) for attn in attentions):
        lacks["qkv"] = "no joint projection of queries, keys and values"
    if not all(isinstance(attn, PlainAttention) and getattr(attn, "gate", None) is None for attn in attentions):
        lacks["attention"] = f"attention {kind}"
    return lacks


@functools.cache
def patch_size(name: str) -> int:
    """Side length (px) of a patch of the backbone; made on the meta device, without weights."""
    with torch.device("meta"):
        return int(create_backbone(name).patch_embed.patch_size[0])


def effective_resolution(resolution: int, patch: int) -> int:
    """The multiple of the patch size nearest to `resolution`, the larger of two equally near, in px.

    Raises:
        UserError: `resolution` is smaller than a patch.
    """
    if resolution < patch:
        raise UserError(f"resolution must be at least one patch of {patch} px, got {resolution!r}")
    return (2 * resolution + patch) // (2 * patch) * patch


def create_backbone(
    name: str, resolution: int | None = None, state_dict: Mapping[str, Tensor] | None = None
) -> VisionTransformer:
    """Makes the ViT with its pretrained head still attached, in eval mode.

    Args:
        name: A timm ViT, or one of a plugin.
        resolution: Image side (px), a multiple of the patch size; None for the pretrained size.
        state_dict: Weights under timm's names; position embeddings of another size are resized bicubically. A head
            in it is passed over. None leaves random weights.

    Raises:
        UserError: There is no such ViT, or the weights do not fit it.
    """
    check_backbone(name)
    size = {} if resolution is None else {"img_size": resolution}
    vit = BACKBONES[name].create(**size) if name in BACKBONES else timm.create_model(name, pretrained=False, **size)
    if not isinstance(vit, VisionTransformer):
        raise UserError(f"backbone must be a plain timm ViT, got {name!r} ({type(vit).__name__})")
    if state_dict is not None:
        _load_trunk(vit, state_dict, name)
    return vit.eval()


def _load_trunk(vit: VisionTransformer, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Loads all weights but the head's, which no method uses and checkpoints may lack."""
    trunk = {key: tensor for key, tensor in checkpoint_filter_fn(dict(state_dict), vit).items() if key[:5] != "head."}
    try:
        missing, unexpected = vit.load_state_dict(trunk, strict=False)
    except RuntimeError as error:
        raise UserError(f"weights must be those of {name}, got others: {' '.join(str(error).split())[:300]}") from error
    wrong = [key for key in missing if key[:5] != "head."] + unexpected
    if wrong:
        raise UserError(f"weights must be those of {name}, got others: {', '.join(wrong[:3])} missing or unexpected")


def set_attention(model: nn.Module, attention: Attention) -> None:
    """Chooses eager or fused (SDPA) attention in every attention layer of `model`."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = attention == "sdpa"  # type: ignore[assignment]
