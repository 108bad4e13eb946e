"""Attention tuning (Touvron et al., ECCV 2022, arXiv 2203.09795): the attention layers and the new head train.

The attention of every block: projections of queries, keys, values and of the output, with what else a family has in it
(norms of queries and keys, tables of position biases). Norms in front of it, MLPs and embeddings stay as they are. The
model starts as the pretrained one.
Departure: AdamW for all tasks, with the defaults of full fine-tuning.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods.backbone import Backbone
from methods.contract import ImageModel, Method, train_only


@dataclass(frozen=True)
class Config:
    """Defaults of attention tuning: those of full fine-tuning (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    lr: float = 1e-4
    weight_decay: float = 0.05


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes all but the attention layers and attaches the head."""
    train_only(backbone, _selected(backbone))
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (4 D^2 + 4 D) on a plain ViT: qkv and proj of every block."""
    return sum(parameter.numel() for parameter in _selected(backbone))


def _selected(backbone: Backbone) -> list[nn.Parameter]:
    return [parameter for layer in backbone.attention_layers() for parameter in layer.parameters()]


METHOD = Method(
    "attention",
    "Attention tuning",
    "Touvron et al., Three things everyone should know about Vision Transformers, ECCV 2022, arXiv 2203.09795",
    Config,
    build,
    count,
    needs=frozenset({"attention_layers"}),
    starts_as_pretrained=True,
)
