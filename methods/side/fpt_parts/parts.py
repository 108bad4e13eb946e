"""Work in parts, one after another in the same memory."""

from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

from torch import Tensor
from torch.overrides import wrap_torch_function

Inputs = ParamSpec("Inputs")


def parts(total: int, size: int) -> Iterator[slice]:
    """Slices of `size`, the last one perhaps shorter, that cover `total`."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def one_operator(function: Callable[Inputs, None]) -> Callable[Inputs, None]:
    """Makes a function that works on a part of given tensors a single operator to torch's function modes.

    Who follows operators by such a mode need not follow those of all parts, where they are equal.
    """

    def tensors(*args: Any) -> list[Tensor]:
        return [arg for arg in args if isinstance(arg, Tensor)]

    announce: Any = wrap_torch_function(tensors)
    announced: Callable[Inputs, None] = announce(function)
    return announced
