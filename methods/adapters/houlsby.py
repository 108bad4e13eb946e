"""Houlsby's adapters (ICML 2019, arXiv 1902.00751): two a block, behind the attention and behind the MLP.

Each edits what its branch adds to the residual stream, h + up(GELU(down(h))), behind the layer scale where a block has
one; `adapter` has only the second. Adapters and the new head train. Both projections start normal with a small
deviation, cut at twice of it, biases at zero, so the model starts near the pretrained one, not at it.

Departure: the paper trains the norms too; here they are frozen, as in the later comparisons of adapters on ViTs
(Steitz & Roth, CVPR 2024).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods.adapters.adapter import Adapter
from methods.backbone import Backbone
from methods.contract import Count, Factor, ImageModel, Method, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of Houlsby's adapters (docs/methods.md): bottleneck and start are the paper's."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    bottleneck_dim: Count = 64
    std: Factor = 0.01


def init_near_zero(layer: nn.Linear, std: float) -> None:
    """Houlsby's start: normal with deviation `std`, cut at twice of it; zero bias."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, puts an adapter behind both branches of every block and attaches the head."""
    freeze(backbone)
    for index, width in enumerate(backbone.block_widths()):
        for put_behind in (backbone.put_behind_attention, backbone.put_behind_mlp):
            adapter = Adapter(width, config.bottleneck_dim, scale=1.0)
            init_near_zero(adapter.down_proj, config.std)
            init_near_zero(adapter.up_proj, config.std)
            put_behind(index, adapter)
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """2 L (D R + R + R D + D), summed over blocks where their widths differ."""
    return sum(
        2 * (2 * width * config.bottleneck_dim + config.bottleneck_dim + width) for width in backbone.block_widths()
    )


METHOD = Method(
    "houlsby",
    "Adapter (Houlsby)",
    "Houlsby et al., ICML 2019, arXiv 1902.00751",
    Config,
    build,
    count,
    needs=frozenset({"branches"}),
)
