"""The pooled feature of a frozen backbone: what several probes read, and one feature cache keeps for all of them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import freeze


class PooledFeature(nn.Module):
    """The frozen backbone up to its head.

    Args:
        backbone: The pretrained backbone; its head is dropped.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        freeze(backbone)
        backbone.drop_head()
        self.backbone = backbone
        self.identity: Mapping[str, Any] = {"feature": "pooled"}
        self.parts = None
        self.augment_live = True

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Computes the pooled feature.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `feature` `(B, F)`
        """
        return {"feature": self.backbone(image).float()}


def extractor(backbone: Backbone, config: Any) -> PooledFeature:
    """The frozen backbone, image to pooled feature, for the config of any method that reads it."""
    return PooledFeature(backbone)
