"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): low-rank updates of the projections of queries, keys and values.

Hugging Face peft adds W + (alpha / rank) B A to each; A, B and the new head train. A rank-r update of a projection
fused for all three has as many parameters as rank-r updates of query and value alone: L (D r + 3 D r) = 4 L D r. Where
they are three layers, each has its own: 6 L D r. A network without attention has the layers of its MLPs (ConvNeXt) or
its convolutions (ResNet) updated instead. B starts at zero, so the model starts as the pretrained one.
"""

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Factor, ImageModel, Method, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of LoRA (docs/methods.md; rank 16 reproduces the published 0.68 %)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    rank: Count = 16
    alpha: Factor = 16
    dropout: Dropout = 0.0


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, injects the low-rank layers in place and attaches the head.

    peft's own wrapper is not used: its `modules_to_save` would keep a frozen second copy of the head.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and only this method needs it

    freeze(backbone)
    targets = "|".join(map(re.escape, backbone.projections()))
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets)
    inject_adapter_in_model(lora, backbone.trunk)
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (D r + r 3 D) on fused projections: of each layer, r times what one output sees, and r times its outputs."""
    return sum(config.rank * sum(_sizes(layer)) for layer in backbone.projections().values())


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; of a convolution, all inputs within its kernel."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels * math.prod(layer.kernel_size), layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


METHOD = Method(
    "lora",
    "LoRA",
    "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685",
    Config,
    build,
    count,
    needs=frozenset({"projections"}),
    starts_as_pretrained=True,
)
