"""What the page loads when it is asked for: records and results of classes, a compressed part for each place.

Records of a place differ in few of their values. A part therefore holds the text between the values of a record once,
and of each value a column: an entry a record, or one for all where they agree.
"""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_VALUE = re.compile(r'("(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null)')


def pack(contents: Mapping[str, str], classes: Mapping[str, Any]) -> bytes:
    """A part.

    Args:
        contents: records by name, as JSON.
        classes: what is known of the classes of some of them, by name.

    Returns:
        Gzipped JSON of `records`, groups of records alike in shape with their `names`, `between` (the texts before,
        between and behind the values) and `columns` (of each value a list with an entry a record, or what all have),
        numbers to six digits; and of `classes`.
    """
    groups: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
    for name, content in contents.items():
        pieces = _VALUE.split(content)
        groups.setdefault(tuple(pieces[::2]), []).append((name, pieces[1::2]))
    records = [
        {"names": [name for name, _ in members], "between": between, "columns": _columns([row for _, row in members])}
        for between, members in groups.items()
    ]
    text = json.dumps({"records": records, "classes": classes}, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def unpack(part: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records and the classes of a part, both by name, as the page reads them."""
    content = json.loads(gzip.decompress(part))
    records = {}
    for group in content["records"]:
        for i, name in enumerate(group["names"]):
            values = [json.dumps(column[i] if isinstance(column, list) else column) for column in group["columns"]]
            pieces = [*(piece for pair in zip(group["between"], values, strict=False) for piece in pair)]
            records[name] = json.loads("".join([*pieces, group["between"][-1]]))
    return records, content["classes"]


def _columns(rows: Sequence[list[str]]) -> list[Any]:
    """Of each value what all rows have, or a list with an entry a row; numbers to six digits."""
    columns = []
    for tokens in zip(*rows, strict=True):
        alike = tokens.count(tokens[0]) == len(tokens)
        values = json.loads(f"[{tokens[0] if alike else ','.join(tokens)}]")
        short = [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
        columns.append(short[0] if alike else short)
    return columns
