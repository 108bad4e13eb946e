"""DiffFit (Xie et al., ICCV 2023, arXiv 2304.06648): biases, norms and a factor a channel of what each branch adds.

x + g1 * Attention(LN(x)), then x + g2 * MLP(LN(x)); g1 and g2 of every block, all biases, the weights of all norms and
the new head train. The factors start at one, so the model starts as the pretrained one. Where a block has layer scale,
the factors stand behind it.

Departures: the paper is about diffusion, where the embedding of the class that is drawn trains too; a classifier has
none. Batch norms, whose families have no branch of attention, do not occur.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import ImageModel, Method, train_only


@dataclass(frozen=True)
class Config:
    """Defaults of DiffFit: those of BitFit (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 1e-2
    weight_decay: float = 1e-4


class BranchScale(nn.Module):
    """A factor a channel, one at the start.

    Args:
        width: Number of channels, the last axis.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scales the channels."""
        return x * self.gamma


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes all but biases and norms, puts factors behind both branches of every block and attaches the head."""
    train_only(backbone, _selected(backbone))
    for index, width in enumerate(backbone.block_widths()):
        backbone.put_behind_attention(index, BranchScale(width))
        backbone.put_behind_mlp(index, BranchScale(width))
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (11 D + 2 D + 2 D) + 3 D on a plain ViT: biases; weights of norms; factors; 3 D are outside the blocks."""
    return sum(parameter.numel() for parameter in _selected(backbone)) + 2 * sum(backbone.block_widths())


def _selected(backbone: Backbone) -> set[nn.Parameter]:
    head = set(backbone.head_parameters())
    return {*backbone.biases(), *backbone.norms()} - head


METHOD = Method(
    "difffit",
    "DiffFit",
    "Xie et al., DiffFit, ICCV 2023, arXiv 2304.06648",
    Config,
    build,
    count,
    needs=frozenset({"branches"}),
    starts_as_pretrained=True,
)
