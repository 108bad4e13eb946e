"""Norm tuning (LN-Tune of Basu et al., AAAI 2024, arXiv 2304.01917): all norms' weights and biases and the head train.

The paper has layer norms, as ViTs do. Here every normalisation layer counts, told by what it is and not by its name:
group, batch and RMS norms, those within attention layers and those behind the pooling. The model starts as the
pretrained one.

A batch norm that trains normalises by the statistics of the batch in training, and its running statistics, which are
used afterwards, follow them: buffers, which no count of parameters includes and the trained model keeps.
"""

from dataclasses import dataclass
from typing import ClassVar

from methods.backbone import Backbone
from methods.contract import ImageModel, Method, train_only


@dataclass(frozen=True)
class Config:
    """Defaults of norm tuning (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes all but the norms and attaches the head."""
    train_only(backbone, backbone.norms())
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (2 D + 2 D) + 2 D on a plain ViT: two norms a block and the final one."""
    return sum(parameter.numel() for parameter in backbone.norms())


METHOD = Method(
    "layernorm",
    "Norm tuning",
    "Basu et al., LN-Tune, AAAI 2024, arXiv 2304.01917",
    Config,
    build,
    count,
    starts_as_pretrained=True,
)
