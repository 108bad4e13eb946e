"""Full fine-tuning: every parameter of the pretrained backbone and a new linear head train.

Where the defaults are from: docs/methods.md. Given only 1e-3 and 1e-2 to choose from, it looks worse than linear.

With `layer_decay` below 1, layer i learns by lr * layer_decay^(L + 1 - i), as in BEiT (Bao et al., ICLR 2022) and MAE
(He et al., CVPR 2022): i = 0 for what comes before the blocks, 1 to L for the blocks, L + 1 for what comes after them,
the final norm and the head, whose rate is lr.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from methods.backbone import Backbone
from methods.contract import ImageModel, Method, OptionError, ParameterGroups, Recipe, Share


@dataclass(frozen=True)
class Config:
    """Defaults of full fine-tuning."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    lr: float = 1e-4
    weight_decay: float = 0.05
    layer_decay: Share = field(default=1.0, metadata={"later": True})


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Attaches the head; everything trains.

    Raises:
        OptionError: Rates are to fall by layer, and nobody knows the backbone's layers.
    """
    if config.layer_decay < 1 and "blocks" in backbone.lacks:
        raise OptionError(f"layer_decay must be 1 on a backbone whose blocks are not known, got {config.layer_decay!r}")
    backbone.requires_grad_(True)
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """All of the backbone but its pretrained head."""
    return sum(p.numel() for p in backbone.parameters()) - sum(p.numel() for p in backbone.head_parameters())


def layer_groups(model: nn.Module, config: Config) -> ParameterGroups:
    """The parameters by layer, each with its rate, the head's first."""
    assert isinstance(model, ImageModel)
    layers = model.backbone.layers()
    layers[-1] += model.head.parameters()
    return [
        {"params": parameters, "lr": config.lr * config.layer_decay**distance}
        for distance, parameters in enumerate(reversed(layers))
    ]


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """AdamW; with `layer_decay`, a rate a layer."""
    return Recipe() if config.layer_decay == 1 else Recipe(groups=lambda model: layer_groups(model, config))


METHOD = Method(
    "full",
    "Full fine-tuning",
    "the reference all others are compared with",
    Config,
    build,
    count,
    recipe=recipe,
    starts_as_pretrained=True,
)
