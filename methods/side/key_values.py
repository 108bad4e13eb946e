"""Keys and values of all tokens of a frozen backbone: what tokens that only ask read; one feature cache for all.

An image of N tokens takes 2 L N D numbers and its pooled feature: 37.8 MB of ViT-B/16 at 512 px in 16 bits, half of it
in 8. A cache of what the blocks get, x_0 to x_{L-1}, from which frozen norms and projections would make them again,
takes as much in 16 bits as keys and values in 8, and 4 L N D^2 operations an image more, in each forward pass and each
backward pass.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import freeze
from methods.side.fpt_parts.extraction import FeatureDtype, stored
from methods.side.fpt_parts.lean_extraction import attend_in_chunks


class KeysAndValues(nn.Module):
    """The frozen backbone; no attention map is held whole, and each block's features go to where all lie together.

    Args:
        backbone: The pretrained backbone; its head is dropped.
        storage: Type of keys and values: `float16`, `float32`, or `int8` with a scale a channel.
    """

    def __init__(self, backbone: Backbone, storage: FeatureDtype) -> None:
        super().__init__()
        freeze(backbone)
        backbone.drop_head()
        self.backbone = backbone
        self.storage = storage
        self.identity: Mapping[str, Any] = {
            "feature": "keys and values of all tokens and blocks, pooled",
            "storage": storage,
        }
        self.parts = None
        self.augment_live = True

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Extracts the features of a batch.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `keys` and `values`, both `(B, L, A, N, E)`; in 8 bits also `keys_scale` and `values_scale`, both
              `(B, L, A, 1, E)`; `feature`, the pooled one, `(B, F)`
        """
        backbone = self.backbone
        x, context = backbone.embed(image)  # (B, N, D)
        features: dict[str, Tensor] = {}
        for index in range(len(backbone.blocks())):
            query, key, value = backbone.attention(index, x, context)  # each (B, A, N, E)
            self._store(features, index, stored("keys", key, self.storage) | stored("values", value, self.storage))
            attended = self._attend(index, query, key, value)
            del query, key, value
            x = backbone.add_attention(index, x, attended)
            del attended
            x = backbone.add_mlp(index, x)
        return features | {"feature": backbone.pool_tokens(x).float()}

    def _attend(self, index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scale = self.backbone.head_dim**-0.5
        if self.backbone.fused(index) or torch.compiler.is_exporting():
            return F.scaled_dot_product_attention(query, key, value, scale=scale)
        return attend_in_chunks(query, key, value, scale)[0]

    def _store(self, features: dict[str, Tensor], index: int, layer: Mapping[str, Tensor]) -> None:
        """Puts a block's features, `(B, A, ., E)`, into those of all blocks."""
        num_layers = len(self.backbone.blocks())
        for name, tensor in layer.items():
            if name not in features:
                features[name] = tensor.new_empty(tensor.shape[0], num_layers, *tensor.shape[1:])  # (B, L, A, ., E)
            features[name][:, index] = tensor


def extractor(backbone: Backbone, config: Any) -> KeysAndValues:
    """The frozen backbone, image to keys and values, for the config of any method that reads them."""
    return KeysAndValues(backbone, config.feature_dtype)
