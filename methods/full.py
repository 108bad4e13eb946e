"""Full fine-tuning: every parameter of the pretrained ViT and a new linear head train.

Where the defaults are from: docs/methods.md. Larger rates (1e-3, 1e-2) make it look worse than a linear probe.
"""

from dataclasses import dataclass
from typing import ClassVar

from timm.models.vision_transformer import VisionTransformer

from methods.contract import ImageModel, Method, attach_head


@dataclass(frozen=True)
class Config:
    """Defaults of full fine-tuning."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    lr: float = 1e-4
    weight_decay: float = 0.05


def build(backbone: VisionTransformer, num_classes: int, config: Config) -> ImageModel:
    """Attaches the head; everything trains."""
    backbone.requires_grad_(True)
    attach_head(backbone, num_classes)
    return ImageModel(backbone)


def count(backbone: VisionTransformer, config: Config) -> int:
    """All of the backbone but its pretrained head."""
    return sum(p.numel() for p in backbone.parameters()) - sum(p.numel() for p in backbone.head.parameters())


METHOD = Method(
    "full",
    "Full fine-tuning",
    "the reference all others are compared with",
    Config,
    build,
    count,
    starts_as_pretrained=True,
)
