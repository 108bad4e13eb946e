"""Locks between processes, on one machine or several that share a folder; they outlive no process that holds them.

A lock is a file that names its holder, made where none exists: what every shared file system keeps its word on, flock
not. On the holder's own machine its death is seen at once; on another, once the file has not been touched for
`LEASE_SECONDS` of the observer's own clock, whatever the clocks of the machines say.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

LEASE_SECONDS = 60.0
SAY_EVERY = 10.0  # seconds


class Lock:
    """A lock that a process takes or finds taken.

    Keep it while it is held by another: how long that one has shown no sign of life is counted from the first try.

    Args:
        path: Its file, which is there while it is held; its folder is made.

    Attributes:
        lost: Set while it was held: another machine took it over, as this process showed no sign of life.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lost = path, threading.Event()
        self._lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, on_compromise=lambda _: self.lost.set())
        self._empty: tuple[int, float] | None = None  # an empty file, by inode, and when it was first seen

    def try_acquire(self) -> bool:
        """Takes the lock unless another process holds it.

        Raises:
            OSError: The folder cannot be written; it names the file.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            self._remove_if_abandoned()
            return False
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        return True

    def release(self) -> None:
        """Gives the lock up, and removes its file."""
        self._lease.release()

    def holder(self) -> str | None:
        """Who holds it, as `process 4711 on node3`; None where nobody does."""
        owner = self._lease.owner
        return None if owner is None else f"process {owner.pid} on {owner.hostname}"

    def _remove_if_abandoned(self) -> None:
        """An empty file is of a process, or a machine, that died in the instant between making and filling it."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return
        if status.st_size:
            self._empty = None
        elif self._empty is None or self._empty[0] != status.st_ino:
            self._empty = (status.st_ino, time.monotonic())
        elif time.monotonic() - self._empty[1] > LEASE_SECONDS:
            self.path.unlink(missing_ok=True)


@contextmanager
def held_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Held by the one process that makes or changes a cache.

    Args:
        path: File of the lock.
        on_wait: Called when another process holds it, and every ten seconds until it does not; may raise, not to wait.
    """
    lock = Lock(path)
    said: float | None = None
    while not lock.try_acquire():
        if said is None or time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            on_wait()
        time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()
