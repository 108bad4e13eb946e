"""What models of options are made of: lists of one, numbers within their bounds, and no unknown keys."""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError, PydanticKnownError

from benchmarks.bounds import broken_rule, read_number


class OptionModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


def as_list(value: Any) -> Any:
    """One value stands for a list of one; an empty list for nothing, which is a mistake."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values or any(isinstance(item, dict | list | None) for item in values):
        raise PydanticKnownError("list_type")
    return values


def within(name: str) -> BeforeValidator:
    """Reads a number and holds it to its bounds."""

    def read(value: Any) -> Any:
        rule = broken_rule(name, value)
        if rule is not None:
            raise PydanticCustomError("bounds", "{rule}", {"rule": rule})
        return read_number(name, value)

    return BeforeValidator(read)
