#!/usr/bin/env python3
"""Compares fine-tuning methods for high-resolution medical images: `python bench.py --methods fpt lora --res 512`."""

import argparse
import gc
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `stop_on_signals`: importing would end with a traceback

from benchmarks.commands.command_line import find_command, overview, read_arguments
from benchmarks.errors import mendable, one_line
from benchmarks.suite.crash import report_crash
from benchmarks.suite.signals import Stop, leave, stop_on_signals

NO_READER = 141  # as of a process that SIGPIPE has ended: whoever read what we print has gone, as `head` does


def main(arguments: list[str]) -> int:
    """Runs a command; what a user can mend is one line on stderr and status 2, a signal 128 and its number.

    Whatever else goes wrong is a fault of ours: one line, status 70, and a file that holds the traceback.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    if arguments and arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    args = argparse.Namespace()
    try:
        command = find_command(arguments[0] if named else "run")
        args = read_arguments(command, arguments[1:] if named else arguments)
        if getattr(args, "plugins", None):
            from benchmarks.plugins import load_plugins

            load_plugins(args.plugins)
        status = command.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its end
        return NO_READER
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        return stop.status if isinstance(stop, Stop) else 130
    except Exception as error:
        if not mendable(error):
            return report_crash(error, getattr(args, "results", Path("results")))
        print(f"bench.py: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    gc.set_threshold(100_000)  # importing torch makes millions of objects that stay: a second less of looking at them
    stop_on_signals()
    leave(main(sys.argv[1:]))
