"""The side network: a small ViT whose blocks are joined by prompts, with little kept for the backward pass.

A block computes what a timm Block would, on the image's tokens and the prompts, but for what nobody reads: outputs at
prompts are dropped after every block, and of the last block's only the class token's are used. For the backward pass it
keeps no output of a LayerNorm or GELU and no attention map; all are cheaply computed again.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.contract import batch_parts, init_head

aten = torch.ops.aten


class _NormLinear(torch.autograd.Function):
    """Linear(LayerNorm(x)) over the last dimension; keeps x and its statistics, and normalises again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x.float(), x.shape[-1:], scale, shift, eps)
        ctx.save_for_backward(x, mean, rstd, scale, shift, weight)
        ctx.eps = eps
        return F.linear(normed, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, mean, rstd, scale, shift, weight = ctx.saved_tensors
        normed = torch.native_layer_norm(x.float(), x.shape[-1:], scale, shift, ctx.eps)[0]
        grad_weight, grad_bias = _linear_gradients(grad, normed)
        del normed
        grad_normed = (grad @ weight.to(grad.dtype)).float()
        grad_x, grad_scale, grad_shift = aten.native_layer_norm_backward(
            grad_normed, x.float(), x.shape[-1:], mean, rstd, scale, shift, [True, True, True]
        )
        return grad_x.to(x.dtype), grad_scale, grad_shift, None, grad_weight, grad_bias


class _GeluLinear(torch.autograd.Function):
    """Linear(GELU(x)) over the last dimension; keeps x, and applies GELU again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_weight, grad_bias = _linear_gradients(grad, F.gelu(x))
        grad_x = aten.gelu_backward(grad @ weight.to(grad.dtype), x)
        return grad_x, grad_weight, grad_bias


def _linear_gradients(grad: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear layer's weight and bias, in fp32."""
    grad = grad.flatten(0, -2)
    grad_weight = grad.T @ inputs.flatten(0, -2).to(grad.dtype)
    return grad_weight.float(), grad.sum(0, dtype=torch.float32)


class _EagerAttention(torch.autograd.Function):
    """Softmax attention from separate kernels on `(B, A, ., E)`, scaled queries; keeps no attention map.

    Maps are made, and for the backward pass made again, for a quarter of the batch at a time.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        output = torch.empty_like(query)
        for part in batch_parts(len(query)):
            output[part] = _attention_map(query[part], key[part]).to(value.dtype) @ value[part]
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for part in batch_parts(len(query)):
            attention = _attention_map(query[part], key[part])  # (b, A, n, n + P)
            grad_value[part] = attention.to(grad.dtype).mT @ grad[part]
            grad_attention = (grad[part] @ value[part].mT).float()
            grad_scores = torch._softmax_backward_data(grad_attention, attention, -1, torch.float32).to(query.dtype)
            del attention, grad_attention
            grad_query[part] = grad_scores @ key[part]
            grad_key[part] = grad_scores.mT @ query[part]
        return grad_query, grad_key, grad_value


def _attention_map(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.mT).softmax(dim=-1, dtype=torch.float32)


def norm_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """``linear(norm(x))``, with little kept for the backward pass."""
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias)


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
        qkv = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, n + P, 3, A, E)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, A, n + P, E)
        if self.num_outputs is not None:
            x = x[:, : self.num_outputs]
        query = query[:, :, : x.shape[1]]
        if attn.fused_attn:
            attended = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        else:
            attended = _EagerAttention.apply(query * attn.scale, key, value)
        x = x + attn.proj(attended.transpose(1, 2).flatten(2))  # (B, n, S)
        hidden = norm_linear(x, self.norm2, self.mlp.fc1)  # (B, n, 4 S)
        return x + _GeluLinear.apply(hidden, self.mlp.fc2.weight, self.mlp.fc2.bias)


class SidePromptModel(nn.Module):
    """The trainable part of FPT and FPT+: fusion and side network.

    Args:
        side_network: The side ViT, with its new head and as many blocks as chosen layers.
        fusion: Module `(layer, stored) -> (B, P, S)`.
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
        """Computes each side block's activations again in the backward pass."""
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
        x = side._pos_embed(side.patch_embed(image_low))  # (B, n, S)
        for layer in range(len(side.blocks)):
            stored = [
                None if tensor is None else tensor[:, layer] for tensor in (keys, values, keys_scale, values_scale)
            ]
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._step, layer, x, *stored, use_reentrant=False)
            else:
                x = self._step(layer, x, *stored)
        return side.head(side.norm(x)[:, 0])

    def _step(self, layer: int, x: Tensor, *stored: Tensor | None) -> Tensor:
        return self.side_network.blocks[layer](x, self.fusion(layer, stored))


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
        ValueError: The side width is not divisible by the backbone's number of heads.
    """
    num_heads = backbone.blocks[0].attn.num_heads
    side_dim = backbone.embed_dim // config.side_reduction
    if side_dim % num_heads:
        raise ValueError(f"side_reduction must leave a width divisible by {num_heads} heads, got {side_dim!r}")
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
