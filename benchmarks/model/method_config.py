"""A method's Config from what a user asked for: names and types of its options, checked."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from benchmarks.choices import one_of
from benchmarks.errors import UserError
from methods import METHODS
from methods.contract import Bounds

_RULES: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
# What every method has: with a rate of 0 nothing would train.
_OF_ALL = {"lr": Annotated[float, Bounds(above=0)], "weight_decay": Annotated[float, Bounds(at_least=0)]}


def make_config(method: str, overrides: Mapping[str, Any]) -> Any:
    """The method's Config with some defaults replaced; equal settings give equal values, however they were written.

    Raises:
        UserError: An override names no field of the Config, or is no value of its type, or outside its bounds.
    """
    config = METHODS[method].config
    kinds = typing.get_type_hints(config, include_extras=True) | _OF_ALL
    names = [field.name for field in dataclasses.fields(config)]
    for name in overrides:
        one_of(f"option of {method}", names, name)
    settings = {name: getattr(config(), name) for name in names} | dict(overrides)
    return config(**{name: _convert(f"{name} of {method}", kinds[name], value) for name, value in settings.items()})


def _convert(name: str, kind: Any, value: Any) -> Any:
    """A value as its field's type has it; YAML reads 1e-3 as text, a list for a tuple, and a number for a text.

    Raises:
        UserError: It is none of that type.
    """
    try:
        return _read(kind, value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name} must be {_rule(kind)}, got {value!r}") from None


def _read(kind: Any, value: Any) -> Any:
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _within(members[1], _read(members[0], value))
    if origin is Literal:
        return members[[(type(member), member) for member in members].index((type(value), value))]
    if origin in (types.UnionType, typing.Union):  # T | None
        return None if value is None else _read(next(member for member in members if member is not type(None)), value)
    if origin is tuple:
        return tuple(_read(members[0], item) for item in (value if isinstance(value, list | tuple) else [value]))
    if value is None or isinstance(value, bool) != (kind is bool):
        raise TypeError
    converted = kind(value)
    if (kind is int and converted != value) or (kind is float and not math.isfinite(converted)):
        raise ValueError
    return converted


def _within(bounds: Bounds, value: Any) -> Any:
    if not bounds.hold(value):
        raise ValueError
    return value


def _rule(kind: Any) -> str:
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return f"{_rule(members[0])}, {members[1]}"
    if origin is Literal:
        return f"one of {', '.join(map(str, members))}"
    if origin in (types.UnionType, typing.Union):
        return f"{_rule(next(member for member in members if member is not type(None)))}, or null"
    if origin is tuple:
        return f"a list, each {_rule(members[0])}"
    return _RULES[kind]
