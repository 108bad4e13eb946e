"""AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535): a bottleneck beside the MLP of every block.

With x' what a block's attention leaves in the residual stream, the block yields
x' + MLP(LN(x')) + scale * up(dropout(ReLU(down(x')))). The bottleneck reads the stream in front of the norm, has no
norm of its own, and stands beside layer scale where a block has that. It and the new head train. The up projection
starts at zero, so the model starts as the pretrained one; the down projection starts Kaiming uniform, biases at zero.

Departures: AdamW and a plain linear head; the authors train with SGD and put a batch norm without weights before
theirs. Swin V2, whose norm follows the MLP, has the bottleneck beside both.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from methods.adapters.adapter import init_to_add_nothing
from methods.backbone import Backbone
from methods.contract import Count, Dropout, Factor, ImageModel, Method, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of AdaptFormer (docs/methods.md): bottleneck, scale and dropout are the authors'."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    bottleneck_dim: Count = 64
    scale: Factor = 0.1
    dropout: Dropout = 0.1


class ParallelAdapter(nn.Module):
    """A bottleneck whose output is added to that of what it stands beside.

    Args:
        embed_dim: Width D of the tokens.
        bottleneck_dim: Width R of the bottleneck.
        scale: Factor of its output.
        dropout: Share of the bottleneck's channels that training drops.
    """

    def __init__(self, embed_dim: int, bottleneck_dim: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.down_proj = nn.Linear(embed_dim, bottleneck_dim)
        self.up_proj = nn.Linear(bottleneck_dim, embed_dim)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(dropout)
        self.scale = scale
        init_to_add_nothing(self.down_proj, self.up_proj)

    def forward(self, x: Tensor) -> Tensor:
        """What is added.

        Shape:
            - x: `(B, N, D)`
            - Output: `(B, N, D)`
        """
        return self.scale * self.up_proj(self.drop(self.act(self.down_proj(x))))


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, puts a bottleneck beside every block's MLP and attaches the head."""
    freeze(backbone)
    for index, width in enumerate(backbone.block_widths()):
        adapter = ParallelAdapter(width, config.bottleneck_dim, config.scale, config.dropout)
        backbone.put_beside_mlp(index, adapter)
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (D R + R + R D + D), summed over blocks where their widths differ."""
    return sum(2 * width * config.bottleneck_dim + config.bottleneck_dim + width for width in backbone.block_widths())


METHOD = Method(
    "adaptformer",
    "AdaptFormer",
    "Chen et al., AdaptFormer, NeurIPS 2022, arXiv 2205.13535",
    Config,
    build,
    count,
    needs=frozenset({"branches"}),
    starts_as_pretrained=True,
)
