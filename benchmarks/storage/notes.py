"""Notes: a line on what went otherwise than expected and stops nothing. To stderr, or to whoever listens, as a run."""

import contextlib
import sys
from collections.abc import Callable, Iterator

_LISTENERS: list[Callable[[str], None]] = []  # of the process, since what reads ahead in a thread has notes too


def say(note: object) -> None:
    """Says a note."""
    if _LISTENERS:
        _LISTENERS[-1](str(note))
    else:
        print(f"note: {note}", file=sys.stderr)


@contextlib.contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Has notes go to a listener instead of stderr."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)
