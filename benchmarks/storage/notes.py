"""Notes: a line on what went otherwise than expected and stops nothing. To stderr, or to whoever listens, as a run."""

import contextlib
import sys
from collections.abc import Callable, Iterator

_LISTENERS: list[Callable[[str], None]] = []  # of the process, since what reads ahead in a thread has notes too
_SAID: list[set[object]] = [set()]  # what they have heard once, of the process itself first


def say(note: object, once: object = None) -> None:
    """Says a note.

    Args:
        note: The line.
        once: What it is about, where one listener is to hear of that no more than once.
    """
    if once is not None:
        if once in _SAID[-1]:
            return
        _SAID[-1].add(once)
    if _LISTENERS:
        _LISTENERS[-1](str(note))
    else:
        print(f"note: {note}", file=sys.stderr)


@contextlib.contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Has notes go to a listener instead of stderr."""
    _LISTENERS.append(listener)
    _SAID.append(set())
    try:
        yield
    finally:
        _LISTENERS.remove(listener)
        _SAID.pop()
