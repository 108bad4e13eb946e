"""Methods and their settings, as a user names them."""

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from benchmarks.choices import one_of
from benchmarks.errors import UserError


def check_methods(names: Sequence[str]) -> list[str]:
    """Checks names of methods, drops repetitions, keeps the order; `all` stands for all of them."""
    from methods import METHODS

    if list(names) == ["all"]:
        return list(METHODS)
    return list(dict.fromkeys(one_of("method", METHODS, name) for name in names))


def method_options(settings: Iterable[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads `--set`: `lora.rank=8` becomes `{"lora": {"rank": 8}}`; values are YAML scalars.

    Raises:
        UserError: A setting is not of that form, or names a method that does not run.
    """
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        method, dot, option = name.partition(".")
        if not (separator and dot and option):
            raise UserError(f"set must be like lora.rank=8, got {setting!r}")
        if method not in methods:
            raise UserError(f"set must name a method of this suite ({', '.join(methods)}), got {setting!r}")
        options.setdefault(method, {})[option] = _scalar(value, setting)
    return options


def _scalar(text: str, setting: str) -> Any:
    try:
        return yaml.safe_load(text)
    except Exception as error:  # beside its own errors, PyYAML lets through what a wrong tag leads to
        raise UserError(f"set must have a value that YAML can read, got {setting!r}") from error
