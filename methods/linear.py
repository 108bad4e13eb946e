"""Linear probe: a linear classifier on the frozen ViT's pooled feature.

Only the head trains (0 parameters besides the head). The feature of an image never changes, so it may be computed once
and kept in the feature cache; therefore its image is only resized, not augmented. Pooling is the backbone's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from methods.contract import Head, Method, freeze, init_head


@dataclass(frozen=True)
class Config:
    """Defaults of the linear probe (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    lr: float = 1e-2
    weight_decay: float = 1e-4


class PooledFeature(nn.Module):
    """The frozen ViT up to its head.

    Args:
        backbone: The pretrained ViT; its head is dropped.
    """

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        freeze(backbone)
        backbone.reset_classifier(0)
        self.backbone = backbone
        self.identity: Mapping[str, Any] = {"feature": "pooled"}
        self.parts = None
        self.augment_live = False

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Computes the pooled feature.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `feature` `(B, D)`
        """
        return {"feature": self.backbone(image).float()}


class LinearProbe(nn.Module):
    """One linear layer.

    Args:
        num_features: Width D of the pooled feature.
        num_classes: Number of classes C.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.head = Head(num_features, num_classes)
        init_head(self.head)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: a linear layer saves no activations worth recomputing."""

    def forward(self, feature: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - feature: `(B, D)`
            - Output: logits `(B, C)`
        """
        return self.head(feature)


def build(backbone: VisionTransformer, num_classes: int, config: Config) -> LinearProbe:
    """Builds the classifier; the backbone lives in the extractor."""
    return LinearProbe(backbone.num_features, num_classes)


def extractor(backbone: VisionTransformer, config: Config) -> PooledFeature:
    """The frozen ViT, image to pooled feature."""
    return PooledFeature(backbone)


def count(backbone: VisionTransformer, config: Config) -> int:
    """Nothing besides the head."""
    return 0


METHOD = Method("linear", "Linear probe", "a classifier on frozen features", Config, build, count, extractor=extractor)
