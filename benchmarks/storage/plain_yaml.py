"""YAML read so that a value is what stands there: no `010` that is 8, no `1:30` that is 90, no `no` that is false.

PyYAML reads YAML 1.1, which has such numbers, truth values and dates. Here, as in YAML 1.2, only `true`, `false` and
`null` (or nothing) are more than text; whoever wants a number reads it from the text, as from the command line.
"""

import re
from typing import Any

import yaml

from benchmarks.errors import UserError

_YAML = "tag:yaml.org,2002:"
_INT = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,29})")
_FLOAT = re.compile(r"[+-]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.inf)|\.nan")


class _Loader(yaml.SafeLoader):
    """Refuses what YAML forbids and PyYAML takes: a key given twice, of which the last would win."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML has it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise UserError(f"key must be given once, got {key!r} twice")
        return super().construct_mapping(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """What stands there, whatever a tag says that it is."""
        return str(self.construct_scalar(node))


_Loader.add_implicit_resolver(f"{_YAML}bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(f"{_YAML}null", re.compile("^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_YAML}merge", re.compile("^<<$"), ["<"])
for _tag in ("int", "float", "timestamp"):
    _Loader.add_constructor(f"{_YAML}{_tag}", _Loader.construct_text)


def read_yaml(data: bytes | str) -> Any:
    """The content of one document: mappings, lists, texts, true, false and None.

    Raises:
        UserError: It is no YAML, or has a key twice; the message says what is wrong.
    """
    try:
        return _Loader(data).get_single_data()
    except UserError:
        raise
    except Exception as error:  # beside its own errors, PyYAML lets through what a wrong tag or deep nesting leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(reason) from error


def numbers(value: Any) -> Any:
    """The same with texts that are written as numbers are as numbers; `010`, `1:30` and `1_000` stay text."""
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if not isinstance(value, str):
        return value
    if _INT.fullmatch(value):
        return int(value)
    return float(value.replace(".inf", "inf").replace(".nan", "nan")) if _FLOAT.fullmatch(value) else value
