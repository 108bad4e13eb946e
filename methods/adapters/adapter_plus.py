"""Adapter+ (Steitz & Roth, CVPR 2024, arXiv 2406.06820): a bottleneck behind every block, with a factor a channel.

With y what a block yields, its last residual sum included, the next one gets y + g * up(GELU(down(y))), no norm inside.
Both projections, the vector g and the new head train. The projections start as Houlsby's, normal with a small deviation
and zero biases, and g at one, so the model starts near the pretrained one, not at it.

Departure: no drop path, which the authors have in adapters and backbone alike.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.adapters.houlsby import init_near_zero
from methods.backbone import Backbone
from methods.contract import Count, Factor, ImageModel, Method, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of Adapter+ (docs/methods.md): the authors'."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    bottleneck_dim: Count = 8
    std: Factor = 0.01


class ScaledAdapter(nn.Module):
    """A residual bottleneck whose output has a learned factor a channel.

    Args:
        embed_dim: Width D of the tokens.
        bottleneck_dim: Width R of the bottleneck.
        std: Standard deviation of both projections' start.
    """

    def __init__(self, embed_dim: int, bottleneck_dim: int, std: float) -> None:
        super().__init__()
        self.down_proj = nn.Linear(embed_dim, bottleneck_dim)
        self.up_proj = nn.Linear(bottleneck_dim, embed_dim)
        self.act = nn.GELU()
        self.scale = nn.Parameter(torch.ones(embed_dim))
        init_near_zero(self.down_proj, std)
        init_near_zero(self.up_proj, std)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the scaled bottleneck's output to its input.

        Shape:
            - x: `(B, N, D)`
            - Output: `(B, N, D)`
        """
        return x + self.scale * self.up_proj(self.act(self.down_proj(x)))


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, puts an adapter behind every block and attaches the head."""
    freeze(backbone)
    for index, width in enumerate(backbone.block_widths()):
        backbone.put_behind_block(index, ScaledAdapter(width, config.bottleneck_dim, config.std))
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (D R + R + R D + D + D), summed over blocks where their widths differ."""
    return sum(
        2 * width * config.bottleneck_dim + config.bottleneck_dim + 2 * width for width in backbone.block_widths()
    )


METHOD = Method(
    "adapter_plus",
    "Adapter+",
    "Steitz & Roth, Adapters Strike Back, CVPR 2024, arXiv 2406.06820",
    Config,
    build,
    count,
    needs=frozenset({"blocks"}),
)
