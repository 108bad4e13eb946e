"""Locks between processes and machines: who holds one, when it is free again, and that no wall clock has a say."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.storage import locks
from benchmarks.storage.locks import LEASE_SECONDS, Lock, held_lock

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys
from pathlib import Path
from benchmarks.storage import locks
locks.LEASE_SECONDS = float(sys.argv[2])
lock = locks.Lock(Path(sys.argv[1]))
assert lock.try_acquire()
print("held", flush=True)
lock.lost.wait()
print("lost", flush=True)
lock.release()
print("released", flush=True)
"""
TAKE_TURNS = """
import os, sys
from pathlib import Path
from benchmarks.storage.locks import Lock
path, witness = Path(sys.argv[1]), Path(sys.argv[2])
turns = 0
while turns < 50:
    lock = Lock(path)
    if lock.try_acquire():
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
        witness.unlink()
        turns += 1
        lock.release()
"""

TAKE_ABANDONED = """
import os, sys, time
from pathlib import Path
from benchmarks.storage import locks
locks.LEASE_SECONDS = 0.3
path, witness, unlink = Path(sys.argv[1]), Path(sys.argv[2]), Path.unlink

def unlink_late(self, missing_ok=False):
    if self == path:
        time.sleep(float(sys.argv[3]))
    unlink(self, missing_ok)

Path.unlink = unlink_late
lock = locks.Lock(path)
while not lock.try_acquire():
    time.sleep(0.02)
Path.unlink = unlink
os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
time.sleep(2)
assert not lock.lost.is_set()
witness.unlink()
lock.release()
"""


class FakeClock:
    """Stands in for the monotonic clock; only `sleep` moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The observer's own clock, beside a wall clock that must not be asked."""
    fake = FakeClock()
    monkeypatch.setattr(time, "monotonic", fake)
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
    return fake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / ".a-run.lease"


