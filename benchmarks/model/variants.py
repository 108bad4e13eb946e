"""Variants of methods as a user writes them: `lora:rank=4`, `lora:rank=4|16|64`, `fpt_plus:keep_ratio=0.5,layers=3-11`.

Options stand behind a colon, commas between them; bars between values make a variant of each, and of several options
with bars every combination. A value is a YAML scalar, or a YAML list in brackets; commas and bars in quotes or brackets
belong to it. A word without `=` is the value of the option that the method's Config names as its `shorthand`.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

from benchmarks.choices import one_of
from benchmarks.errors import UserError
from benchmarks.names import option_text, split_outside, variant_name
from benchmarks.storage.plain_yaml import numbers, read_yaml
from methods import METHODS


@dataclass(frozen=True)
class Variant:
    """A method with options.

    Attributes:
        method: Its name in the table of methods.
        asked: The options that stand with it, as (name, value) in the order of its Config.
        changed: All options in which it was asked to depart from its defaults: these, and those of `--set`.
        config: The method's Config with all of them.
        name: As `--methods` takes it, without those of `--set`.
    """

    method: str
    asked: tuple[tuple[str, Any], ...]
    changed: tuple[tuple[str, Any], ...]
    config: Any

    @property
    def name(self) -> str:
        return written(self.method, dict(self.asked))


def written(method: str, options: dict[str, Any]) -> str:
    """A method with options as `read_variants` reads them; what its `shorthand` names stands first, as a word."""
    short = shorthand_of(method)
    rest = variant_name(method, {name: value for name, value in options.items() if name != short})
    if short is None or short not in options:
        return rest
    words = [option_text(options[short]), *filter(None, [rest.partition(":")[2]])]
    return f"{method}:{','.join(words)}"


def shorthand_of(method: str) -> str | None:
    """The option of a method that a word alone stands for; None where it has none."""
    return getattr(METHODS[method].config, "shorthand", None)


def read_variants(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The methods and options that one word of `--methods` stands for, those of a grid in its order.

    Raises:
        UserError: It is not of the form, names no method or no option of it, or gives an option twice.
    """
    method, colon, rest = text.partition(":")
    one_of("method", METHODS, method)
    values: dict[str, list[Any]] = {}
    for piece in _split(rest, ",", text) if colon else ():
        name, word = _option(method, piece, text)
        if name in values:
            raise UserError(f"methods must give each option once, got {name} twice in {text!r}")
        values[name] = [_value(item, text) for item in _split(word, "|", text)]
    order = [field.name for field in dataclasses.fields(METHODS[method].config) if field.name in values]
    return [
        (method, dict(zip(order, chosen, strict=True)))
        for chosen in itertools.product(*(values[name] for name in order))
    ]


def _option(method: str, piece: str, text: str) -> tuple[str, str]:
    """Name and value of one option, as they are written."""
    short = shorthand_of(method)
    if len(split_outside(piece, "=")) == 1:
        if short is None:
            raise UserError(f"option of {method} must be like {_example(method)}, got {piece!r} in {text!r}")
        return short, piece
    name, _, word = (part.strip() for part in piece.partition("="))
    return one_of(
        f"option of {method}", [field.name for field in dataclasses.fields(METHODS[method].config)], name
    ), word


def _example(method: str) -> str:
    fields = dataclasses.fields(METHODS[method].config)
    own = [field for field in fields if field.name not in ("lr", "weight_decay")]
    return next((f"{field.name}={option_text(field.default)}" for field in own or fields), "none, as it has none")


def _value(word: str, text: str) -> Any:
    try:
        value = read_yaml(word)
        return value if word[:1] in "\"'" else numbers(value)  # what is in quotes is text
    except UserError as error:
        raise UserError(f"methods must have values that YAML can read, got {word!r} in {text!r}") from error


def _split(text: str, divider: str, whole: str) -> list[str]:
    """The parts between dividers that stand in no quotes or brackets; none of them is empty."""
    parts = [part.strip() for part in split_outside(text, divider)]
    if not all(parts):
        raise UserError(
            f"methods must be like lora:rank=4,dropout=0.1 or lora:rank=4|16, with a value wherever there is room for "
            f"one, got {whole!r}"
        )
    return parts
