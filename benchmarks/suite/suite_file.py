"""Suite files: the options of a suite, in YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.choices import one_of
from benchmarks.errors import MissingError, UserError
from benchmarks.storage.files import read_regular, why_no_file
from benchmarks.storage.plain_yaml import read_yaml
from benchmarks.suite.option_rules import check_together, faults
from benchmarks.suite.options import POLICIES, SuiteOptions

SUITES = Path(__file__).parents[1] / "suites"


def find_suite(name: str) -> Path:
    """The file of a suite: a path, or the name of one in benchmarks/suites.

    Raises:
        UserError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.exists():
        raise UserError(f"suite must be a file, got {name!r}; {why_no_file(path)}")
    known = sorted(file.stem for file in SUITES.glob("*.yaml"))
    if path.suffix in (".yaml", ".yml"):
        raise MissingError(f"suite must be a file or one of {', '.join(known)}, got {name!r}; {why_no_file(path)}")
    return SUITES / f"{one_of('suite', known, name)}.yaml"


def read_options(typed: Mapping[str, Any]) -> SuiteOptions:
    """The options of a suite: those of its file, if `typed` names one as `suite`, and those typed, which win.

    Args:
        typed: What stands on the command line, and nothing else; what is no option of a suite is passed over.

    Raises:
        UserError: Options break rules, alone or beside the others; the message has all that break one alone.
    """
    own = {name: value for name, value in typed.items() if name in SuiteOptions.model_fields}
    path = None if typed.get("suite") is None else find_suite(typed["suite"])
    stated = {} if path is None else _read(path)
    wrong = [*faults(stated, f" in {path}"), *faults(own)]
    if wrong:
        raise UserError("; ".join(wrong))
    if any(name in own for name in POLICIES):
        stated = {name: value for name, value in stated.items() if name not in POLICIES}
    if "backbone" in own:
        stated = {
            name: value for name, value in stated.items() if name not in ("backbone_arg", "pool")
        }  # of the file's
    options = SuiteOptions.model_validate(stated | own)
    if "set" in stated:
        options = options.model_copy(update={"set": _settings(SuiteOptions.model_validate(stated).set, own, options)})
    check_together(options)
    return options


def _settings(stated: tuple[str, ...], own: Mapping[str, Any], options: SuiteOptions) -> tuple[str, ...]:
    """The option `set`: what is typed wins, and of the file's goes what is of methods that are not to run."""
    if "methods" in own:
        stated = tuple(setting for setting in stated if _may_run(setting.partition(".")[0], options.methods))
    if "set" not in own:
        return stated
    names = [setting.partition("=")[0] for setting in options.set]
    return (*(setting for setting in stated if setting.partition("=")[0] not in names), *options.set)


def _may_run(method: str, names: Sequence[str]) -> bool:
    """Whether a method is among those that are named, alone, with options or by a group."""
    if "all" in names or method in {name.partition(":")[0] for name in names}:
        return True
    from benchmarks.model.groups import GROUPS  # imports torch
    from methods import METHODS

    return any(method in METHODS and GROUPS[name](method) for name in names if name in GROUPS)


def read_suite_file(path: Path) -> dict[str, Any]:
    """The options that a suite file states, each of them valid.

    Args:
        path: YAML with the names of `SuiteOptions` as keys; a list for an option that takes several values, true or
            false for a switch. Numbers are read as on the command line.

    Raises:
        UserError: The file is no YAML mapping, a key is no option, or a value breaks its rule.
    """
    content = _read(path)
    wrong = list(faults(content, f" in {path}"))
    if wrong:
        raise UserError("; ".join(wrong))
    return content


def _read(path: Path) -> dict[str, Any]:
    """A mapping of options, whose values may still break rules."""
    try:
        content = read_yaml(read_regular(path))
    except UserError as error:
        raise UserError(f"suite file must be YAML, got {str(path)!r}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"suite file must hold options, one a line like 'epochs: 20', got {str(path)!r}")
    for key in content:
        one_of(f"key in {path}", SuiteOptions.model_fields, key if isinstance(key, str) else repr(key))
    empty = [key for key, value in content.items() if value is None]
    if empty:
        raise UserError(f"{empty[0]} in {path} must be a value or a list of values, got None")
    return content
