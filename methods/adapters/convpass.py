"""Convpass (Jie & Deng, arXiv 2207.07039): a convolutional bottleneck beside the attention and beside the MLP.

b(u) = up(dropout(q(conv(q(down(u)))))), q(t) = t sigmoid(1.702 t), conv a 3 x 3 convolution of the patches on their
grid. Of every block, x + Attention(u) + scale * b(u) with u = LN(x), and the same beside the MLP. Bottlenecks and the
new head train. The up projection starts at zero, so the model starts as the pretrained one; down starts Xavier uniform,
the convolution as the identity, all biases at zero.

As with the authors, the class token passes the convolution as an image of one pixel, of which only the kernel's centre
sees anything. Theirs has one prefix token, 14 x 14 patches and a width of 768; here every prefix token goes that way,
and grid and width are the backbone's. Departure: no drop path. Where a block has layer scale, the bottleneck stands
beside it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Factor, ImageModel, Method, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of Convpass (docs/methods.md): the authors', their scale that for retinopathy."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    bottleneck_dim: Count = 8
    scale: Factor = 1.0
    dropout: Dropout = 0.1


class ConvBypass(nn.Module):
    """A bottleneck that convolves the patches on their grid.

    Args:
        embed_dim: Width D of the tokens.
        num_prefix_tokens: Tokens before the patches.
        config: Options of the method.
    """

    def __init__(self, embed_dim: int, num_prefix_tokens: int, config: Config) -> None:
        super().__init__()
        rank = config.bottleneck_dim
        self.down_proj = nn.Linear(embed_dim, rank)
        self.conv = nn.Conv2d(rank, rank, 3, padding=1)
        self.up_proj = nn.Linear(rank, embed_dim)
        self.drop = nn.Dropout(config.dropout)
        self.num_prefix_tokens, self.scale = num_prefix_tokens, config.scale
        nn.init.xavier_uniform_(self.down_proj.weight)
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.up_proj.weight)
        for layer in (self.down_proj, self.conv, self.up_proj):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """What is added.

        Shape:
            - x: `(B, N, D)`, the patches those of a square image
            - Output: `(B, N, D)`
        """
        x = _quick_gelu(self.down_proj(x))
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        side = math.isqrt(patches.shape[1])
        grid = self.conv(patches.mT.unflatten(-1, (side, side)))  # (B, R, side, side)
        alone = F.linear(prefix, self.conv.weight[:, :, 1, 1], self.conv.bias)
        x = torch.cat([alone, grid.flatten(2).mT], dim=1)  # (B, N, R)
        return self.scale * self.up_proj(self.drop(_quick_gelu(x)))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, puts a bottleneck beside every block's attention and MLP and attaches the head."""
    freeze(backbone)
    for index, width in enumerate(backbone.block_widths()):
        attention, mlp = (ConvBypass(width, backbone.num_prefix_tokens, config) for _ in range(2))
        backbone.put_beside_layers(index, attention, mlp)
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """2 L (D R + R + 9 R^2 + R + R D + D)."""
    rank = config.bottleneck_dim
    return sum(2 * (2 * width * rank + rank + width + 9 * rank**2 + rank) for width in backbone.block_widths())


METHOD = Method(
    "convpass",
    "Convpass",
    "Jie & Deng, Convolutional Bypasses Are Better Vision Transformer Adapters, arXiv 2207.07039",
    Config,
    build,
    count,
    needs=frozenset({"inputs"}),
    starts_as_pretrained=True,
)
