"""SHiRA (Bhardwaj et al., NeurIPS 2024, arXiv 2406.13175): a few random entries of the weights train.

On the layers that LoRA updates, R (o + i) entries of a weight (o x i), as many as LoRA of rank R has, get a number each
that is added to them; these and the new head train. Which entries is drawn for each layer by torch's generator, so it
follows the run's seed. The numbers start at zero, so the model starts as the pretrained one. It is used merged.

Hugging Face peft has it with a sparse tensor for the update, whose memory cannot be predicted; the update here is as
dense as the sum that peft makes of it. Departure: the paper's other masks, by size or gradient, are left out.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, ImageModel, Method, OptionError, Recipe, freeze
from methods.low_rank.merging import exchange


@dataclass(frozen=True)
class Config:
    """Defaults of SHiRA: peft's rank; a step moves entries of the weights themselves by the rate (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    lr: float = 3e-4
    weight_decay: float = 1e-4
    rank: Count = 32


class SparseUpdate(nn.Module):
    """A linear layer, some entries of whose weight are added to.

    Args:
        layer: Frozen.
        rank: Of a LoRA with as many parameters.

    Raises:
        OptionError: The layer has fewer entries.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        number, total = _count(layer, rank), layer.weight.numel()
        if number > total:
            raise OptionError(f"rank must leave entries of a layer frozen: {number} of {total} would train, got {rank}")
        self.layer = layer
        self.values = nn.Parameter(torch.zeros(number))
        self.register_buffer("entries", torch.randperm(total)[:number], persistent=False)  # of the weight as a vector

    def weight(self) -> Tensor:
        """The weight with the update."""
        weight = self.layer.weight
        entries: Tensor = self.entries  # type: ignore[assignment]
        update = torch.zeros_like(weight, dtype=self.values.dtype).view(-1).index_put((entries,), self.values)
        return weight + update.view_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Computes what the layer with the updated weight does.

        Shape:
            - x: `(B, N, i)`
            - Output: `(B, N, o)`
        """
        return F.linear(x, self.weight(), self.layer.bias)

    def merged(self) -> nn.Linear:
        """The layer with the update in its weight."""
        self.layer.weight.copy_(self.weight())
        return self.layer


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, adds to entries of its projections and attaches the head."""
    freeze(backbone)
    for name, layer in backbone.projections().items():
        assert isinstance(layer, nn.Linear)
        backbone.trunk.set_submodule(name, SparseUpdate(layer, config.rank))
    return ImageModel(backbone, num_classes)


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Adds the updates to the weights; the model computes the same without them."""
    exchange(model, lambda module: isinstance(module, SparseUpdate), SparseUpdate.merged)
    return model


def count(backbone: Backbone, config: Config) -> int:
    """L R (D + 3 D) on fused projections."""
    layers = backbone.projections().values()
    return sum(_count(layer, config.rank) for layer in layers if isinstance(layer, nn.Linear))


def _count(layer: nn.Linear, rank: int) -> int:
    return rank * (layer.in_features + layer.out_features)


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Trains by the defaults; is used merged."""
    return Recipe(before_inference=merge)


METHOD = Method(
    "shira",
    "SHiRA",
    "Bhardwaj et al., Sparse High Rank Adapters, NeurIPS 2024, arXiv 2406.13175",
    Config,
    build,
    count,
    recipe=recipe,
    needs=frozenset({"linear_projections"}),
    starts_as_pretrained=True,
)
