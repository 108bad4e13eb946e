"""Being told to stop: Ctrl-C, the system's SIGTERM, or a closed terminal, all as one exception."""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop(KeyboardInterrupt):
    """A signal asked this process to stop.

    Args:
        signum: Its number.

    Attributes:
        status: The exit status that shells give such an end.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


def stop_on_signals() -> None:
    """Turns these signals into one `Stop`, but for those that whoever started us wants ignored (nohup).

    Further ones are ignored: ending takes seconds, and whoever presses Ctrl-C twice would see a traceback of it.
    """
    signals = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]

    def stop(signum: int, _: object) -> None:
        for other in signals:
            signal.signal(other, signal.SIG_IGN)
        raise Stop(signum)

    for signum in signals:
        signal.signal(signum, stop)
