"""The bounds of every number that a user may give on the command line or in a suite file, and their check.

They keep out what no machine could do and what a library further down would refuse hours later; within them a number
may still not fit a dataset, a method or a card. The bounds of a method's options stand in its Config.
"""

import argparse
import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.errors import UserError

FP32_MAX = 3.0e38  # what rates are multiplied with is stored as fp32


@dataclass(frozen=True)
class Bounds:
    """What a number may be.

    Attributes:
        least: The smallest value, or with `above` what it must be more than.
        most: The largest value.
        whole: Whether it is a whole number.
        above: Whether `least` itself is out.
    """

    least: float
    most: float
    whole: bool = True
    above: bool = False

    @property
    def rule(self) -> str:
        """In words, for messages and documents."""
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} {'above' if self.above else 'from'} {shown(self.least)} to {shown(self.most)}"


_COUNT = Bounds(1, 100_000)
_SEED = Bounds(0, 2**32 - 1)  # what torch and NumPy both take
_MINUTES = Bounds(1, 1_000_000)

BOUNDS = {
    "res": Bounds(1, 16_384),  # a square of this side has three times the pixels of the largest image that is read
    "seeds": _SEED,
    "seed": _SEED,
    "epochs": _COUNT,
    "warmup_epochs": Bounds(0, 100_000),
    "batch_size": _COUNT,
    "lr": Bounds(0, FP32_MAX, whole=False, above=True),
    "num_classes": _COUNT,
    "jobs": Bounds(1, 1024),
    "hang_minutes": Bounds(0, 1_000_000, whole=False, above=True),
    "minutes": _MINUTES,  # this and the next five are SLURM's
    "cpus": Bounds(1, 10_000),
    "at_once": _COUNT,
    "resubmissions": _COUNT,
    "signal_seconds": Bounds(1, 86_400),
    "runs_per_job": _COUNT,
    "samples": Bounds(1, 1000),
    "images": Bounds(1, 100),
    "steps": Bounds(0, 1000),
    "max_side": Bounds(1, 65_535),  # the longest side that JPEG has
    "bit_depth": Bounds(8, 16),
    "val": Bounds(0, 1, whole=False, above=True),  # this and the next are shares of the images
    "test": Bounds(0, 1, whole=False, above=True),
    "folds": Bounds(2, 100),
    "older_than": Bounds(0, 100_000, whole=False),
    "gpu_memory": Bounds(0, 1_000_000, whole=False, above=True),
    "margin": Bounds(0, 1, whole=False),
    "max_hours": Bounds(0, 100_000, whole=False, above=True),
    "train_fraction": Bounds(0, 1, whole=False, above=True),
    "shots": _COUNT,
    "train_hours": Bounds(0, 100_000, whole=False, above=True),
    "val_auc": Bounds(0, 1, whole=False, above=True),
    "price": Bounds(0, 1_000_000, whole=False),
}


def shown(value: float) -> str:
    """A bound for reading."""
    return f"{value:,}" if float(value).is_integer() and abs(value) < 10**15 else f"{value:g}"


def broken_rule(name: str, value: Any) -> str | None:
    """What a value must be and is not, as `at least 1`; None where it is within its bounds.

    Args:
        name: A key of `BOUNDS`.
        value: As typed, or a number.
    """
    bounds = BOUNDS[name]
    number = _number(value, bounds.whole)
    if number is None:
        if isinstance(value, str) and _ZEROS.fullmatch(value.strip()):
            return "a whole number without zeros in front"
        return "a whole number" if bounds.whole else "a number"
    if not (number > bounds.least if bounds.above else number >= bounds.least):  # nan is neither
        return f"{'above' if bounds.above else 'at least'} {shown(bounds.least)}"
    return f"at most {shown(bounds.most)}" if number > bounds.most else None


def read_number(name: str, value: Any, called: str | None = None) -> Any:
    """A number within its bounds.

    Args:
        name: A key of `BOUNDS`.
        value: As typed, or a number.
        called: Its name in the message, where that is another.

    Raises:
        UserError: It is none.
    """
    rule = broken_rule(name, value)
    if rule is not None:
        raise UserError(f"{called or name} must be {rule}, got {reprlib.repr(value)}")
    return _number(value, BOUNDS[name].whole)


def _number(value: Any, whole: bool) -> Any:
    """The number that a text or a value is; None where it is none, or has zeros in front, as octal numbers have."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if whole and isinstance(value, str) and not _WHOLE.fullmatch(value.strip()):
        return None
    if whole and isinstance(value, float) and not value.is_integer():
        return None
    try:
        return int(value) if whole and len(str(value)) < _LONG else float(value)
    except (ValueError, OverflowError):
        return math.inf if isinstance(value, int) else None


_WHOLE = re.compile(r"[+-]?(0|[1-9](_?[0-9])*)")
_ZEROS = re.compile(r"[+-]?0[0-9_]+")
_LONG = 30  # digits: far out of all bounds, and Python refuses to read a number of some thousand


class Fault(str):
    """What is wrong with a value: it stands in the value's place until all of a command line is read."""


def typed(name: str) -> Callable[[str], Any]:
    """Reads a number for argparse; a wrong one becomes a `Fault`, so that all of a command line are said at once."""

    def read(text: str) -> Any:
        try:
            return read_number(name, text)
        except UserError as error:
            return Fault(error)

    return read


def positive(text: str) -> int:
    """A whole number of at least 1, for the argparse of what is no command of bench.py."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
