"""timm's class Beit: BEiT and BEiTv2, whose attention has a bias for each pair of positions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from benchmarks.model.families.branches import move_scale, separate_bias
from benchmarks.model.families.tokens import TokenBackbone
from methods.backbone import Pool


class BeitViT(TokenBackbone):
    """A ViT with relative position biases; tokens without a position have no place in them."""

    family = "BEiT"

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        bias = "a bias for each pair of positions"
        self.lacks |= {"tokens": bias, "attention": bias, "scales": bias}
        for block in trunk.blocks:
            separate_bias(block.attn)

    def projections(self) -> Mapping[str, nn.Module]:
        """The joint projection of queries, keys and values of every block."""
        return {f"blocks.{index}.attn.qkv": block.attn.qkv for index, block in enumerate(self.trunk.blocks)}

    def put_behind_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's MLP and its layer scale."""
        block = self.trunk.blocks[index]
        if block.gamma_1 is None:
            block.mlp = nn.Sequential(block.mlp, module)
        else:  # the block multiplies by both scales or by none
            block.attn = _Scaled(block.attn, move_scale(block, "gamma_1"))
            block.mlp = nn.Sequential(block.mlp, move_scale(block, "gamma_2"), module)


class _Scaled(nn.Module):
    """An attention layer and the layer scale behind it."""

    def __init__(self, attn: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.attn, self.scale = attn, scale

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        scaled: Tensor = self.scale(self.attn(x, shared_rel_pos_bias=shared_rel_pos_bias))
        return scaled
