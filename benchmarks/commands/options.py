"""Options that several commands share, each defined once."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.choices import one_of

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("md", "csv", "json")


def check_methods(names: list[str]) -> list[str]:
    """Checks names of methods, drops repetitions, keeps the order; `all` stands for all of them."""
    from methods import METHODS

    if names == ["all"]:
        return list(METHODS)
    return list(dict.fromkeys(one_of("method", METHODS, name) for name in names))


def add_methods(parser: argparse.ArgumentParser) -> None:
    """--methods, all of them by default."""
    parser.add_argument(
        "--methods", nargs="+", metavar="M", default=["all"], help="names, see bench.py list methods (default: all)"
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    """--format"""
    parser.add_argument("--format", choices=FORMATS, default="md", help="of the data on stdout (default: md)")


def print_frame(frame: "pd.DataFrame", layout: str) -> None:
    """Prints data, and nothing else, to stdout."""
    if layout == "csv":
        print(frame.to_csv(index=False), end="")
    elif layout == "json":
        print(frame.to_json(orient="records", indent=2))
    else:
        print(frame.to_markdown(index=False))


def add_cache(parser: "argparse._ActionsContainer") -> None:
    """--cache"""
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(".cache"),
        metavar="DIR",
        help="weights, resized images, features and predictions (default: .cache)",
    )


def add_results(parser: "argparse._ActionsContainer") -> None:
    """--results"""
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
