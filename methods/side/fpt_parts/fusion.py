"""The prompts' cross-attention on an image's stored keys and values, the same in FPT's fusion and FPT+'s."""

from typing import NamedTuple

import torch
from torch import Tensor


class Stored(NamedTuple):
    """Features: keys and values `(B, L, A, M, E)` in their stored type; in 8 bits, their scales `(B, L, A, 1, E)`."""

    keys: Tensor
    values: Tensor
    keys_scale: Tensor | None = None
    values_scale: Tensor | None = None

    def restored(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values `(B, L, A, M, E)` in a type to compute in."""
        keys, values = self.keys.to(dtype), self.values.to(dtype)
        if self.keys_scale is None or self.values_scale is None:
            return keys, values
        return keys * self.keys_scale.to(dtype), values * self.values_scale.to(dtype)


def init_prompts(num_layers: int, num_prompt_tokens: int, width: int) -> Tensor:
    """Prompts `(L, P, width)` from N(0, 1e-6)."""
    return torch.randn(num_layers, num_prompt_tokens, width) * 1e-6


def as_autocast_wants(query: Tensor) -> Tensor:
    """The queries in the type that autocast, where it is on, multiplies in: features are cast to theirs."""
    device = query.device.type
    return query.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else query


def attend(query: Tensor, stored: Stored) -> Tensor:
    """Multi-head cross-attention of each layer's prompts on an image's kept keys and values.

    Args:
        query: The prompts' queries, the same for every image, or each image's own.
        stored: The features, without gradients.

    Shape:
        - query: `(L, P, D)`, or `(B, L, P, D)`
        - Output: `(B, L, P, D)`, heads concatenated
    """
    query = as_autocast_wants(query)
    keys, values = stored.restored(query.dtype)
    num_heads, head_dim = keys.shape[2::2]
    heads = query.unflatten(-1, (num_heads, head_dim)).transpose(-3, -2)  # (L, A, P, E), or an image's own
    attention = (heads @ keys.mT * head_dim**-0.5).softmax(dim=-1)  # (B, L, A, P, M)
    return (attention @ values).transpose(2, 3).flatten(3)
