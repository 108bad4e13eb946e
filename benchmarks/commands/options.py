"""Options that several commands share, each defined once."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import Fault, typed
from benchmarks.errors import MissingError
from benchmarks.storage.files import file_in_the_way
from benchmarks.storage.notes import say

if TYPE_CHECKING:
    from benchmarks.model.variants import Variant

FORMATS = ("md", "csv", "json")


def folder(name: str) -> Callable[[str], Path | Fault]:
    """Reads a folder for argparse: one that is there or may be made; a file in its place is a `Fault`.

    Args:
        name: Of the option.
    """

    def read(text: str) -> Path | Fault:
        file = file_in_the_way(Path(text))
        return (
            Path(text) if file is None else Fault(f"{name} must be a folder and no file ({file} is one), got {text!r}")
        )

    return read


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """--data-root"""
    _add_shared(parser, "data_root")


def check_named(path: Path, name: str) -> None:
    """Checks a folder that is to be read: one that was named must be there; the default one may not be made yet.

    Raises:
        MissingError: It is not there.
    """
    from benchmarks.suite.options import SuiteOptions

    if path != SuiteOptions.model_fields[name].default and not path.is_dir():
        raise MissingError(f"{name} must be a folder, got {str(path)!r}; there is no such folder")


def add_methods(parser: argparse.ArgumentParser) -> None:
    """--methods, all of them by default."""
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        default=["all"],
        help="names, groups and variants like lora:rank=4|16, see bench.py list methods (default: all)",
    )


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """--backbone, --backbone-arg and --pool, which `backbone_of` reads."""
    for name in ("backbone", "backbone_arg", "pool"):
        _add_shared(parser, name)


def backbone_of(args: argparse.Namespace) -> str:
    """The backbone asked for, with all its settings.

    Raises:
        UserError: There is none of that name, or it cannot be made so.
    """
    from benchmarks.model.backbone import check_backbone
    from benchmarks.model.published import without_folder
    from benchmarks.model.spec import joined

    backbone, _ = without_folder(joined(args.backbone, args.backbone_arg, args.pool))
    check_backbone(backbone)
    return backbone


def chosen_variants(args: argparse.Namespace, backbone: str) -> "list[Variant]":
    """The methods and variants asked for; a note says which of a group the backbone cannot have."""
    from benchmarks.model.choose import choose_variants

    variants, notes = choose_variants(args.methods, getattr(args, "set", ()), backbone)
    for note in notes:
        say(note)
    return variants


def add_num_classes(parser: argparse.ArgumentParser) -> None:
    """--num-classes"""
    parser.add_argument(
        "--num-classes", type=typed("num_classes"), default=5, metavar="C", help="of the new head (default: 5)"
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    """--set"""
    _add_shared(parser, "set")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """--plugin; the files are loaded before the command runs."""
    _add_shared(parser, "plugins")


def add_savers(parser: argparse.ArgumentParser) -> None:
    """What saves memory beside --grad-checkpointing, which `chosen_savers` reads."""
    from benchmarks.config import SAVER_WORDS

    for name in SAVER_WORDS:
        _add_shared(parser, name)


def chosen_savers(
    args: argparse.Namespace, precisions: Sequence[str], variants: "Sequence[Variant]", backbone: str
) -> dict[str, Any]:
    """What saves memory, as fields of `config.Savers`.

    Raises:
        UserError: A library for it is not installed, or a precision or method is none for it.
    """
    from benchmarks.config import savers_of
    from benchmarks.training.savers import check_savers

    check_savers(vars(args), precisions, variants, backbone)
    return savers_of(vars(args))


def add_record_host(parser: argparse.ArgumentParser) -> None:
    """--record-host"""
    _add_shared(parser, "record_host")


def add_mix_code(parser: argparse.ArgumentParser) -> None:
    """--mix-code"""
    _add_shared(parser, "mix_code")


def add_format(parser: argparse.ArgumentParser) -> None:
    """--format and --wide"""
    parser.add_argument("--format", choices=FORMATS, default="md", help="of the data on stdout (default: md)")
    add_wide(parser)


def add_wide(parser: argparse.ArgumentParser) -> None:
    """--wide"""
    parser.add_argument(
        "--wide",
        action="store_true",
        help="with md: every column, a line a row, however wide (default: what fits the terminal; csv, json: always)",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """--cache"""
    _add_shared(parser, "cache")


def add_results(parser: argparse.ArgumentParser) -> None:
    """--results"""
    _add_shared(parser, "results")


def _add_shared(parser: argparse.ArgumentParser, name: str) -> None:
    """An option that a suite has as well: the same words and the same default."""
    from benchmarks.suite.options import SuiteOptions

    default = SuiteOptions.model_fields[name].default
    _add_field(parser, name, list(default) if isinstance(default, tuple) else default)


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


def _add_field(group: "argparse._ActionsContainer", name: str, default: Any = argparse.SUPPRESS) -> None:
    """An option as `SuiteOptions` describes it; a suite's rules are checked once its file is read."""
    from benchmarks.suite.options import SuiteOptions, choices_of, option_of

    option, annotation = option_of(name), SuiteOptions.model_fields[name].annotation
    flag = f"--{option.flag or name.replace('_', '-')}"
    if annotation is bool:
        group.add_argument(flag, action="store_true", default=default, help=option.help)
        return
    group.add_argument(
        flag,
        dest=name,
        action="extend" if option.repeats else "store",
        nargs="+" if option.several else None,
        type=_type_of(name, annotation, checked=default is not argparse.SUPPRESS),
        default=default,
        choices=None if default is argparse.SUPPRESS else choices_of(name) or None,
        metavar=option.metavar or f"{{{','.join(choices_of(name))}}}",
        help=option.help,
    )


def _type_of(name: str, annotation: Any, checked: bool) -> Callable[[str], Any]:
    """What reads a value; `checked` where no suite does it later."""
    if annotation is Path and checked:
        return folder(name)
    return Path if annotation in (Path, tuple[Path, ...]) else str
