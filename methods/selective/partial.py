"""Partial fine-tuning (Yosinski et al., NeurIPS 2014, arXiv 1411.1792; Partial-k of Jia et al., ECCV 2022, 2203.12119).

The last `num_blocks` blocks, with the downsampling in front of a block that has one, what stands behind them (the final
norm, a pooling that has parameters), and the new head train. He et al. (MAE, CVPR 2022, arXiv 2111.06377) fine-tune so
too. No gradient enters the blocks below, so they keep nothing for the backward pass. The model starts as the pretrained
one.

Batch norms of the trained blocks normalise by the statistics of the batch in training, and their running statistics
follow; those below keep theirs.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods.backbone import Backbone
from methods.contract import Count, ImageModel, Method, OptionError, train_only


@dataclass(frozen=True)
class Config:
    """Defaults of partial fine-tuning: Partial-1, with the rates of full fine-tuning (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    lr: float = 1e-4
    weight_decay: float = 0.05
    num_blocks: Count = 1


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes all but the last blocks and what stands behind them, and attaches the head.

    Raises:
        OptionError: `num_blocks` is more than there are.
    """
    depth = len(backbone.blocks())
    if config.num_blocks > depth:
        raise OptionError(f"num_blocks must be at most {depth}, the backbone's blocks, got {config.num_blocks!r}")
    train_only(backbone, _selected(backbone, config))
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """k (12 D^2 + 13 D) + 2 D on a plain ViT: k blocks and the final norm."""
    return sum(parameter.numel() for parameter in _selected(backbone, config))


def _selected(backbone: Backbone, config: Config) -> list[nn.Parameter]:
    head = set(backbone.head_parameters())
    last = backbone.layers()[-1 - config.num_blocks :]
    return [parameter for layer in last for parameter in layer if parameter not in head]


METHOD = Method(
    "partial",
    "Partial fine-tuning",
    "Yosinski et al., NeurIPS 2014, arXiv 1411.1792; Jia et al., Partial-k, ECCV 2022, arXiv 2203.12119",
    Config,
    build,
    count,
    needs=frozenset({"blocks"}),
    starts_as_pretrained=True,
)
