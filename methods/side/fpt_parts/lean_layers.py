"""Blocks and layers of the side network that keep little for the backward pass, and are fast on a CPU too.

No output of a LayerNorm or GELU and no attention map is kept; all are cheaply computed again. Where torch writes a
model down for other programs, each is what it stands for.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.side.fpt_parts.parts import at_once, parts

aten = torch.ops.aten


def lean_blocks(blocks: nn.Module) -> nn.ModuleList:
    """The side network's blocks, lean; of the last one only the class token's output is read."""
    *others, last = blocks.children()
    return nn.ModuleList([*(LeanBlock(block, None) for block in others), LeanBlock(last, num_outputs=1)])


class LeanBlock(nn.Module):
    """Computes what `methods.side.fpt.PromptedBlock` does of what is read: no outputs at prompts are.

    Args:
        block: Gives its layers, under their names.
        num_outputs: Tokens, from the first on, whose outputs are read; None for all image tokens.
    """

    def __init__(self, block: Any, num_outputs: int | None) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.num_outputs = num_outputs
        self.grad_checkpointing = False

    def forward(self, x: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Runs the block.

        Shape:
            - x: `(B, n, S)`
            - prompts: `(B, P, S)`, if any
            - Output: `(B, num_outputs or n, S)`
        """
        attn = self.attn
        joined = x if prompts is None else torch.cat([x, prompts], dim=1)
        qkv = norm_linear(joined, self.norm1, attn.qkv)  # (B, n + P, 3 S)
        del joined
        if self.num_outputs is not None:
            x = x[:, : self.num_outputs]
        qkv = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, n + P, 3, A, E)
        attended = self_attention(qkv, x.shape[1], attn.scale, attn.fused_attn, self.grad_checkpointing)  # (B, n, S)
        x = x + linear(attended, attn.proj)
        hidden = norm_linear(x, self.norm2, self.mlp.fc1)  # (B, n, 4 S)
        return x + gelu_linear(hidden, self.mlp.fc2)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """``layer(x)``."""
    if torch.compiler.is_exporting():
        return layer(x)
    return _Linear.apply(x, layer.weight, layer.bias)


def norm_linear(x: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    """``layer(norm(x))``; keeps x and its statistics, and normalises again."""
    if torch.compiler.is_exporting():
        return layer(norm(x))
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, layer.weight, layer.bias)


def gelu_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """``layer(gelu(x))``; keeps x, and applies GELU again."""
    if torch.compiler.is_exporting():
        return layer(F.gelu(x))
    return _GeluLinear.apply(x, layer.weight, layer.bias)


def self_attention(qkv: Tensor, num_queries: int, scale: float, fused: bool, frugal: bool) -> Tensor:
    """Multi-head self-attention, of which only the first queries' output is computed.

    On a CPU, where PyTorch's fused kernel is slow for heads as narrow as a side network's, it is never taken.

    Args:
        qkv: Queries, keys and values of each head.
        num_queries: Number n of tokens, from the first on, whose output is computed.
        scale: What scores are multiplied by.
        fused: Whether to take PyTorch's fused kernel.
        frugal: Whether a part of separate kernels' work is to be small.

    Shape:
        - qkv: `(B, N, 3, A, E)`
        - Output: `(B, n, A E)`
    """
    if (not fused or qkv.is_cpu) and not torch.compiler.is_exporting():
        attended: Tensor = _EagerAttention.apply(qkv, num_queries, scale, frugal)
        return attended
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, A, N, E)
    attended = F.scaled_dot_product_attention(query[:, :, :num_queries], key, value, scale=scale)  # (B, A, n, E)
    return attended.transpose(1, 2).flatten(2)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return F.linear(grad, weight.to(grad.dtype).T).to(x.dtype), *_parameter_gradients(grad, x)


class _NormLinear(torch.autograd.Function):
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
        grad_weight, grad_bias = _parameter_gradients(grad, normed)
        del normed
        grad_normed = F.linear(grad, weight.to(grad.dtype).T).float()
        grad_x, grad_scale, grad_shift = aten.native_layer_norm_backward(
            grad_normed, x.float(), x.shape[-1:], mean, rstd, scale, shift, [True, True, True]
        )
        return grad_x.to(x.dtype), grad_scale, grad_shift, None, grad_weight, grad_bias


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_weight, grad_bias = _parameter_gradients(grad, F.gelu(x))
        grad_x = aten.gelu_backward(F.linear(grad, weight.to(grad.dtype).T), x)
        return grad_x, grad_weight, grad_bias


