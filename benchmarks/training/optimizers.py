"""Optimisers by name: their making, and the bytes of what they keep of each parameter."""

import logging
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks.config import Optimizer
from benchmarks.errors import UserError

BETAS = (0.9, 0.999)  # of AdamW, in fp32 and in 8 bits
MOMENTUM = 0.9
# Of bitsandbytes: smaller parameters keep a state in fp32; a block of a larger one shares a scale in fp32.
LEAST_IN_8_BITS, BLOCK = 4096, 256


def check_optimizer(name: Optimizer) -> None:
    """Refuses an optimiser whose library is not there.

    Raises:
        UserError: It is not.
    """
    if name == "adamw8bit":
        _bitsandbytes("optimizer adamw8bit")


def _bitsandbytes(what: str) -> Any:
    """The library bitsandbytes: imported where it is used alone, as that takes a second."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports kernels that nothing here asks for
    try:
        import bitsandbytes
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"{what} must have the library bitsandbytes, got none ({error}); install it: pip install bitsandbytes"
        ) from error
    return bitsandbytes


def make_optimizer(
    name: Optimizer, groups: list[dict[str, Any]], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimiser over parameter groups.

    AdamW (betas 0.9 and 0.999) and SGD (momentum 0.9) are torch's, fused: they make no temporary copies of the
    parameters. AdamW in 8 bits is bitsandbytes' (Dettmers et al., arXiv 2110.02861), Lion timm's (Chen et al., arXiv
    2302.06675; betas 0.9 and 0.99).

    Args:
        name: Which one.
        groups: As torch.optim takes them.
        lr: Of groups that have none of their own.
        weight_decay: The same; decoupled from the gradient in all but SGD.

    Raises:
        UserError: Its library is not installed.
    """
    if name == "adamw8bit":
        optimizer: torch.optim.Optimizer = _bitsandbytes("optimizer adamw8bit").optim.AdamW8bit(
            groups, lr=lr, betas=BETAS, weight_decay=weight_decay
        )
        return optimizer
    if name == "lion":
        from timm.optim import Lion

        return Lion(groups, lr=lr, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=BETAS, fused=True)


def state_bytes(name: Optimizer, sizes: Iterable[int]) -> int:
    """Bytes of the state that an optimiser keeps of fp32 parameters, from its second step on.

    Args:
        name: Which one.
        sizes: Numbers of elements of the parameters.
    """
    per_element = {"adamw": 8, "sgd": 4, "lion": 4}
    sizes = list(sizes)
    if name != "adamw8bit":
        return per_element[name] * sum(sizes) + (4 * len(sizes) if name == "adamw" else 0)  # AdamW counts steps
    small = sum(size for size in sizes if size < LEAST_IN_8_BITS)
    large = [size for size in sizes if size >= LEAST_IN_8_BITS]
    scales = sum(-(-size // BLOCK) for size in large)
    tables = 2 * 4 * 256 if large else 0  # what 8 bits stand for, once for all parameters
    return 8 * small + 2 * sum(large) + 2 * 4 * scales + tables
