"""The side network: a small ViT whose blocks are joined by prompts.

A block computes what a timm Block would, on the image's tokens and the prompts, but for what nobody reads: outputs at
prompts are dropped after every block, and of the last block's only the class token's are used.
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.contract import OptionError, init_head
from methods.fpt_parts.fusion import Stored
from methods.fpt_parts.lean_layers import gelu_linear, linear, norm_linear, self_attention


class SideBlock(nn.Module):
    """A transformer block over image tokens and prompts, as timm's but for what is never read.

    Args:
        block: Gives its layers, under their names.
        num_outputs: Tokens, from the first on, whose outputs are read; None for all image tokens.
    """

    def __init__(self, block: Block, num_outputs: int | None) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.num_outputs = num_outputs

    def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
        """Runs the block.

        Shape:
            - x: `(B, n, S)`
            - prompts: `(B, P, S)`
            - Output: `(B, num_outputs or n, S)`
        """
        attn = self.attn
        qkv = norm_linear(torch.cat([x, prompts], dim=1), self.norm1, attn.qkv)  # (B, n + P, 3 S)
        if self.num_outputs is not None:
            x = x[:, : self.num_outputs]
        qkv = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, n + P, 3, A, E)
        attended = self_attention(qkv, x.shape[1], attn.scale, attn.fused_attn)  # (B, n, S)
        x = x + linear(attended, attn.proj)
        hidden = norm_linear(x, self.norm2, self.mlp.fc1)  # (B, n, 4 S)
        return x + gelu_linear(hidden, self.mlp.fc2)


class SidePromptModel(nn.Module):
    """The trainable part of FPT and FPT+: fusion and side network.

    Args:
        side_network: The side ViT, with its new head and as many blocks as chosen layers.
        fusion: Module `stored -> (B, L, P, S)`, the prompts of all blocks.
    """

    def __init__(self, side_network: VisionTransformer, fusion: nn.Module) -> None:
        super().__init__()
        last = len(side_network.blocks) - 1
        side_network.blocks = nn.ModuleList(
            SideBlock(block, num_outputs=1 if index == last else None)  # the class token's
            for index, block in enumerate(side_network.blocks)
        )
        self.side_network = side_network
        self.fusion = fusion
        self.grad_checkpointing = False

    @property
    def head(self) -> nn.Module:
        """The classification head."""
        return self.side_network.head

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Computes the activations of fusion and of each side block again in the backward pass."""
        self.grad_checkpointing = enable

    def forward(
        self,
        image_low: Tensor,
        keys: Tensor,
        values: Tensor,
        keys_scale: Tensor | None = None,
        values_scale: Tensor | None = None,
    ) -> Tensor:
        """Classifies a batch.

        Shape:
            - image_low: `(B, 3, h, w)` at the side network's resolution
            - keys, values: `(B, L, A, M, E)`
            - keys_scale, values_scale: `(B, L, A, 1, E)`, of features in 8 bits
            - Output: logits `(B, C)`
        """
        side = self.side_network
        prompts = self._run(self.fusion, Stored(keys, values, keys_scale, values_scale))
        x = side._pos_embed(side.patch_embed(image_low))  # (B, n, S)
        for block, joining in zip(side.blocks, prompts.unbind(1), strict=True):
            x = self._run(block, x, joining)
        return side.head(side.norm(x)[:, 0])

    def _run(self, module: nn.Module, *inputs: Any) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


def init_side(module: nn.Module) -> None:
    """Initialises linear and convolution weights from a truncated normal 0.02, their biases with zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def build_side_network(
    backbone: VisionTransformer, num_layers: int, num_classes: int, config: Any
) -> VisionTransformer:
    """Makes the side ViT for a backbone; `config` is FPT's or FPT+'s.

    Raises:
        OptionError: The side width is not divisible by the backbone's number of heads.
    """
    num_heads = backbone.blocks[0].attn.num_heads
    side_dim = backbone.embed_dim // config.side_reduction
    if side_dim % num_heads:
        raise OptionError(f"side_reduction must leave a width divisible by {num_heads} heads, got {side_dim!r}")
    side = VisionTransformer(
        img_size=config.side_resolution,
        patch_size=config.side_patch_size,
        num_classes=num_classes,
        embed_dim=side_dim,
        depth=num_layers,
        num_heads=num_heads,
        norm_layer=partial(nn.LayerNorm, eps=backbone.blocks[0].norm1.eps),
    )
    init_side(side)
    init_head(side.head)
    return side


def count_side_network(side_dim: int, num_layers: int, config: Any) -> int:
    """Parameters of the side ViT without its head, S its width: patches, class token and positions, blocks, norm."""
    num_tokens = (config.side_resolution // config.side_patch_size) ** 2 + 1
    embedding = (3 * config.side_patch_size**2 * side_dim + side_dim) + side_dim + num_tokens * side_dim
    block = 12 * side_dim**2 + 13 * side_dim
    return embedding + num_layers * block + 2 * side_dim
