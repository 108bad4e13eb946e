"""A command line read into options: all that is wrong with it is said at once, with the nearest of what there is."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from benchmarks.bounds import Fault
from benchmarks.choices import nearest, not_one_of
from benchmarks.commands import COMMANDS
from benchmarks.commands.contract import Command
from benchmarks.errors import UserError

OVERVIEW = """\
usage: bench.py [COMMAND] [OPTION ...]

Compares fine-tuning methods for high-resolution medical images.

commands:
{commands}

examples:
  python bench.py --methods fpt lora --res 512      train, measure, compare
  python bench.py advise --gpu-memory 8GB           which method to use
  python bench.py fit --methods full lora fpt       which card they need

bench.py COMMAND -h shows the options of a command; run is the default."""


class Parser(argparse.ArgumentParser):
    """Errors are one line: what is wrong, and where to look."""

    def error(self, message: str) -> NoReturn:
        """Ends with status 2."""
        print(f"bench.py: {' '.join(message.split())}; see {self.prog} -h", file=sys.stderr)
        sys.exit(2)


def overview() -> str:
    """What `bench.py -h` says."""
    return OVERVIEW.format(commands=_listed())


def _listed() -> str:
    return "\n".join(f"  {name:9} {other.help}" for name, other in COMMANDS.items())


def make_parser(command: Command) -> Parser:
    """The parser of one command."""
    parser = Parser(
        prog=f"bench.py {command.name}",
        description=command.help,
        epilog=f"example:\n  {command.example}\n\ncommands (run is the default; bench.py COMMAND -h):\n{_listed()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    for action in parser._actions:
        if action.choices is not None:
            _refuse_later(action)
    return parser


def _refuse_later(action: argparse.Action) -> None:
    """Has a value that is no choice become a `Fault` instead of ending at once."""
    known, name = list(action.choices or ()), _name(action)
    action.metavar = action.metavar or f"{{{','.join(map(str, known))}}}"
    action.type, action.choices = _choice(name, known), None


def _choice(name: str, known: list[str]) -> Callable[[str], str]:
    return lambda text: text if text in known else Fault(not_one_of(name, known, text))


def _name(action: argparse.Action) -> str:
    return action.option_strings[-1].lstrip("-") if action.option_strings else action.dest


def find_command(name: str) -> Command:
    """A command by its name.

    Raises:
        UserError: There is none; the message has the nearest.
    """
    if name not in COMMANDS:
        raise UserError(not_one_of("command", COMMANDS, name))
    return COMMANDS[name]


def read_arguments(command: Command, arguments: Sequence[str]) -> argparse.Namespace:
    """The options that a command line holds.

    Raises:
        UserError: Options are unknown or their values break rules; the message has all.
        SystemExit: Help was asked for, or what must be there is not.
    """
    parser = make_parser(command)
    args, rest = parser.parse_known_args(list(arguments))
    wrong = [*_unknown(command, parser, rest), *_faults(vars(args))]
    if wrong:
        raise UserError("; ".join(dict.fromkeys(wrong)))
    return args


def _unknown(command: Command, parser: Parser, rest: Sequence[str]) -> list[str]:
    """A line for each option that is none of the command's, or for what belongs to no option."""
    options = [word.partition("=")[0] for word in rest if word.startswith("-")]
    if not options:
        return [f"{word!r} must belong to an option or be left out; see {parser.prog} -h" for word in rest]
    return [_no_option(command, parser, option) for option in options]


def _no_option(command: Command, parser: Parser, option: str) -> str:
    line = f"{command.name} has no option {option}"
    others = [name for name, other in COMMANDS.items() if option in make_parser(other)._option_string_actions]
    known = parser._option_string_actions
    if near := nearest(known, option, 0.85) or (None if others else nearest(known, option, 0.7)):
        return f"{line}; did you mean {near}?"
    return f"{line}, which is of {', '.join(others)}" if others else f"{line}; see {parser.prog} -h"


def _faults(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with values; those of a suite are held to its rules."""
    every = [item for value in values.values() for item in (value if isinstance(value, list | tuple) else [value])]
    found: list[str] = [item for item in every if isinstance(item, Fault)]
    if "suite" not in values:
        return found
    from benchmarks.suite.option_rules import faults
    from benchmarks.suite.options import SuiteOptions

    return [*found, *faults({name: value for name, value in values.items() if name in SuiteOptions.model_fields})]
