"""What plain and lean extraction share: layers, heads, which tokens are kept, and how features are stored."""

import math
from typing import Literal

import torch
from torch import Tensor

from methods.backbone import Backbone
from methods.contract import OptionError

FeatureDtype = Literal["float16", "float32", "int8"]
DTYPES: dict[FeatureDtype, torch.dtype] = {"float16": torch.float16, "float32": torch.float32, "int8": torch.int8}


def parse_layers(spec: str, depth: int) -> tuple[int, ...]:
    """Reads a choice of blocks: `all`, `last-half`, a range `6-11`, a list `0,3,6,9`, or both mixed.

    Raises:
        OptionError: A part is no number or range, or names a block the backbone lacks.
    """
    if spec == "all":
        return tuple(range(depth))
    if spec == "last-half":
        return tuple(range(depth // 2, depth))
    layers: set[int] = set()
    for part in spec.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or (dash and not last.strip().isdigit()):
            raise OptionError(f"layers must be all, last-half or like 6-11 or 0,3,6,9, got {spec!r}")
        layers.update(range(int(first), int(last or first) + 1))
    if not layers or max(layers) >= depth:
        raise OptionError(f"layers must lie within 0-{depth - 1}, the blocks of this backbone, got {spec!r}")
    return tuple(sorted(layers))


def num_kept(keep_ratio: float, backbone: Backbone, num_tokens: int) -> int:
    """M = floor(keep_ratio N), the tokens that each head keeps.

    Args:
        keep_ratio: Share of tokens that is kept.
        backbone: The backbone.
        num_tokens: Number N of its tokens.

    Raises:
        OptionError: None is kept; the message says at which resolution one would be.
    """
    kept = math.floor(keep_ratio * num_tokens)
    if kept < 1:
        raise OptionError(
            f"keep_ratio must keep a token of {num_tokens}, got {keep_ratio!r}; choose a resolution of at least "
            f"{_smallest_resolution(keep_ratio, backbone)} px, or a larger keep_ratio"
        )
    return kept


def _smallest_resolution(keep_ratio: float, backbone: Backbone) -> int:
    """The image side (px) from which on a head keeps a token."""
    prefix = backbone.num_prefix_tokens
    patches_a_side = math.isqrt(max(math.ceil(1 / keep_ratio) - prefix - 1, 0)) + 1
    if math.floor(keep_ratio * (prefix + patches_a_side**2)) < 1:  # 49 times 1 / 49 is less than 1
        patches_a_side += 1
    return patches_a_side * backbone.patch_size


def most_important(received: Tensor, kept: int, head_dim: int) -> Tensor:
    """Indices of the tokens that receive the most attention `(B, A, N)`, in order, for `gather`: `(B, A, M, E)`."""
    best = received.topk(kept, dim=-1).indices.sort(dim=-1).values  # (B, A, M)
    return best.unsqueeze(-1).expand(-1, -1, -1, head_dim)


def stored(name: str, kept: Tensor, storage: FeatureDtype) -> dict[str, Tensor]:
    """A layer's kept keys or values `(B, A, M, E)` as features of the type asked for, by name."""
    if storage == "int8":
        return dict(zip((name, f"{name}_scale"), quantize(kept), strict=True))
    return {name: kept.to(DTYPES[storage])}


def quantize(features: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds features to 8 bits: `features` is about `quantized * scale`, off by at most half a scale.

    Shape:
        - features: `(B, A, M, E)`
        - Output: int8 `(B, A, M, E)`, and a scale for each channel over its tokens, fp32 `(B, A, 1, E)`
    """
    scale = features.float().abs().amax(dim=-2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (features / scale).round_().to(torch.int8), scale
