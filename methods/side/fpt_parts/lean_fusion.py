"""Fusion that keeps nothing of its attention for the backward pass."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.side.fpt_parts.fusion import Stored, as_autocast_wants, attend
from methods.side.fpt_parts.lean_layers import linear
from methods.side.fpt_parts.parts import at_once, one_operator, parts


class LeanFusion(nn.Module):
    """Computes what `methods.side.fpt.Fusion` does.

    Args:
        plain: Gives its layers, under their names.
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.prompts, self.query_proj = plain.prompts, plain.query_proj
        self.out_proj, self.dropout = plain.out_proj, plain.dropout
        self.grad_checkpointing = False

    def forward(self, stored: Stored) -> Tensor:
        """Fuses an image's features into prompts `(B, L, P, S)`."""
        attended = attend_to_features(linear(self.prompts, self.query_proj), stored, self.grad_checkpointing)
        return self.dropout(linear(attended, self.out_proj)) + self.prompts


class LeanFusionPlus(nn.Module):
    """Computes what `methods.side.fpt_plus.Fusion` does.

    Args:
        plain: Gives its layers, under their names.
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.prompts, self.norm = plain.prompts, plain.norm
        self.out_proj, self.dropout = plain.out_proj, plain.dropout
        self.grad_checkpointing = False

    def forward(self, stored: Stored) -> Tensor:
        """Fuses an image's features into prompts `(B, L, P, S)`."""
        attended = attend_to_features(self.norm(self.prompts), stored, self.grad_checkpointing)
        projected = F.linear(self.prompts, self.out_proj.weight)  # (L, P, S): added here, they take no batch's memory
        return self.dropout(linear(attended, self.out_proj) + projected)


def attend_to_features(query: Tensor, stored: Stored, frugal: bool = False) -> Tensor:
    """As `methods.side.fpt_parts.fusion.attend`, and keeps nothing but its inputs; `frugal` has parts small."""
    if torch.compiler.is_exporting():
        return attend(query, stored)
    query = as_autocast_wants(query)
    num_heads, head_dim = stored.keys.shape[2::2]
    heads = (query * head_dim**-0.5).unflatten(-1, (num_heads, head_dim)).transpose(-3, -2)  # ([B,] L, A, P, E)
    attended: Tensor = _PromptAttention.apply(heads, frugal, *stored)
    return attended.flatten(3)


class _PromptAttention(torch.autograd.Function):
    """Softmax attention of scaled queries on features, to `(B, L, P, A, E)`; a gradient for queries.

    Queries are `(L, A, P, E)`, or `(B, L, A, P, E)` where each image has its own.

    Nothing but the inputs is kept for the backward pass: keys and values stay in their stored type; their casts, and
    the attention itself, are made again for a few images and layers at a time. The scales of 8-bit features never
    touch those: they multiply queries and results, which are small.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, frugal: bool, *stored: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, *stored)
        ctx.frugal = frugal
        num_layers, num_heads, num_prompts, head_dim = query.shape[-4:]
        features = _Features(query, Stored(*stored), frugal)  # type: ignore[arg-type]
        output = query.new_empty(len(features.stored.keys), num_layers, num_prompts, num_heads, head_dim)
        for part in features.parts():
            features.attend(part, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, *stored = ctx.saved_tensors
        features = _Features(query, Stored(*stored), ctx.frugal)
        grad_query = torch.zeros_like(query, dtype=torch.float32)
        for part in features.parts():
            features.add_grad_query(part, grad, grad_query)
        return grad_query.to(query.dtype), None, None, None, None, None


# Images and layers: what is worked on at a time.
Part = tuple[slice, slice]


class _Features:
    """The prompts' queries and the features they attend to, in parts cast one after another into the same memory.

    A part's work is a method of its own, so that nothing of it lives on while the next one is done.
    """

    def __init__(self, query: Tensor, stored: Stored, frugal: bool) -> None:
        self.query, self.stored, self.frugal = query, stored, frugal
        self.own = query.dim() == 5  # each image has its own queries
        first = stored.keys[next(self.parts())]
        self.memory = None if first.dtype == query.dtype else torch.empty_like(first, dtype=query.dtype)

    def parts(self) -> Iterator[Part]:
        """Parts of whole images, or of some layers of one: of each, keys or values and four attention maps."""
        batch, num_layers, num_heads, kept, head_dim = self.stored.keys.shape
        numbers = num_heads * kept * (head_dim + 4 * self.query.shape[-2])
        layers_at_once = at_once(numbers * self.query.element_size(), self.query, self.frugal)
        for images in parts(batch, max(1, layers_at_once // num_layers)):
            for layers in parts(num_layers, layers_at_once):
                yield images, layers

    @one_operator
    def attend(self, part: Part, output: Tensor) -> None:
        """Fills a part of what the prompts read, `(B, L, P, A, E)`."""
        attention = self._attention(part, self._cast(self.stored.keys[part]))
        attended = _scaled(attention @ self._cast(self.stored.values[part]), self.stored.values_scale, part)
        output[part] = attended.transpose(2, 3)

    @one_operator
    def add_grad_query(self, part: Part, grad: Tensor, grad_query: Tensor) -> None:
        """Adds to the gradient of the queries, in fp32, from the output's `(B, L, P, A, E)`."""
        grad = grad[part].transpose(2, 3)  # (b, l, A, P, E)
        grad_attention = _scaled(grad, self.stored.values_scale, part) @ self._cast(self.stored.values[part]).mT
        keys = self._cast(self.stored.keys[part])
        attention = self._attention(part, keys)
        grad_scores = torch._softmax_backward_data(grad_attention, attention, -1, keys.dtype)
        grads = _scaled(grad_scores @ keys, self.stored.keys_scale, part)  # (b, l, A, P, E)
        grad_query[self._queries(part)] += grads if self.own else grads.sum(0, dtype=torch.float32)

    def _attention(self, part: Part, keys: Tensor) -> Tensor:
        """The prompts' attention `(b, l, A, P, M)`, in the type of the queries; summed in fp32."""
        query = _scaled(self.query[self._queries(part)], self.stored.keys_scale, part)
        return torch._softmax(query @ keys.mT, -1, False)  # which autocast leaves in 16 bits

    def _queries(self, part: Part) -> Part | slice:
        """Where a part's queries stand."""
        return part if self.own else part[1]

    def _cast(self, features: Tensor) -> Tensor:
        if self.memory is None:
            return features
        return self.memory[: features.shape[0], : features.shape[1]].copy_(features)


def _scaled(tensor: Tensor, scale: Tensor | None, part: Part) -> Tensor:
    return tensor if scale is None else tensor * scale[part].to(tensor.dtype)
