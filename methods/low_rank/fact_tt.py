"""FacT-TT (Jie & Deng, AAAI 2023, arXiv 2212.03145): one low-rank tensor updates the linear layers of all blocks.

The weights of queries, keys, values and output, and of both layers of the MLP, are cut into D x D squares, 12 a block
where the MLP is as wide as usual. Of each, W + scale * V S U: U (R x D) and V (D x R) are shared by all squares of all
blocks, S (R x R) is the square's own; in a layer whose input has several squares, their sums add up. U, V, every S and
the new head train. V starts at zero, so the model starts as the pretrained one; U and S start Kaiming uniform. Dropout
stands between S and V.

It is used merged (`merge`). Departures: no drop path; one scale for all tasks. The authors start the S of the MLP's
second layer, which they hold as one matrix of four, by its fan-in 4 R; here all start alike.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Factor, ImageModel, Method, Recipe, freeze
from methods.low_rank.merging import exchange


@dataclass(frozen=True)
class Config:
    """Defaults of FacT-TT (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    rank: Count = 8
    scale: Factor = 1.0
    dropout: Dropout = 0.1


class Factors(nn.Module):
    """What all squares share.

    Args:
        embed_dim: Width D of the tokens.
        config: Options of the method, `rank` R among them.
    """

    def __init__(self, embed_dim: int, config: Any) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(config.rank, embed_dim))  # U
        self.up = nn.Parameter(torch.zeros(embed_dim, config.rank))  # V
        self.drop = nn.Dropout(config.dropout)
        self.scale = config.scale
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def cores(self, first: int, number: int) -> Tensor:
        """The matrices S `(number, R, R)` of some squares, counted over all blocks, from their input to their output.

        Row `r` weighs entry `r` of what U yields.
        """
        raise NotImplementedError


class TensorTrain(Factors):
    """A matrix S for each of `num_squares` squares."""

    def __init__(self, embed_dim: int, num_squares: int, config: Any) -> None:
        super().__init__(embed_dim, config)
        bound = config.rank**-0.5  # Kaiming uniform with a = sqrt(5), for R inputs
        self.core = nn.Parameter(torch.empty(num_squares, config.rank, config.rank).uniform_(-bound, bound))

    def cores(self, first: int, number: int) -> Tensor:
        """As they are."""
        return self.core[first : first + number]


class TensorUpdate(nn.Module):
    """A linear layer and its update.

    Args:
        layer: Its weight is `(outs * D, ins * D)`.
        factors: Shared with other layers, so it is none of this module's own.
        first: Number of the layer's first square.
    """

    def __init__(self, layer: nn.Linear, factors: Factors, first: int) -> None:
        super().__init__()
        self.layer, self.first = layer, first
        self._factors = (factors,)
        self.outs, self.ins = squares_of(layer, factors.up.shape[0])

    def cores(self) -> Tensor:
        """Its matrices S, `(outs, ins, R, R)`."""
        cores = self._factors[0].cores(self.first, self.outs * self.ins)
        return cores.unflatten(0, (self.outs, self.ins))

    def forward(self, x: Tensor) -> Tensor:
        """Adds the update to what the layer computes.

        Shape:
            - x: `(B, N, ins * D)`
            - Output: `(B, N, outs * D)`
        """
        (factors,) = self._factors
        narrow = x.unflatten(-1, (self.ins, -1)) @ factors.down.T  # (B, N, ins, R)
        mixed = torch.einsum("bnir,oirs->bnos", narrow, self.cores())
        update = (factors.drop(mixed) @ factors.up.T).flatten(-2)  # (B, N, outs * D)
        output: Tensor = self.layer(x) + factors.scale * update
        return output

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The layer with the update in its weight."""
        (factors,) = self._factors
        update = torch.einsum("ds,oirs,re->odie", factors.up, self.cores(), factors.down)  # (outs, D, ins, D)
        self.layer.weight += factors.scale * update.reshape(self.layer.weight.shape)
        return self.layer


class FactModel(ImageModel):
    """A backbone whose layers are updated by shared factors.

    Args:
        backbone: Its layers are replaced by updated ones.
        num_classes: Number of classes C.
        factors: The shared ones.
    """

    def __init__(self, backbone: Backbone, num_classes: int, factors: Factors) -> None:
        super().__init__(backbone, num_classes)
        self.factors = factors
        first = 0
        for index in range(len(backbone.blocks())):
            for parent, name, _ in backbone.squares(index):
                update = TensorUpdate(getattr(parent, name), factors, first)
                setattr(parent, name, update)
                first += update.outs * update.ins


def squares_of(layer: nn.Linear, width: int) -> tuple[int, int]:
    """How many squares a layer's outputs and its inputs make."""
    return layer.out_features // width, layer.in_features // width


def num_squares(backbone: Backbone) -> int:
    """Squares of all blocks: 12 L where the MLP is as wide as usual."""
    total = 0
    for index in range(len(backbone.blocks())):
        for parent, name, _ in backbone.squares(index):
            outs, ins = squares_of(getattr(parent, name), backbone.embed_dim)
            total += outs * ins
    return total


def build(backbone: Backbone, num_classes: int, config: Config) -> FactModel:
    """Freezes the backbone, adds the updates to the linear layers of all blocks and attaches the head."""
    freeze(backbone)
    return FactModel(backbone, num_classes, TensorTrain(backbone.embed_dim, num_squares(backbone), config))


def merge(model: nn.Module) -> nn.Module:
    """Adds the updates to the weights; the model computes the same without them."""
    exchange(model, lambda module: isinstance(module, TensorUpdate), TensorUpdate.merged)
    del model.factors
    return model


def count(backbone: Backbone, config: Config) -> int:
    """2 D R + 12 L R^2."""
    return 2 * backbone.embed_dim * config.rank + num_squares(backbone) * config.rank**2


def recipe(model: nn.Module, config: Any, num_steps: int) -> Recipe:
    """Trains by the defaults; is used merged."""
    return Recipe(before_inference=merge)


METHOD = Method(
    "fact_tt",
    "FacT-TT",
    "Jie & Deng, FacT, AAAI 2023, arXiv 2212.03145",
    Config,
    build,
    count,
    recipe=recipe,
    needs=frozenset({"squares"}),
    starts_as_pretrained=True,
)