def _parameter_gradients(grad: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear layer's weight and bias, in fp32, from its output's and its inputs."""
    grad = grad.flatten(0, -2)
    inputs = inputs.flatten(0, -2).to(grad.dtype)
    grad_weight = F.linear(grad.T, inputs.T)
    return grad_weight.float(), grad.sum(0, dtype=torch.float32)


class _EagerAttention(torch.autograd.Function):
    """Softmax attention from separate kernels; keeps no attention map but each query's log-sum-exp, to base 2.

    Maps are made, and for the backward pass made again, for a part of the batch at a time, one part after another in
    the same memory. Queries, keys and values are turned so that tokens run along the last dimension: products with
    heads of width 8 are three times as fast so on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_queries: int, scale: float, frugal: bool) -> Tensor:
        batch, _, _, num_heads, head_dim = qkv.shape
        output = qkv.new_empty(batch, num_queries, num_heads, head_dim)
        logsumexp = qkv.new_empty(batch, num_heads, num_queries, 1, dtype=torch.float32)
        images, scores = _part_of_batch(qkv, num_queries, frugal)
        for part in parts(batch, images):
            query, key, value = _turned(qkv[part])
            maps = _scores(query[..., :num_queries], key, scale, scores)
            highest = maps.amax(dim=-1, keepdim=True)
            maps.sub_(highest).exp2_()
            total = maps.sum(dim=-1, keepdim=True)  # (b A, n, 1)
            attended = value @ maps.to(value.dtype).mT / total.mT  # (b A, E, n)
            output[part] = attended.unflatten(0, (-1, num_heads)).permute(0, 3, 1, 2)
            logsumexp[part] = total.log2_().add_(highest).unflatten(0, (-1, num_heads))
        attended = output.flatten(2)
        ctx.save_for_backward(qkv, attended, logsumexp)
        ctx.scale, ctx.frugal = scale, frugal
        return attended

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        qkv, output, logsumexp = ctx.saved_tensors
        batch, _, _, num_heads, head_dim = qkv.shape
        num_queries = logsumexp.shape[2]
        product = (grad.float() * output).unflatten(-1, (num_heads, head_dim))
        mean = product.sum(-1).mT.unsqueeze(-1)  # (B, A, n, 1): of a query's gradients of its map, weighted by it
        del product
        grad = grad.unflatten(-1, (num_heads, head_dim)).permute(0, 2, 3, 1)  # (B, A, E, n)
        grad_qkv = torch.empty_like(qkv)
        grad_qkv[:, num_queries:, 0] = 0
        images, scores = _part_of_batch(qkv, num_queries, ctx.frugal)
        grads = torch.empty_like(scores)
        for part in parts(batch, images):
            query, key, value = _turned(qkv[part])
            query = query[..., :num_queries]
            grad_output = grad[part].flatten(0, 1)  # (b A, E, n)
            maps = _scores(query, key, ctx.scale, scores).sub_(logsumexp[part].flatten(0, 1)).exp2_()
            grad_value = grad_output @ maps.to(grad.dtype)  # (b A, E, N)
            grad_maps = torch.bmm(grad_output.mT, value, out=grads[: len(value)]).float()
            grad_scores = grad_maps.sub_(mean[part].flatten(0, 1)).mul_(maps).to(query.dtype)
            grad_query = key @ grad_scores.mT  # (b A, E, n)
            grad_key = query @ grad_scores  # (b A, E, N)
            for index, gradient in enumerate((grad_query, grad_key, grad_value)):
                gradient = gradient.unflatten(0, (-1, num_heads)).permute(0, 3, 1, 2)  # (b, ., A, E)
                factor = ctx.scale if index < 2 else 1
                torch.mul(gradient, factor, out=grad_qkv[part, : gradient.shape[1], index])
        return grad_qkv, None, None, None


def _part_of_batch(qkv: Tensor, num_queries: int, frugal: bool) -> tuple[int, Tensor]:
    """How many images to work on at a time, and the memory for their scores.

    Of each image there are two maps in fp32, in 16 bits three more, and its queries, keys and values with gradients.
    """
    batch, tokens, _, heads, head_dim = qkv.shape
    bytes_of_score = 8 if qkv.dtype == torch.float32 else 14
    bytes_of_image = heads * tokens * (num_queries * bytes_of_score + 6 * head_dim * qkv.element_size())
    images = at_once(bytes_of_image, qkv, frugal)
    return images, qkv.new_empty(min(batch, images) * heads, num_queries, tokens)


def _turned(qkv: Tensor) -> Tensor:
    """Queries, keys and values `(3, b A, E, N)`, copied from `(b, N, 3, A, E)`."""
    return qkv.permute(2, 0, 3, 4, 1).flatten(1, 2)


def _scores(query: Tensor, key: Tensor, scale: float, memory: Tensor) -> Tensor:
    """What softmax is taken of, to base 2, in fp32: of queries `(b A, E, n)` on keys `(b A, E, N)`, `(b A, n, N)`."""
    memory = memory[: len(key)]
    return torch.baddbmm(memory, query.mT, key, beta=0, alpha=scale * math.log2(math.e), out=memory).float()
