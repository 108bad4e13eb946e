"""Methods and their settings, as a user names them."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.choices import one_of
from benchmarks.errors import UserError
from benchmarks.storage.plain_yaml import numbers, read_yaml


def check_methods(names: Sequence[str]) -> list[str]:
    """Checks names of methods, drops repetitions, keeps the order; `all` stands for all of them."""
    from methods import METHODS

    if list(names) == ["all"]:
        return list(METHODS)
    return list(dict.fromkeys(one_of("method", METHODS, name) for name in names))


def methods_on(names: Sequence[str], backbone: str) -> tuple[list[str], list[str]]:
    """The methods of these names, of `all` those that a backbone has what they ask for.

    Args:
        names: Of methods, checked as `check_methods` does.
        backbone: Its name, with its settings.

    Returns:
        The methods, and a note on those that `all` leaves out.
    """
    from benchmarks.model.backbone import lacks
    from methods import METHODS

    methods = check_methods(names)
    if list(names) != ["all"]:
        return methods, []
    unfit: dict[str, list[str]] = {}  # by what the backbone has instead
    for method in methods:
        if lacking := lacks(backbone, METHODS[method]):
            unfit.setdefault(" and ".join(lacking), []).append(method)
    left_out = "; ".join(f"{', '.join(names)}, as it has {reason}" for reason, names in unfit.items())
    notes = [f"all methods but these run on {backbone}: {left_out}"] if unfit else []
    return [method for method in methods if not any(method in names for names in unfit.values())], notes


def method_options(settings: Iterable[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads `--set`: `lora.rank=8` becomes `{"lora": {"rank": 8}}`; values are YAML scalars.

    Raises:
        UserError: A setting is not of that form, given twice, or names a method that does not run.
    """
    settings = list(settings)
    check_settings(settings)
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        method, option, value = read_setting(setting)
        if method not in methods:
            raise UserError(f"set must name a method of this suite ({', '.join(methods)}), got {setting!r}")
        options.setdefault(method, {})[option] = value
    return options


def check_settings(settings: Iterable[str]) -> None:
    """Checks what of `--set` can be checked before methods are known.

    Raises:
        UserError: Settings are not of the form, or given twice; the message has all of them.
    """
    wrong: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for setting in dict.fromkeys(settings):
        try:
            method, option, _ = read_setting(setting)
        except UserError as error:
            wrong.append(str(error))
            continue
        known = seen.setdefault((method, option), setting)
        if known != setting:
            wrong.append(f"set must give each option once, got {known!r} and {setting!r}")
    if wrong:
        raise UserError("; ".join(wrong))


def read_setting(setting: str) -> tuple[str, str, Any]:
    """Method, option and value of `lora.rank=8`.

    Raises:
        UserError: It is not of that form.
    """
    name, _, text = setting.partition("=")
    method, _, option = name.partition(".")
    if not (method and option and text.strip()):
        raise UserError(f"set must be like lora.rank=8, got {setting!r}")
    try:
        value = numbers(read_yaml(text))
    except UserError as error:
        raise UserError(f"set must have a value that YAML can read, got {setting!r}") from error
    return method, option, value
