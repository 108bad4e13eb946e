"""Work in parts, one after another in the same memory: as few of them as a budget of bytes allows.

Each part hands a GPU its kernels anew, which take longer to start than to run: parts are large there, as large as what
training holds anyway leaves room for. On a CPU, and where gradient checkpointing is to save memory, they are small.
"""

from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

from torch import Tensor
from torch.overrides import wrap_torch_function

Inputs = ParamSpec("Inputs")

SMALL_PART = 3 * 2**20  # bytes of all that a part makes
LARGE_PART = 32 * 2**20


def at_once(bytes_of_one: int, tensor: Tensor, frugal: bool = False) -> int:
    """How many pieces of work a part may have, at least one.

    Args:
        bytes_of_one: What a piece makes.
        tensor: Lies where it is done.
        frugal: Whether memory is to be saved.
    """
    budget = SMALL_PART if tensor.is_cpu or frugal else LARGE_PART
    return max(1, budget // bytes_of_one)


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
