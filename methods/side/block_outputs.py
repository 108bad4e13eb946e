"""A frozen backbone's block outputs: what ladders, bypasses and side paths read, and one feature cache for all of them.

x_0 are the tokens that the first block gets, positions added, and x_l is what block l yields. Methods that read the
same of these share a feature cache; one that reads fewer of them, from x_0 on, is served by the cache of all.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import OptionError, freeze

FeatureDtype = Literal["float16", "float32"]
DTYPES: dict[FeatureDtype, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


class BlockOutputs(nn.Module):
    """The frozen backbone up to one of its blocks.

    Args:
        backbone: The pretrained backbone; what stands behind the last block that runs is dropped.
        num_blocks: Number of blocks that run.
        storage: Type of the features.
    """

    def __init__(self, backbone: Backbone, num_blocks: int, storage: FeatureDtype) -> None:
        super().__init__()
        freeze(backbone)
        backbone.drop_tail(num_blocks)
        self.backbone = backbone
        self.parts = tuple(range(num_blocks + 1))
        self.storage = storage
        self.augment_live = True
        self.identity: Mapping[str, Any] = {"feature": "block outputs", "storage": storage}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Extracts the features of a batch; each block's go straight to where all lie together.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `outputs` `(B, num_blocks + 1, N, D)`, x_0 first
        """
        x, context = self.backbone.embed(image)  # (B, N, D)
        outputs = x.new_empty(x.shape[0], len(self.parts), *x.shape[1:], dtype=DTYPES[self.storage])
        outputs[:, 0] = x
        for index in self.parts[:-1]:
            x = self.backbone.run(index, x, context)
            outputs[:, index + 1] = x
        return {"outputs": outputs}


def all_outputs(backbone: Backbone, config: Any) -> BlockOutputs:
    """The extractor of x_0 to x_L; `config` has a `feature_dtype`."""
    return BlockOutputs(backbone, len(backbone.blocks()), config.feature_dtype)


def first_outputs(backbone: Backbone, config: Any) -> BlockOutputs:
    """The extractor of what comes before the last blocks; `config` has `num_blocks` too (see `first_block`)."""
    return BlockOutputs(backbone, first_block(backbone, config.num_blocks), config.feature_dtype)


def first_block(backbone: Backbone, num_blocks: int | None) -> int:
    """Index of the first of the last blocks, which are `num_blocks`; None for the last half, and two at the least.

    Raises:
        OptionError: There are fewer blocks.
    """
    depth = len(backbone.blocks())
    if num_blocks is None:
        return max(0, min(depth // 2, depth - 2))
    if num_blocks > depth:
        raise OptionError(f"num_blocks must be at most {depth}, the backbone's blocks, got {num_blocks!r}")
    return depth - num_blocks
