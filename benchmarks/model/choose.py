"""Methods and their settings, as a user names them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.choices import one_of
from benchmarks.errors import UserError
from benchmarks.storage.plain_yaml import numbers, read_yaml

if TYPE_CHECKING:
    from benchmarks.model.variants import Variant


def choose_variants(names: Sequence[str], settings: Iterable[str], backbone: str) -> "tuple[list[Variant], list[str]]":
    """The variants of methods that `--methods` and `--set` ask for, in their order, each once.

    An option that stands with a method wins over `--set`, which is of all variants of its method.

    Args:
        names: Names, groups and variants, as `bench.py list methods` shows them.
        settings: As `method_options` takes them.
        backbone: Its name, with its settings.

    Returns:
        The variants, and notes on what groups leave out since the backbone lacks what it asks for, and on what is
        named twice.

    Raises:
        UserError: There is no such method, group or option, or a value is none of its option's.
    """
    from benchmarks.model.method_config import make_config
    from benchmarks.model.variants import Variant

    asked, notes = _asked(names, backbone)
    if not asked:
        left_out = notes[0] if notes else f"there are none in {', '.join(names)}"
        raise UserError(f"methods must be at least one, got none: {left_out}")
    changed = method_options(settings, list(dict.fromkeys(method for method, _ in asked)))
    found: dict[Any, Variant] = {}
    for method, own in asked:
        options = changed.get(method, {}) | own
        config = make_config(method, options)
        variant = Variant(method, _read_back(config, own), _read_back(config, dict(sorted(options.items()))), config)
        first = found.setdefault((method, config), variant)
        if first.name != variant.name:
            notes.append(f"{variant.name} is the same as {first.name}, which stands for both")
    return list(found.values()), notes


def is_asked_for(names: Sequence[str], method: str, options: Mapping[str, Any]) -> bool:
    """Whether what was stored of a method is among what `--methods` names; a method alone stands for any options.

    Raises:
        UserError: There is no such method, group or option.
    """
    from benchmarks.model.groups import GROUPS
    from benchmarks.model.variants import read_variants
    from methods import METHODS

    found = False
    for name in names:
        if name in GROUPS:
            found |= method in METHODS and GROUPS[name](method)
            continue
        one_of("method", dict.fromkeys([*METHODS, *GROUPS]), name.partition(":")[0])
        found |= any(other == method and own.items() <= dict(options).items() for other, own in read_variants(name))
    return found


def _read_back(config: Any, options: Iterable[str]) -> tuple[tuple[str, Any], ...]:
    """Names of options with their values as the Config has them."""
    return tuple((name, getattr(config, name)) for name in options)


def _asked(names: Sequence[str], backbone: str) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Methods with the options that stand with them, of groups those that the backbone can have; and notes."""
    from benchmarks.model.groups import GROUPS
    from benchmarks.model.variants import read_variants, written
    from methods import METHODS

    asked: list[tuple[str, dict[str, Any]]] = []
    notes: list[str] = []
    for name in dict.fromkeys(names):
        method, colon, _ = name.partition(":")
        if method in GROUPS and not colon:
            suited, left_out = _suited(name, backbone)
            asked += [(member, _spelled_out(member)) for member in suited]
            notes += left_out
            if name in METHODS:
                own = written(name, _spelled_out(name))
                notes.append(f"{name} stands for a group of methods; the method of that name is asked for like {own}")
        elif method in METHODS:
            asked += read_variants(name)
        elif method in GROUPS:
            raise UserError(f"methods must give options to a method, got {name!r}: {method} is a group of methods")
        else:
            one_of("method", dict.fromkeys([*METHODS, *GROUPS]), method)
    return asked, notes


def _spelled_out(method: str) -> dict[str, Any]:
    """What stands with a method that a group asks for: its shorthand's default where its name alone is a group's."""
    from benchmarks.model.groups import GROUPS
    from benchmarks.model.variants import shorthand_of
    from methods import METHODS

    short = shorthand_of(method)
    return {short: getattr(METHODS[method].config(), short)} if short and method in GROUPS else {}


def _suited(group: str, backbone: str) -> tuple[list[str], list[str]]:
    """The methods of a group that the backbone has what they ask for, and a note on the others."""
    from benchmarks.model.backbone import lacks
    from benchmarks.model.groups import members
    from methods import METHODS

    methods = members(group)
    unfit: dict[str, list[str]] = {}  # by what the backbone has instead
    for method in methods:
        if lacking := lacks(backbone, METHODS[method]):
            unfit.setdefault(" and ".join(lacking), []).append(method)
    left_out = "; ".join(f"{', '.join(names)}, as it has {reason}" for reason, names in unfit.items())
    notes = [f"{group} methods but these run on {backbone}: {left_out}"] if unfit else []
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
