"""timm's class Beit: BEiT and BEiTv2, whose attention has a bias for each pair of positions."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from benchmarks.model.families.branches import joint_rows, separate_bias
from benchmarks.model.families.tokens import ScaledBlocks
from methods.backbone import Pool


class BeitViT(ScaledBlocks):
    """A ViT with relative position biases; tokens without a position have no place in them."""

    family = "BEiT"

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        bias = "a bias for each pair of positions"
        self.lacks |= {"tokens": bias, "attention": bias, "scales": bias}
        self.lack_squares()
        for block in trunk.blocks:
            separate_bias(block.attn)

    def projections(self) -> Mapping[str, nn.Module]:
        """The joint projection of queries, keys and values of every block."""
        return {f"blocks.{index}.attn.qkv": block.attn.qkv for index, block in enumerate(self.trunk.blocks)}

    def query_value_rows(self) -> Mapping[str, tuple[slice, ...]]:
        """The first and the last third of every joint projection."""
        return joint_rows(self.projections())
