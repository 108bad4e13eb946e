"""Bottleneck adapters (Houlsby et al., ICML 2019, arXiv 1902.00751), placed as by Pfeiffer et al. (EACL 2021).

One adapter a block, after the MLP and before the residual addition: h + scale * up(GELU(down(h))). Adapters and the new
head train. The up projection starts at zero, so the model starts as the pretrained one; the down projection starts
Kaiming uniform (with both at zero, as in two public codes, only a bias would ever train).
Where a block has layer scale, the adapter comes after it: it edits what is added to the residual stream.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Factor, ImageModel, Method, OptionError, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of the adapter (docs/methods.md; D / 8 reproduces the published 2.03 %)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    reduction: Count = 8
    scale: Factor = 1.0


class Adapter(nn.Module):
    """A residual bottleneck.

    Args:
        embed_dim: Width D of the tokens.
        bottleneck_dim: Width R of the bottleneck.
        scale: Factor of the bottleneck's output.
    """

    def __init__(self, embed_dim: int, bottleneck_dim: int, scale: float) -> None:
        super().__init__()
        self.down_proj = nn.Linear(embed_dim, bottleneck_dim)
        self.up_proj = nn.Linear(bottleneck_dim, embed_dim)
        self.act = nn.GELU()
        self.scale = scale
        init_to_add_nothing(self.down_proj, self.up_proj)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the bottleneck's output to its input.

        Shape:
            - x: `(B, N, D)`
            - Output: `(B, N, D)`
        """
        return x + self.scale * self.up_proj(self.act(self.down_proj(x)))


def init_to_add_nothing(down_proj: nn.Linear, up_proj: nn.Linear) -> None:
    """Starts a bottleneck: down Kaiming uniform, up and both biases at zero."""
    nn.init.kaiming_uniform_(down_proj.weight, a=5**0.5)
    nn.init.zeros_(down_proj.bias)
    nn.init.zeros_(up_proj.weight)
    nn.init.zeros_(up_proj.bias)


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, puts an adapter behind every block's MLP and attaches the head.

    Raises:
        OptionError: `reduction` leaves no bottleneck.
    """
    freeze(backbone)
    widths = backbone.block_widths()
    if config.reduction > min(widths):
        raise OptionError(f"reduction must be at most {min(widths)}, the backbone's width, got {config.reduction!r}")
    for index, width in enumerate(widths):
        backbone.put_behind_mlp(index, Adapter(width, width // config.reduction, config.scale))
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (D R + R + R D + D) with bottleneck R = floor(D / reduction), summed over blocks where their widths differ."""
    bottlenecks = ((width, width // config.reduction) for width in backbone.block_widths())
    return sum(2 * width * bottleneck_dim + bottleneck_dim + width for width, bottleneck_dim in bottlenecks)


METHOD = Method(
    "adapter",
    "Adapter",
    "Houlsby et al., ICML 2019; Pfeiffer et al., EACL 2021",
    Config,
    build,
    count,
    needs=frozenset({"mlp"}),
    starts_as_pretrained=True,
)