@contextmanager
def holding(path: Path, lease_seconds: float = LEASE_SECONDS) -> "Iterator[subprocess.Popen[str]]":
    """Another process that holds a lock."""
    command = [sys.executable, "-c", HOLD, str(path), str(lease_seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def write_marker(path: Path) -> None:
    """What a process of another machine writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name("written")
    written.write_text(
        f"filelock/2\npid={os.getpid()}\nhost=elsewhere\nmode=lease\ntoken=a\nduration={LEASE_SECONDS}\n"
    )
    written.replace(path)


@pytest.mark.process
def test_one_process_holds_it_and_its_death_frees_it_at_once(path: Path, clock: FakeClock) -> None:
    with holding(path) as process:
        lock = Lock(path)
        assert not lock.try_acquire()
        assert (lock.holder() or "").startswith(f"process {process.pid} on ")
        process.kill()
        process.wait()
        assert lock.try_acquire()
    assert (lock.holder() or "").startswith(f"process {os.getpid()} on ")
    assert not Lock(path).try_acquire()
    lock.release()
    assert lock.holder() is None and list(path.parent.iterdir()) == []


@pytest.mark.process
def test_processes_take_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE_TURNS, str(tmp_path / "lock"), str(tmp_path / "witness")]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("age", [0.0, 3600.0, -3600.0, 1e9], ids=["now", "hour-ago", "in-an-hour", "1990s"])
def test_another_machine_keeps_it_while_it_is_touched(path: Path, clock: FakeClock, age: float) -> None:
    write_marker(path)
    lock, touched = Lock(path), path.stat().st_mtime - age
    for _ in range(5):
        touched += 1
        os.utime(path, (touched, touched))
        assert not lock.try_acquire()
        clock.sleep(LEASE_SECONDS - 1)
    assert lock.holder() == f"process {os.getpid()} on elsewhere"
    assert not lock.try_acquire()
    clock.sleep(2)
    assert lock.try_acquire()
    assert (lock.holder() or "").startswith(f"process {os.getpid()} on ") and "elsewhere" not in (lock.holder() or "")
    lock.release()
    assert not path.exists()


def test_another_observer_counts_from_its_own_first_look(path: Path, clock: FakeClock) -> None:
    write_marker(path)
    first = Lock(path)
    assert not first.try_acquire()
    clock.sleep(LEASE_SECONDS + 1)
    second = Lock(path)
    assert not second.try_acquire()
    assert first.try_acquire()
    clock.sleep(LEASE_SECONDS + 1)
    write_marker(path)  # as if another machine had got it next
    assert not second.try_acquire()
    first.release()
    assert path.exists()


@pytest.mark.process
def test_a_holder_that_stops_for_long_loses_it_and_gets_to_know(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.6)
    with holding(path, 0.6) as process:
        lock = Lock(path)
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while not lock.try_acquire():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.readlines() == ["lost\n", "released\n"]
        assert (lock.holder() or "").startswith(f"process {os.getpid()} on ")  # it gave up what was no longer its own
        assert not lock.lost.is_set()
        lock.release()
    assert list(path.parent.iterdir()) == []


def test_an_empty_file_is_removed_after_the_lease(path: Path, clock: FakeClock) -> None:
    path.parent.mkdir()
    path.touch()
    wait_out_the_lease(Lock(path), path, clock)


@pytest.mark.parametrize("name", ["a-dead-machine", "empty"])
def test_a_file_system_without_an_exchange_of_names_frees_it_too(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("filelock._filesystem._exchange._rename_call", lambda: (lambda *_: errno.EINVAL, 2))  # NFS
    write_marker(path)
    if name == "empty":
        path.write_text("")
    wait_out_the_lease(Lock(path), path, clock)


def wait_out_the_lease(lock: Lock, path: Path, clock: FakeClock) -> None:
    """The lock is not taken before the lease is over, and then soon."""
    for _ in range(4):
        assert not lock.try_acquire()
        clock.sleep(LEASE_SECONDS / 4)
    clock.sleep(1)
    for _ in range(locks.TRIES):
        assert not lock.try_acquire() and path.exists()
    assert not lock.try_acquire() and not path.exists()
    assert lock.try_acquire() and (lock.holder() or "").startswith(f"process {os.getpid()} on ")
    lock.release()
    assert list(path.parent.iterdir()) == []


@pytest.mark.process
def test_two_waiters_never_both_take_what_was_abandoned(tmp_path: Path) -> None:
    """Each pauses for another time between seeing the file abandoned and removing it, then holds the lock for long."""
    path, witness = tmp_path / "lock", tmp_path / "witness"
    path.touch()
    command = [sys.executable, "-c", TAKE_ABANDONED, str(path), str(witness)]
    processes = [subprocess.Popen([*command, str(pause)], cwd=ROOT) for pause in (0.0, 0.7, 1.4)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_a_claim_on_what_another_has_replaced_removes_nothing(path: Path) -> None:
    """A waiter that slept while the abandoned file was removed, and the lock taken."""
    path.parent.mkdir()
    path.touch()
    seen = locks._identity(path)
    assert seen is not None
    path.unlink()
    lock = Lock(path)
    assert lock.try_acquire()
    locks._remove(path, seen)
    assert (lock.holder() or "").startswith(f"process {os.getpid()} on ")
    lock.release()
    assert list(path.parent.iterdir()) == []


def test_whether_a_holder_lives_is_found_out(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", clock.sleep)
    write_marker(path)
    waited: list[str] = []
    dead = Lock(path)
    assert dead.acquire_unless_alive(lambda: waited.append("for a dead machine"))
    assert LEASE_SECONDS <= clock.now - 1000 < LEASE_SECONDS + 1
    assert not Lock(path).acquire_unless_alive(lambda: waited.append("for this very machine"))
    dead.release()
    write_marker(path)

    def touch(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 1100:
            os.utime(path, (1.0, 1.0))

    monkeypatch.setattr(time, "sleep", touch)
    assert not Lock(path).acquire_unless_alive(lambda: waited.append("for a live machine"))
    assert clock.now < 1101 and waited == ["for a dead machine", "for a live machine"]


@pytest.mark.parametrize("content", ["filelock/2\npid=1", "nonsense\n"])
def test_a_file_cut_short_holds_nothing_for_long(path: Path, clock: FakeClock, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    lock = Lock(path)
    assert not lock.try_acquire()
    clock.sleep(LEASE_SECONDS)
    assert lock.try_acquire()
    lock.release()


def test_no_lock_of_the_system_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        pytest.fail("flock does not hold on shared folders")

    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, fail)
    lock = Lock(path)
    assert lock.try_acquire() and not Lock(path).try_acquire()
    lock.release()
    with held_lock(path, lambda: pytest.fail("nobody else has it")):
        assert not Lock(path).try_acquire()
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Lock(tmp_path / "file" / "lock").try_acquire()
