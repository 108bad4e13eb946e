"""timm's class Beit: BEiT and BEiTv2, whose attention has a bias for each pair of positions."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from benchmarks.model.families.branches import Beside, Followed, move_scale, separate_bias
from benchmarks.model.families.tokens import TokenBackbone
from methods.backbone import Pool


class BeitViT(TokenBackbone):
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

    def put_behind_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's MLP and its layer scale."""
        block = self._with_own_scales(index)
        block.mlp = nn.Sequential(block.mlp, module)

    def put_behind_attention(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's attention and its layer scale."""
        block = self._with_own_scales(index)
        block.attn = Followed(block.attn, module)

    def put_beside_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module beside a block's MLP, its norm and its layer scale."""
        block = self._with_own_scales(index)
        block.mlp = Beside(nn.Sequential(block.norm2, block.mlp), module)
        block.norm2 = nn.Identity()

    def put_beside_layers(self, index: int, beside_attention: nn.Module, beside_mlp: nn.Module) -> None:
        """Puts modules beside a block's attention and its MLP, and their layer scales."""
        block = self._with_own_scales(index)
        block.attn, block.mlp = Beside(block.attn, beside_attention), Beside(block.mlp, beside_mlp)

    def _with_own_scales(self, index: int) -> Any:
        """A block whose layer scales stand with their layers; by itself it multiplies by both of them or by none."""
        block = self.trunk.blocks[index]
        if block.gamma_1 is not None:
            block.attn = Followed(block.attn, move_scale(block, "gamma_1"))
            block.mlp = nn.Sequential(block.mlp, move_scale(block, "gamma_2"))
        return block
