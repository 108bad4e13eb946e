"""Selective checkpointing: what is dear to compute stays, all else is computed again in the backward pass."""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}
WIDEST = 3  # times what a product sums over, is the output that is kept: wider ones take memory for little computing
DEAR = {
    *(aten.convolution.default, aten._scaled_dot_product_flash_attention.default),
    *(aten._scaled_dot_product_flash_attention_for_cpu.default, aten._scaled_dot_product_cudnn_attention.default),
    aten._scaled_dot_product_efficient_attention.default,
}


def is_dear(operator: Any, *args: Any) -> bool:
    """Whether what an operator yields takes little memory for what it costs to compute.

    Attention and convolutions; matrix products but those of wide outputs: an MLP's inner layer, low-rank updates and
    the scores of attention that is not fused.
    """
    if operator in PRODUCTS:
        first, second = args[-2:]  # (..., n, K), (..., K, m)
        return bool(second.shape[-1] <= WIDEST * first.shape[-1])
    return operator in DEAR


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if is_dear(operator, *args) else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def keeping_what_is_dear() -> Iterator[None]:
    """Inside, every block that is checkpointed keeps what `is_dear`.

    Who calls `torch.utils.checkpoint.checkpoint` are methods, timm and other libraries, which have no way to hand on a
    policy: it becomes the default of that function's argument.
    """
    defaults: Any = inspect.unwrap(checkpoint).__kwdefaults__
    contexts: partial[tuple[AbstractContextManager[Any], AbstractContextManager[Any]]] = partial(
        create_selective_checkpoint_contexts, _policy
    )
    with patch.dict(defaults, context_fn=contexts):
        yield
