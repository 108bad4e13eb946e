"""Locks between processes, on one machine or several that share a folder; they outlive no process that holds them.

A lock is a file that names its holder, made where none exists: what every shared file system keeps its word on, flock
not. On the holder's own machine its death is seen at once; on another, once the file has not been touched for
`LEASE_SECONDS` of the observer's own clock, whatever the clocks of the machines say.

filelock takes such a file over by exchanging two names at once. It cannot where a file system has no such exchange
(NFS), and does not where a file is empty, as a process leaves it that dies in the instant between making and filling
it. There the file is removed, by one of those who wait and only while it is the very file that was seen abandoned.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

from benchmarks.storage.modes import make_folder

LEASE_SECONDS = 60.0
TRIES = 5  # after that: so often filelock may take the file over before it is removed
SAY_EVERY = 10.0  # seconds

Identity = tuple[int, int]  # of a file as it was last touched: its inode, and when


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
        self._seen: Identity | None = None
        self._since, self._tries = 0.0, 0  # when that was first seen, and tries since it has been so for long

    def try_acquire(self) -> bool:
        """Takes the lock unless another process holds it.

        Raises:
            OSError: The folder cannot be written; it names the file.
        """
        make_folder(self.path.parent)
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            self._look()
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

    def acquire_unless_alive(self, on_wait: Callable[[], None]) -> bool:
        """Takes the lock, or waits, a lease at most, until its holder is known to live or to be gone.

        Args:
            on_wait: Called once if it has to wait.

        Returns:
            Whether it is taken; else its holder lives.
        """
        if self.try_acquire():
            return True
        first, owner = self._seen, self._lease.owner
        if owner is not None and owner.hostname == socket.gethostname():  # seen to live at once
            return False
        on_wait()
        while self._seen in (first, None):
            if self.try_acquire():
                return True
            time.sleep(0.1)
        return False

    def _look(self) -> None:
        """Notes which file is there, and removes it once it is abandoned."""
        found = _identity(self.path)
        if found is None or found != self._seen:
            self._seen, self._since, self._tries = found, time.monotonic(), 0
        elif time.monotonic() - self._since > LEASE_SECONDS:
            self._tries += 1
            if self._tries > TRIES:
                _remove(self.path, found)


def _identity(path: Path) -> Identity | None:
    try:
        with path.open("rb") as file:  # opened, as shared file systems answer from memory otherwise
            status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _remove(path: Path, abandoned: Identity) -> None:
    """Removes an abandoned file.

    Between a look and a removal the file may have become another's, whom a second waiter let in. So whoever removes
    first makes a file that is named by what is to go, and the others leave it to that one.
    """
    claim = path.with_name(f"{path.name}.{abandoned[0]}-{abandoned[1]}.removed")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        if _identity(path) == abandoned:
            path.unlink(missing_ok=True)
    finally:
        claim.unlink(missing_ok=True)


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
