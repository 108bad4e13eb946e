"""Locks between processes, given up by the system when the one that holds them dies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def held_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Held by the one process that makes or changes a cache.

    Args:
        path: File of the lock, which stays; its folder is made.
        on_wait: Called when another process holds it, before waiting; may raise, not to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
