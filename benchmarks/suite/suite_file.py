"""Suite files: the options of a command, in YAML."""

import argparse
import reprlib
from pathlib import Path
from typing import Any

import yaml

from benchmarks.choices import one_of

SUITES = Path(__file__).parents[1] / "suites"


def find_suite(name: str) -> Path:
    """The file of a suite: a path, or the name of one in benchmarks/suites.

    Raises:
        ValueError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = sorted(file.stem for file in SUITES.glob("*.yaml"))
    if path.suffix in (".yaml", ".yml"):
        raise ValueError(f"suite must be a file or one of {', '.join(known)}, got {name!r}; there is no such file")
    return SUITES / f"{one_of('suite', known, name)}.yaml"


def suite_arguments(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """A suite file as command-line arguments, to be parsed before the user's own, which then win.

    Args:
        path: YAML with the long option names of `parser` as keys (underscores for dashes); a list for an option that
            takes several values, true or false for a switch.
        parser: The command's parser.

    Raises:
        ValueError: The file is no YAML mapping, or a key is no option.
    """
    data = path.read_bytes()
    try:
        content = yaml.safe_load(data)
    except Exception as error:  # beside its own errors, PyYAML lets through what a wrong tag or deep nesting leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"suite file must be YAML, got {str(path)!r}: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"suite file must hold options, one a line like 'epochs: 20', got {str(path)!r}")
    flags = {option[2:].replace("-", "_"): option for option in parser._option_string_actions if option[:2] == "--"}
    for key in ("suite", "help"):
        flags.pop(key, None)
    arguments: list[str] = []
    for key, value in content.items():
        option = flags[one_of(f"key in {path}", flags, key if isinstance(key, str) else repr(key))]
        arguments += _as_arguments(option, value, parser._option_string_actions[option], path)
    return arguments


def _as_arguments(option: str, value: Any, action: argparse.Action, path: Path) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{option[2:]} in {path} must be true or false, got {reprlib.repr(value)}")
        return [option] if value else []
    if option == "--slurm" and isinstance(value, dict):
        value = [f"{key}={item}" for key, item in value.items()]
    values = value if isinstance(value, list) else [value]
    if action.choices is not None and "on" in action.choices:  # YAML reads a bare on or off as true or false
        values = [{True: "on", False: "off"}[item] if isinstance(item, bool) else item for item in values]
    if not values or any(not isinstance(item, str | int | float) or isinstance(item, bool) for item in values):
        raise ValueError(f"{option[2:]} in {path} must be a value or a list of values, got {reprlib.repr(value)}")
    if len(values) > 1 and action.nargs is None:
        raise ValueError(f"{option[2:]} in {path} must be one value, got {reprlib.repr(value)}")
    for item in values:
        if isinstance(item, str) and item.startswith("-"):  # it would be taken for another option
            raise ValueError(f"{option[2:]} in {path} must not begin with a dash, got {item!r}")
    return [option, *map(str, values)]
