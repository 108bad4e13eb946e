"""What a command of bench.py is."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command of bench.py.

    Attributes:
        name: As typed.
        help: One line for the list of commands.
        example: A command line that works, shown under `-h`.
        add_arguments: Adds its options to a parser.
        run: Does it; returns the exit status, 0 when all asked for was done. A `UserError`, and what
            the system says of a file, a disk or a connection, reach the user as one line; anything else counts as a
            fault of ours and leaves its traceback in a file (see `benchmarks.errors.mendable`).
    """

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
