"""Options that several commands share, each defined once."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.choices import DEFAULT_BACKBONE

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("md", "csv", "json")


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def add_methods(parser: argparse.ArgumentParser) -> None:
    """--methods, all of them by default."""
    parser.add_argument(
        "--methods", nargs="+", metavar="M", default=["all"], help="names, see bench.py list methods (default: all)"
    )


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """--backbone"""
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, metavar="B", help="any timm ViT (default: %(default)s)")


def add_num_classes(parser: argparse.ArgumentParser) -> None:
    """--num-classes"""
    parser.add_argument("--num-classes", type=positive, default=5, metavar="C", help="of the new head (default: 5)")


def add_set(parser: argparse.ArgumentParser) -> None:
    """--set"""
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="M.OPTION=X", help="a method's option, like lora.rank=8"
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


def add_cache(parser: argparse.ArgumentParser) -> None:
    """--cache"""
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(".cache"),
        metavar="DIR",
        help="weights, resized images, features and predictions (default: .cache)",
    )


def add_results(parser: argparse.ArgumentParser) -> None:
    """--results"""
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")


def add_suite_options(parser: argparse.ArgumentParser) -> None:
    """The options that a suite file may hold, as `SuiteOptions` describes them; those that are not typed stay unset."""
    from benchmarks.suite.options import POLICIES, SuiteOptions, option_of

    exclusive = parser.add_mutually_exclusive_group()
    groups: dict[str | None, argparse._ActionsContainer] = {None: parser}
    for name in SuiteOptions.model_fields:
        title = option_of(name).group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_field(exclusive if name in POLICIES else groups[title], name)


def _add_field(group: "argparse._ActionsContainer", name: str) -> None:
    """An option of a suite; its rules are checked once the suite file is read, by `SuiteOptions`."""
    from benchmarks.suite.options import SuiteOptions, choices_of, option_of

    option, flag = option_of(name), f"--{name.replace('_', '-')}"
    if SuiteOptions.model_fields[name].annotation is bool:
        group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=option.help)
        return
    metavar = option.metavar or f"{{{','.join(choices_of(name))}}}"
    nargs = "+" if option.several else None
    group.add_argument(flag, nargs=nargs, default=argparse.SUPPRESS, metavar=metavar, help=option.help)
