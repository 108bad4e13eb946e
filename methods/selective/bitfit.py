"""BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): every bias of the backbone and the new head train.

Those of linear layers and convolutions (the patch embedding's too), those of norms, and those of queries and values
that stand apart from their projection; tables of position biases are none. On a backbone without any bias nothing would
train, so it is refused. The model starts as the pretrained one. The part of a bias that belongs to the keys gets no
gradient, as softmax does not see what is added to all scores of a row.

A batch norm whose bias trains normalises by the statistics of the batch in training, and its running statistics, which
are used afterwards, follow them.
"""

from dataclasses import dataclass
from typing import ClassVar

from methods.backbone import Backbone
from methods.contract import ImageModel, Method, train_only


@dataclass(frozen=True)
class Config:
    """Defaults of BitFit (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 1e-2
    weight_decay: float = 1e-4


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes all but the biases and attaches the head."""
    train_only(backbone, backbone.biases())
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (3 D + D + 4 D + D + 2 D) + 2 D on a plain ViT: qkv, proj, fc1, fc2, two norms; patch embedding, final norm."""
    return sum(bias.numel() for bias in backbone.biases())


METHOD = Method(
    "bitfit",
    "BitFit",
    "Ben Zaken et al., BitFit, ACL 2022, arXiv 2106.10199",
    Config,
    build,
    count,
    starts_as_pretrained=True,
)
