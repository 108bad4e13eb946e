"""RepAdapter (Luo et al., arXiv 2302.08106): linear bottlenecks in front of the attention and of the MLP.

u + scale * (up(dropout(down(u)))), u = LN(x), is what the projection of queries, keys and values gets, and the first
layer of the MLP. There is nothing but linear layers in it, and `up` is block-diagonal, of `groups` blocks. Bottlenecks
and the new head train. `up` starts at zero, so the model starts as the pretrained one; `down` starts Xavier uniform,
biases at zero.

It is used merged (`merge`): W (I + scale * U V) and b + scale * W (U b_down + b_up) for every layer W, b that reads it,
with V, U the matrices of `down` and `up`.

Departures: no drop path, nor the norms of `up` and its bias that the released trainer adds to the loss; one scale for
all tasks.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Factor, ImageModel, Method, OptionError, Recipe, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of RepAdapter (docs/methods.md): the authors', but for the scale."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    bottleneck_dim: Count = 8
    groups: Count = 2
    scale: Factor = 1.0
    dropout: Dropout = 0.1


class LinearAdapter(nn.Module):
    """A residual bottleneck without a nonlinearity.

    Args:
        embed_dim: Width D of the tokens.
        config: Options of the method.
    """

    def __init__(self, embed_dim: int, config: Config) -> None:
        super().__init__()
        rank, groups = config.bottleneck_dim, config.groups
        self.down_proj = nn.Linear(embed_dim, rank)
        self.up_weight = nn.Parameter(torch.zeros(groups, embed_dim // groups, rank // groups))
        self.up_bias = nn.Parameter(torch.zeros(embed_dim))
        self.drop = nn.Dropout(config.dropout)
        self.scale = config.scale
        nn.init.xavier_uniform_(self.down_proj.weight)
        nn.init.zeros_(self.down_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the bottleneck's output to its input.

        Shape:
            - x: `(B, N, D)`
            - Output: `(B, N, D)`
        """
        groups, _, rank = self.up_weight.shape
        narrow = self.drop(self.down_proj(x)).unflatten(-1, (groups, rank))  # (B, N, groups, R / groups)
        wide = torch.einsum("bngr,gdr->bngd", narrow, self.up_weight).flatten(-2)  # (B, N, D)
        return x + self.scale * (wide + self.up_bias)

    def affine(self) -> tuple[Tensor, Tensor]:
        """What it computes as one linear layer: weight `(D, D)` and bias `(D,)`."""
        up = torch.block_diag(*self.up_weight)  # (D, R)
        weight = torch.eye(len(up)).to(up) + self.scale * up @ self.down_proj.weight
        return weight, self.scale * (up @ self.down_proj.bias + self.up_bias)


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, puts a bottleneck behind both norms of every block and attaches the head.

    Raises:
        OptionError: `groups` divides neither the bottleneck's width nor the tokens'.
    """
    freeze(backbone)
    for name, width in (("bottleneck_dim", config.bottleneck_dim), ("the backbone's width", backbone.embed_dim)):
        if width % config.groups:
            raise OptionError(f"groups must divide {name}, {width}, got {config.groups!r}")
    for index in range(len(backbone.blocks())):
        for (parent, name, width), _ in backbone.inputs(index):
            setattr(parent, name, nn.Sequential(getattr(parent, name), LinearAdapter(width, config)))
    return ImageModel(backbone, num_classes)


@torch.no_grad()
def merge(model: Any) -> Any:
    """Folds the bottlenecks into the layers that read them; the model computes the same without them."""
    backbone: Backbone = model.backbone
    for index in range(len(backbone.blocks())):
        for (parent, name, _), readers in backbone.inputs(index):
            norm, adapter = getattr(parent, name)
            weight, bias = adapter.affine()
            for reader in readers:
                shift = reader.weight @ bias
                reader.bias = nn.Parameter(shift if reader.bias is None else reader.bias + shift)
                reader.weight.copy_(reader.weight @ weight)
            setattr(parent, name, norm)
    return model


def count(backbone: Backbone, config: Config) -> int:
    """2 L (D R + R + D R / groups + D)."""
    width, rank = backbone.embed_dim, config.bottleneck_dim
    return 2 * len(backbone.blocks()) * (width * rank + rank + width * rank // config.groups + width)


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Trains by the defaults; is used merged."""
    return Recipe(before_inference=merge)


METHOD = Method(
    "repadapter",
    "RepAdapter",
    "Luo et al., Towards Efficient Visual Adaption via Structural Re-parameterization, arXiv 2302.08106",
    Config,
    build,
    count,
    recipe=recipe,
    needs=frozenset({"inputs"}),
    starts_as_pretrained=True,
)
