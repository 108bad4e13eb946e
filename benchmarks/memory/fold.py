"""Work in many equal parts, run on fake tensors no more often than its memory needs."""

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.memory.cuda_kernels import run_backward
from benchmarks.memory.trace import StorageTrace

Pattern = tuple[tuple[int, int], ...]


class FoldRepeats(TorchFunctionMode):
    """Skips calls that repeat the one before them, of functions that fill given tensors in equal parts.

    Such a function, which a method makes known to torch by `torch.overrides.wrap_torch_function`, returns None. Of
    calls in succession, with no operator between them, on the same tensors and with slices as long, those are skipped
    that come after two which allocated and released the same, and left nothing behind: they would do so too.

    Args:
        trace: Follows the storages.
    """

    def __init__(self, trace: StorageTrace) -> None:
        super().__init__()
        self.trace = trace
        self._last: tuple[Any, int] | None = None  # the last call's signature, and operators run at its end
        self._pattern: Pattern | None = None  # its events, and whether the one before had the same
        self._repeats = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.backward:
            with self:
                return run_backward(*args, **(kwargs or {}))
        body = getattr(func, "__wrapped__", None)
        if body is None or func.__module__.startswith("torch."):
            return func(*args, **(kwargs or {}))
        signature = (func, _kind(args), _kind(tuple((kwargs or {}).items())))
        in_succession = self._last == (signature, self.trace.num_operators)
        if in_succession and self._repeats:
            return None
        begin, made = len(self.trace.events), len(self.trace.tags)
        with self:
            result = body(*args, **(kwargs or {}))
        pattern = self._own_events(begin, made) if result is None else None
        self._repeats = in_succession and pattern is not None and pattern == self._pattern
        self._last, self._pattern = (signature, self.trace.num_operators), pattern
        return result

    def _own_events(self, begin: int, made: int) -> Pattern | None:
        """The events of a call, its storages counted from 0; None if it released others, or kept some of its own."""
        events = tuple((number - made, size) for number, size in self.trace.events[begin:])
        num_released = sum(size < 0 for _, size in events)
        return None if any(number < 0 for number, _ in events) or 2 * num_released != len(events) else events


def _kind(value: Any) -> Any:
    """What of an argument decides what memory a call takes: of a slice how long it is, else which object it is."""
    if isinstance(value, tuple):
        return tuple(map(_kind, value))
    if isinstance(value, slice) and None not in (value.start, value.stop):
        return value.stop - value.start, value.step
    return value if isinstance(value, int | float | str) else id(value)
