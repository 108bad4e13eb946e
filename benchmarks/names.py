"""Names that users gave to files and folders: as they can be shown, stored and told apart."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_BYTES = 100  # of a name inside the name of a file, which has 255 at most
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")  # a text that reads back as it is, unless it is written as a number is


def printable(text: str) -> str:
    """A text in one line: control characters, and bytes of a file's name that are no UTF-8, are written as escapes."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python reads a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def is_text(name: str) -> bool:
    """Whether a file's name can be stored; one in another encoding is read with surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def shortened(name: str) -> str:
    """A name that leaves room for what is put beside it in the name of a file."""
    return printable(name).encode()[:_MOST_BYTES].decode(errors="ignore")


def told_apart(name: str, digest: str) -> str:
    """What a dataset is called where another has its name."""
    return f"{name} [{digest:.6}]"


def variant_name(method: str, options: Mapping[str, Any]) -> str:
    """A method with options as `--methods` takes it: `lora:rank=4,alpha=8`, the method alone without any."""
    asked = ",".join(f"{name}={option_text(value)}" for name, value in options.items())
    return f"{method}:{asked}" if asked else method


def option_text(value: Any) -> str:
    """The value of an option as the command line takes it; quotes and brackets keep its commas and bars."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(option_text, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = _PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null")
    return value if is_plain and not _is_number(value) else json.dumps(value, ensure_ascii=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def variant_title(title: str, settings: Mapping[str, Any], first: Sequence[str] = ()) -> str:
    """A method's title with settings in brackets, `LoRA (rank 4)`; `first` stands there before them."""
    details = [*first, *(f"{name} {shown_value(value)}" for name, value in settings.items())]
    return f"{title} ({', '.join(details)})" if details else title


def title_of(name: str, titles: Mapping[str, str]) -> str:
    """The title of what `variant_name` names: `LoRA (rank 4)` of `lora:rank=4`.

    Args:
        name: Of a method, maybe with options.
        titles: Of methods by name; one that is not among them is its own.
    """
    method, colon, rest = name.partition(":")
    pairs = [piece.partition("=") for piece in split_outside(rest, ",")] if colon else []
    return variant_title(titles.get(method, method), {key: _read(text) for key, _, text in pairs})


def _read(text: str) -> Any:
    if text.startswith("["):
        return [_read(item) for item in split_outside(text[1:-1], ",") if item]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, float) else value


def split_outside(text: str, divider: str) -> list[str]:
    """The parts of a text between dividers that stand in no quotes or brackets."""
    parts, depth, quote, escaped = [""], 0, "", False
    for letter in text:
        if quote:
            quote = "" if letter == quote and not escaped else quote
            escaped = quote == '"' and letter == "\\" and not escaped
        elif letter in "\"'":
            quote = letter
        elif letter in "[{]}":
            depth += 1 if letter in "[{" else -1
        if letter == divider and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def shown_value(value: Any) -> str:
    """The value of an option for reading."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return "-".join(map(shown_value, value))
    return "default" if value is None else str(value)
