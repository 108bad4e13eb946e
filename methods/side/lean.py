"""How side networks keep little for the backward pass: features as they are stored, and no more than a part's work."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Numbers that a part of the batch may hold at once, 64 MiB in fp32.
MAX_NUMBERS = 2**24


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear` for x of any floating type; keeps x as it is, and no copy in the type that is multiplied in."""
    return _Linear.apply(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = (grad @ weight.to(grad.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        rows = grad.flatten(0, -2)
        grad_weight = (rows.T @ x.to(grad.dtype).flatten(0, -2)).to(weight.dtype)
        return grad_x, grad_weight, rows.sum(0, dtype=weight.dtype) if ctx.has_bias else None


def remade(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, numbers: int) -> tuple[Tensor, ...]:
    """A function of a few images at a time that is done again in the backward pass: only its inputs are kept.

    Args:
        function: Treats images alike and apart, and draws no random numbers.
        inputs: Tensors whose first axis is the batch's.
        numbers: How many the function holds of an image in its backward pass.

    Returns:
        The function's outputs for all images.
    """
    if torch.compiler.is_exporting():  # no number of images is fixed there, and nothing is kept
        return function(*inputs)
    images = max(1, min(-(-len(inputs[0]) // 4), MAX_NUMBERS // numbers))
    parts = zip(*(tensor.split(images) for tensor in inputs), strict=True)
    outputs = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return tuple(torch.cat(each) for each in zip(*outputs, strict=True))
