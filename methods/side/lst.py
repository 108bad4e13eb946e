"""Ladder side-tuning, LST (Sung, Cho & Bansal, NeurIPS 2022, arXiv 2206.06522).

A narrow transformer beside the frozen backbone takes in the output of every block, and the backbone gets no gradient:

    h_0 = W_0 x_0
    h_l = Block_l(mu_l h_{l-1} + (1 - mu_l) W_l x_l),    mu_l = sigmoid(a_l / 0.1),  l = 1 .. L

x_0 are the backbone's tokens behind the position embedding, x_l the output of its block l, W_l linear maps D -> S
without bias, Block_l a transformer block of width S = D / `reduction` with the backbone's number of heads. Maps, gates
a_l (0 at the start, so mu_l = 0.5), side blocks, a norm behind them and the head train:
D S (L + 1) + L + L (12 S^2 + 13 S) + 2 S. Nothing merges.

The paper is on language models; for a ViT this is a port. Reduction 8 and the temperature 0.1 are those of the authors'
configuration, rate 3e-3 that of their VL-T5; weight decay is ours, as LoRA's.
Departures: the authors map S -> D in front of their pretrained head; a new head is linear, and the product of both
would be one map from S, so the head stands on S. It reads what the backbone's pools: the class token or the mean of
the patches. Side blocks start at random (truncated normal 0.02), not from the backbone pruned by Fisher information.

Nothing but x_0 .. x_L and h_0 .. h_{L-1} is kept for the backward pass: a side block is computed again there, for a few
images at a time.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Method, OptionError, new_head
from methods.side.block_outputs import FeatureDtype, all_outputs
from methods.side.lean import linear, remade

TEMPERATURE = 0.1


@dataclass(frozen=True)
class Config:
    """Defaults of LST (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 3e-3
    weight_decay: float = 1e-4
    reduction: Count = 8
    feature_dtype: FeatureDtype = "float16"


class Rung(nn.Module):
    """A side block, and how it takes in an output of the backbone.

    Args:
        embed_dim: Width D of the backbone.
        side_dim: Width S.
        num_heads: Heads of its attention.
        eps: Of its norms.
    """

    def __init__(self, embed_dim: int, side_dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.down_proj = nn.Linear(embed_dim, side_dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        self.block = Block(side_dim, num_heads, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=eps))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Merges, then runs the block.

        Shape:
            - h: `(B, N, S)`
            - x: `(B, N, D)`
            - Output: `(B, N, S)`
        """
        mu = torch.sigmoid(self.gate / TEMPERATURE)
        output: Tensor = self.block(mu * h + (1 - mu) * linear(x, self.down_proj.weight))
        return output

    def held(self, h: Tensor) -> int:
        """Numbers that the backward pass holds of an image: some thirty for each of h, and attention maps if whole."""
        attn, (num_tokens, side_dim) = self.block.attn, h.shape[1:]
        return 30 * num_tokens * side_dim + (0 if attn.fused_attn else 4 * attn.num_heads * num_tokens**2)


class LadderNetwork(nn.Module):
    """The side network on the outputs of a frozen backbone.

    Args:
        backbone: Gives sizes and pooling.
        num_classes: Number of classes C.
        side_dim: Width S.
    """

    def __init__(self, backbone: Backbone, num_classes: int, side_dim: int) -> None:
        super().__init__()
        self.down_proj = nn.Linear(backbone.embed_dim, side_dim, bias=False)
        self.rungs: Any = nn.ModuleList(
            Rung(backbone.embed_dim, side_dim, backbone.num_heads, backbone.eps) for _ in backbone.blocks()
        )
        self.norm = nn.LayerNorm(side_dim, eps=backbone.eps)
        self.pooling = backbone.pooling()
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.head = new_head(side_dim * self.pooling.num_vectors, num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: side blocks are computed again in the backward pass in any case."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - outputs: `(B, L + 1, N, D)`, of the backbone's blocks
            - Output: logits `(B, C)`
        """
        h = linear(outputs[:, 0], self.down_proj.weight)  # (B, N, S)
        for index, rung in enumerate(self.rungs, start=1):
            (h,) = remade(lambda *inputs, rung=rung: (rung(*inputs),), h, outputs[:, index], numbers=rung.held(h))
        logits: Tensor = self.head(self.pooling(self.norm(h)))
        return logits


def build(backbone: Backbone, num_classes: int, config: Config) -> LadderNetwork:
    """Builds the side network; the backbone lives in the extractor.

    Raises:
        OptionError: The side width is not divisible by the backbone's number of heads.
    """
    side_dim = backbone.embed_dim // config.reduction
    if not side_dim or side_dim % backbone.num_heads:
        raise OptionError(f"reduction must leave a width divisible by {backbone.num_heads} heads, got {side_dim!r}")
    return LadderNetwork(backbone, num_classes, side_dim)


def count(backbone: Backbone, config: Config) -> int:
    """D S (L + 1) + L + L (12 S^2 + 13 S) + 2 S."""
    depth, side_dim = len(backbone.blocks()), backbone.embed_dim // config.reduction
    maps = backbone.embed_dim * side_dim * (depth + 1)
    return maps + depth + depth * (12 * side_dim**2 + 13 * side_dim) + 2 * side_dim


METHOD = Method(
    "lst",
    "LST",
    "Sung, Cho & Bansal, LST: Ladder Side-Tuning, NeurIPS 2022, arXiv 2206.06522",
    Config,
    build,
    count,
    extractor=all_outputs,
    needs=frozenset({"tokens", "attention"}),
)
