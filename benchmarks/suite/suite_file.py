"""Suite files: the options of a suite, in YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.choices import one_of
from benchmarks.errors import MissingError, UserError
from benchmarks.suite.option_rules import check_together, validate
from benchmarks.suite.options import POLICIES, SuiteOptions

SUITES = Path(__file__).parents[1] / "suites"
LARGEST = 2**63  # numbers that no option needs, and that Python writes as text in no time


def find_suite(name: str) -> Path:
    """The file of a suite: a path, or the name of one in benchmarks/suites.

    Raises:
        UserError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = sorted(file.stem for file in SUITES.glob("*.yaml"))
    if path.suffix in (".yaml", ".yml"):
        raise MissingError(f"suite must be a file or one of {', '.join(known)}, got {name!r}; there is no such file")
    return SUITES / f"{one_of('suite', known, name)}.yaml"


def read_options(typed: Mapping[str, Any]) -> SuiteOptions:
    """The options of a suite: those of its file, if `typed` names one as `suite`, and those typed, which win.

    Args:
        typed: What stands on the command line, and nothing else; what is no option of a suite is passed over.

    Raises:
        UserError: An option breaks a rule, alone or beside the others.
    """
    own = {name: value for name, value in typed.items() if name in SuiteOptions.model_fields}
    stated = {} if typed.get("suite") is None else read_suite_file(find_suite(typed["suite"]))
    if any(name in own for name in POLICIES):
        stated = {name: value for name, value in stated.items() if name not in POLICIES}
    options = validate(stated | own)
    if "set" in stated:
        options = options.model_copy(update={"set": _settings(validate(stated).set, own, options)})
    check_together(options)
    return options


def _settings(stated: tuple[str, ...], own: Mapping[str, Any], options: SuiteOptions) -> tuple[str, ...]:
    """The option `set`: what is typed adds to the file's, of which goes what is of methods that are not to run."""
    if "methods" in own and options.methods != ("all",):
        stated = tuple(setting for setting in stated if setting.partition(".")[0] in options.methods)
    return (*stated, *options.set) if "set" in own else stated


def read_suite_file(path: Path) -> dict[str, Any]:
    """The options that a suite file states, each of them valid.

    Args:
        path: YAML with the names of `SuiteOptions` as keys; a list for an option that takes several values, true or
            false for a switch.

    Raises:
        UserError: The file is no YAML mapping, a key is no option, or a value breaks its rule.
    """
    try:
        content = _Loader(path.read_bytes()).get_single_data()
    except UserError as error:
        raise UserError(f"{error} in {str(path)!r}") from None
    except OSError:
        raise
    except Exception as error:  # beside its own errors, PyYAML lets through what a wrong tag or deep nesting leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"suite file must be YAML, got {str(path)!r}: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"suite file must hold options, one a line like 'epochs: 20', got {str(path)!r}")
    for key in content:
        one_of(f"key in {path}", SuiteOptions.model_fields, key if isinstance(key, str) else repr(key))
    empty = [key for key, value in content.items() if value is None]
    if empty:
        raise UserError(f"{empty[0]} in {path} must be a value or a list of values, got None")
    validate(content, f" in {path}")
    return content


class _Loader(yaml.SafeLoader):
    """Refuses what YAML forbids and PyYAML takes: a key given twice, of which the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise UserError(f"key must be given once, got {key!r} twice")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number."""
        number = int(super().construct_yaml_int(node))
        if abs(number) >= LARGEST:
            raise UserError(f"number must be less than {LARGEST}, got a larger one")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
