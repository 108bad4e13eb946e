"""DTL+ (Fu, Zhu & Wu, AAAI 2024, arXiv 2312.07856): DTL with one convolution that all blocks share.

As `dtl`, but phi(h_l) passes a depthwise 3 x 3 convolution of the patches on their grid before it is added; prefix
tokens skip it. Its 9 D weights, without bias, train beside DTL's: 2 L D R + 9 D, 43,776 on ViT-B/16. It starts as
PyTorch's layers do, and the model as the pretrained one, since phi(0) = 0. Departures: those of `dtl`; the authors have
one prefix token and 14 x 14 patches, here prefix and grid are the backbone's.
"""

import math

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Method, OptionError
from methods.side.block_outputs import first_block, first_outputs
from methods.side.dtl import Config, SidePath, SidePathModel
from methods.side.dtl import count as count_path


class ConvolvedPath(SidePath):
    """What the side path adds behind a block.

    Args:
        embed_dim: Width D of the tokens.
        rank: Rank R.
        depth: Number L of blocks.
        num_prefix_tokens: Tokens before the patches.
    """

    def __init__(self, embed_dim: int, rank: int, depth: int, num_prefix_tokens: int) -> None:
        super().__init__(embed_dim, rank, depth)
        self.conv = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim, bias=False)
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, codes: Tensor) -> Tensor:
        """phi(h), convolved; the patches are those of a square image."""
        added = super().forward(codes)  # (B, N, D)
        prefix, patches = added[:, : self.num_prefix_tokens], added[:, self.num_prefix_tokens :]
        side = math.isqrt(patches.shape[1])
        grid = self.conv(patches.mT.unflatten(-1, (side, side)))  # (B, D, side, side)
        return torch.cat([prefix.to(grid.dtype), grid.flatten(2).mT], dim=1)


def build(backbone: Backbone, num_classes: int, config: Config) -> SidePathModel:
    """Builds the side path beside a copy of the last blocks; the first live in the extractor.

    Raises:
        OptionError: The path enters one block alone, and no token that is read hears of the convolution.
    """
    depth = len(backbone.blocks())
    first = first_block(backbone, config.num_blocks)
    if first == depth - 1 and not backbone.pooling().patches:
        raise OptionError(
            f"num_blocks must be at least 2 where features are the class token's, got {config.num_blocks!r}; behind "
            "the last block the convolution changes patches alone"
        )
    path = ConvolvedPath(backbone.embed_dim, config.rank, depth, backbone.num_prefix_tokens)
    return SidePathModel(backbone, num_classes, path, first)


def count(backbone: Backbone, config: Config) -> int:
    """2 L D R + 9 D."""
    return count_path(backbone, config) + 9 * backbone.embed_dim


METHOD = Method(
    "dtl_plus",
    "DTL+",
    "Fu, Zhu & Wu, DTL: Disentangled Transfer Learning, AAAI 2024, arXiv 2312.07856",
    Config,
    build,
    count,
    extractor=first_outputs,
    needs=frozenset({"tokens"}),
    starts_as_pretrained=True,
)
