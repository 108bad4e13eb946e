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

from benchmarks.bounds import refuse_faults
from benchmarks.commands import COMMANDS
from benchmarks.commands.contract import Command
from benchmarks.errors import mendable, one_line
from benchmarks.suite.crash import report_crash
from benchmarks.suite.signals import Stop, leave, stop_on_signals


class Parser(argparse.ArgumentParser):
    """Errors are one line: what is wrong, and where to look."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Ends with status 2."""
        print(f"bench.py: {' '.join(message.split())}; see {self.prog} -h", file=sys.stderr)
        sys.exit(2)


def make_parser(command: Command) -> Parser:
    """The parser of one command."""
    others = "\n".join(f"  {name:8} {other.help}" for name, other in COMMANDS.items())
    parser = Parser(
        prog=f"bench.py {command.name}",
        description=command.help,
        epilog=f"example:\n  {command.example}\n\ncommands (run is the default; bench.py COMMAND -h):\n{others}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Runs a command; what a user can mend is one line on stderr and status 2, a signal 128 and its number.

    Whatever else goes wrong is a fault of ours: one line, status 70, and a file that holds the traceback.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    name = arguments[0] if named else "run"
    if name not in COMMANDS:
        print(f"bench.py: command must be one of {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr)
        return 2
    command, rest = COMMANDS[name], arguments[1:] if named else arguments
    args = argparse.Namespace()
    try:
        args = make_parser(command).parse_args(rest)
        refuse_faults(vars(args).values())
        if getattr(args, "plugins", None):
            from benchmarks.plugins import load_plugins

            load_plugins(args.plugins)
        return command.run(args)
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
