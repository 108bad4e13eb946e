"""Being told to stop: Ctrl-C, the system's SIGTERM, or a closed terminal, all as one exception, and in seconds."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn


def known_signals(*names: str) -> tuple[signal.Signals, ...]:
    """Signals by name, without those that this system lacks: Windows has neither SIGHUP, SIGKILL nor SIGUSR2."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


SIGNALS = known_signals("SIGINT", "SIGTERM", "SIGHUP")
GRACE_SECONDS = 2.5  # from a signal to the end of the process, whatever it is at


class Stop(KeyboardInterrupt):
    """A signal asked this process to stop.

    Args:
        signum: Its number.

    Attributes:
        status: The exit status that shells give such an end.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = status_of(signum)


_STOPPED = threading.Event()


def leave(status: int) -> NoReturn:
    """Ends the process; after a signal at once: Python takes seconds on a busy machine to take its objects down."""
    if not _STOPPED.is_set():
        sys.exit(status)
    with contextlib.suppress(OSError):  # whoever read what we print has gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def status_of(signum: int) -> int:
    """The exit status that shells give a process that a signal has ended."""
    return 128 + signum


def stop_on_signals() -> None:
    """Turns these signals into one `Stop`, but for those that whoever started us wants ignored (nohup).

    Further ones are ignored: ending takes seconds, and whoever presses Ctrl-C twice would see a traceback of it. Where
    it takes longer than `GRACE_SECONDS` (a library that is not done with a call, a thread that waits for a disk), the
    process ends at once; files are written whole or not at all, so nothing is lost.
    """
    signals = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]

    def stop(signum: int, _: object) -> None:
        _STOPPED.set()
        for other in signals:
            signal.signal(other, signal.SIG_IGN)
        raise Stop(signum)

    for signum in signals:
        signal.signal(signum, stop)
    if hasattr(os, "set_blocking"):  # Windows has it since Python 3.12
        _end_late(signals)


def _end_late(signals: Sequence[int]) -> None:
    """Has a thread end the process `GRACE_SECONDS` after one of the signals."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python runs a handler once the main thread is back from a library; the system tells of a signal here at once.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        signum = 0
        while signum not in signals:
            (signum,) = os.read(reader, 1)
        time.sleep(GRACE_SECONDS)
        for child in multiprocessing.active_children():
            child.kill()
        print(f"stopped by {signal.Signals(signum).name}; what is finished is kept", file=sys.stderr, flush=True)
        os._exit(status_of(signum))

    threading.Thread(target=watch, daemon=True).start()
