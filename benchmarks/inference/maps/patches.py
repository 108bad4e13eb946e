"""A map over the patches of an image, and what every way to make one shares."""

import math
from typing import NamedTuple

from torch import Tensor

from benchmarks.inference.trained import TrainedModel
from benchmarks.model.families.tokens import TokenBackbone
from methods.backbone import Backbone

Views = dict[str, Tensor]  # of one image, by name, each (1, 3, side, side), as model and extractor get them


class Unsupported(Exception):
    """A way does not suit a model; the message ends the sentence "<way> needs ..."."""


class PatchMap(NamedTuple):
    """What a model makes of each patch of an image.

    Attributes:
        values: `(h, w)`, from the upper left; higher is more. Attention sums to one.
        share: Of all attention, what lies on patches and not on class token, registers and prompts; None of other maps.
    """

    values: Tensor
    share: float | None = None


def attention_map(tokens: Tensor, side: int) -> PatchMap:
    """The map of an attention to all tokens, the patches last.

    Shape:
        - tokens: `(N,)`, summing to one
    """
    patches = tokens[-side * side :].float().cpu()
    share = float(patches.sum())
    return PatchMap((patches / share).unflatten(0, (side, side)), share)


def backbone_of(model: TrainedModel) -> Backbone | None:
    """The backbone that sees the image; None where the method keeps it in a place of its own."""
    found = getattr(model.model if model.extractor is None else model.extractor, "backbone", None)
    return found if isinstance(found, Backbone) else None


def patches_a_side(backbone: Backbone, resolution: int, num_tokens: int) -> int:
    """How many patches, or places of the last map, there are along each side of a square image.

    Args:
        backbone: The backbone.
        resolution: Of the image (px).
        num_tokens: Of a network that has no token sequence: all are places.
    """
    if isinstance(backbone, TokenBackbone):
        return resolution // backbone.patch_size
    return math.isqrt(num_tokens)
