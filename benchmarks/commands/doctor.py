"""bench.py doctor: what the set-up is and what is wrong with it, to look at and to paste into an issue."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_data_root, add_results
from benchmarks.commands.printing import markdown_table, print_narrow
from benchmarks.privacy import hide_places

if TYPE_CHECKING:
    pass

FORMATS = ("md", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--paths", action="store_true", help="show whole paths (default: without places and names)")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: md")
    add_results(parser)
    add_cache(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the facts, then the problems with what mends them; status 1 where there is one."""
    from benchmarks.suite.setup_check import inspect

    found = inspect(args.results, args.cache, args.data_root)
    facts, problems = found.facts, [dataclasses.asdict(problem) for problem in found.problems]
    if not args.paths:
        facts, problems = _hidden(facts), _hidden(problems)
    if args.format == "json":
        print(json.dumps({"facts": facts, "problems": problems}, indent=2, ensure_ascii=False))
    else:
        _print(facts, problems, args.paths)
    return 1 if problems else 0


def _hidden(value: Any) -> Any:
    """The same without places, machines and the user."""
    if isinstance(value, dict):
        return {name: _hidden(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_hidden(part) for part in value]
    return hide_places(value, {Path.cwd(): "."}) if isinstance(value, str) else value


def _print(facts: dict[str, dict[str, Any]], problems: list[dict[str, str]], whole: bool) -> None:
    import pandas as pd

    for section, named in facts.items():
        rows = [{section: name, "": str(value)} for name, value in named.items()]
        frame = pd.DataFrame(rows, columns=[section, ""])
        if whole:  # paths are words that no line may be too narrow for
            print(markdown_table(frame, disable_numparse=True))
        else:
            print_narrow(frame, disable_numparse=True)
        print()
    for problem in problems:
        print(f"wrong: {problem['what']}\n  mend it: {problem['mend']}")
    print("nothing is wrong" if not problems else f"{len(problems)} wrong", file=sys.stderr)


COMMAND = Command(
    "doctor",
    "say whether the set-up is right: versions, GPU, caches, disk",
    "python bench.py doctor",
    add_arguments,
    run,
)
