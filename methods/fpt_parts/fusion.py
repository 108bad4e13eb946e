"""The prompts' cross-attention on an image's stored keys and values, shared by FPT's fusion and FPT+'s."""

from typing import Any

import torch
from torch import Tensor

from methods.contract import batch_parts

# A layer's keys and values `(B, A, M, E)` in their stored type, and in 8 bits their scales `(B, A, 1, E)`, else None.
Stored = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def init_prompts(num_layers: int, num_prompt_tokens: int, width: int) -> Tensor:
    """Prompts `(L, P, width)` from N(0, 1e-6)."""
    return torch.randn(num_layers, num_prompt_tokens, width) * 1e-6


def attend_to_features(query: Tensor, stored: Stored) -> Tensor:
    """Multi-head cross-attention of a layer's prompts on an image's kept keys and values.

    Args:
        query: The prompts' queries, the same for every image.
        stored: The layer's features, without gradients.

    Shape:
        - query: `(P, D)`
        - Output: `(B, P, D)`, heads concatenated
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query = query.to(torch.get_autocast_dtype(device))
    num_heads, head_dim = stored[0].shape[1::2]
    heads = (query * head_dim**-0.5).unflatten(-1, (num_heads, head_dim)).transpose(0, 1)  # (A, P, E)
    attended: Tensor = _PromptAttention.apply(heads, *stored)
    return attended.flatten(2)


class _PromptAttention(torch.autograd.Function):
    """Softmax attention of scaled queries `(A, P, E)` on features, to `(B, P, A, E)`; a gradient for queries alone.

    Nothing but the inputs is kept for the backward pass: keys and values stay in their stored type; their casts, and
    the attention itself, are made again for a quarter of the batch at a time. The scales of 8-bit features never touch
    those: they multiply queries and results, which are small.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, *stored: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, *stored)
        keys, values, keys_scale, values_scale = stored
        assert keys is not None and values is not None
        num_heads, num_prompts, head_dim = query.shape
        output = query.new_empty(len(keys), num_prompts, num_heads, head_dim)
        cast = _Cast(keys, query.dtype)
        for part in batch_parts(len(keys)):
            attention = _attention(query, cast(keys[part]), keys_scale, part).to(query.dtype)
            attended = attention @ cast(values[part])  # (b, A, P, E)
            output[part] = _scaled(attended, values_scale, part).transpose(1, 2)  # (b, P, A, E)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, keys, values, keys_scale, values_scale = ctx.saved_tensors
        grad_query = torch.zeros_like(query, dtype=torch.float32)
        cast = _Cast(keys, query.dtype)
        for part in batch_parts(len(keys)):
            grad_output = _scaled(grad[part].transpose(1, 2), values_scale, part)  # (b, A, P, E)
            grad_attention = (grad_output @ cast(values[part]).mT).float()  # (b, A, P, M)
            cast_keys = cast(keys[part])
            attention = _attention(query, cast_keys, keys_scale, part)
            grad_scores = torch._softmax_backward_data(grad_attention, attention, -1, torch.float32).to(query.dtype)
            grad_query += _scaled(grad_scores @ cast_keys, keys_scale, part).sum(0, dtype=torch.float32)
        return grad_query.to(query.dtype), None, None, None, None


class _Cast:
    """Casts parts of a layer's features, one after another into the same memory: small, and warm in a CPU's cache."""

    def __init__(self, features: Tensor, dtype: torch.dtype) -> None:
        first = next(batch_parts(len(features)))
        self.buffer = None if features.dtype == dtype else torch.empty_like(features[first], dtype=dtype)

    def __call__(self, features: Tensor) -> Tensor:
        return features if self.buffer is None else self.buffer[: len(features)].copy_(features)


def _scaled(tensor: Tensor, scale: Tensor | None, part: slice) -> Tensor:
    return tensor if scale is None else tensor * scale[part].to(tensor.dtype)


def _attention(query: Tensor, keys: Tensor, scale: Tensor | None, part: slice) -> Tensor:
    """The prompts' attention on a part of the batch, `(b, A, P, M)` in fp32."""
    return (_scaled(query, scale, part) @ keys.mT).softmax(dim=-1, dtype=torch.float32)
