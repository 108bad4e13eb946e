"""What the page loads when it is asked for: records and results of classes, a compressed part for each place.

Records of a place differ in few of their values. A part therefore holds the text between the values of a record once,
and of each value a column: an entry a record, or one for all where they agree.
"""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_VALUE, _KEY = "\0", "\1"  # places in the text of a shape
_PLACE = re.compile(f"[{_VALUE}{_KEY}]")
_NESTED = frozenset({dict, list})


class _Shape(NamedTuple):
    """A record without its values: the texts around them and keys, and the keys, with None in a value's place."""

    between: tuple[str, ...]
    keys: tuple[str | None, ...]


_Flat = tuple[_Shape, list[Any]]  # a record's shape and its values


def pack(contents: Mapping[str, Any], classes: Mapping[str, Any], curves: Mapping[str, Any] | None = None) -> bytes:
    """A part.

    Args:
        contents: records by name.
        classes: what is known of the classes of some of them, by name.
        curves: of cells, by the number of their row in the table.

    Returns:
        Gzipped JSON of `records`, groups of records alike in shape with their `names`, `between` (the texts before,
        between and behind the values) and `columns` (of each value a list with an entry a record, or what all have),
        numbers to six digits; of `classes`; and of `curves`.
    """
    shapes: dict[tuple[Any, ...], _Shape] = {}
    groups: dict[tuple[str, ...], list[tuple[str, _Flat]]] = {}
    for name, content in contents.items():
        flat = _flattened(content, shapes)
        groups.setdefault(flat[0].between, []).append((name, flat))
    records = [
        {
            "names": [name for name, _ in members],
            "between": between,
            "columns": list(_columns([flat for _, flat in members])),
        }
        for between, members in groups.items()
    ]
    part = {"records": records, "classes": classes, "curves": curves or {}}
    text = json.dumps(part, ensure_ascii=False, separators=(",", ":"))
    # Level 9 saves one byte of two hundred and takes ten thousand runs' page a tenth longer.
    return gzip.compress(text.encode(), 6, mtime=0)


def _flattened(record: Any, shapes: dict[tuple[Any, ...], _Shape]) -> _Flat:
    """A record as its shape and values, from the shapes that are known, to which a new one is added."""
    nesting: list[Any] = []
    values: list[Any] = []
    _walk(record, nesting, values)
    known = tuple(nesting)
    if known not in shapes:
        shapes[known] = _shape(record)
    return shapes[known], values


def _walk(content: Any, nesting: list[Any], values: list[Any]) -> None:
    """Adds values in their order, and what with them makes up the content: keys, lengths, and where others lie in it.

    Most of a record are values that hold no others: they cost no call.
    """
    if isinstance(content, dict):
        nesting.append(tuple(content))
        items = iter(content.items())
    else:
        nesting.append(len(content))
        items = iter(enumerate(content))
    for place, item in items:
        if type(item) in _NESTED:
            nesting.append((place,))
            _walk(item, nesting, values)
        else:
            values.append(item)
    nesting.append(None)  # else what follows might lie in here as well


def _shape(record: Any) -> _Shape:
    keys: list[str] = []

    def entry(key: str, item: Any) -> str:
        keys.append(key)
        return f"{_KEY}:{text(item)}"

    def text(content: Any) -> str:
        if isinstance(content, dict):
            return f"{{{','.join(entry(key, item) for key, item in content.items())}}}"
        return f"[{','.join(map(text, content))}]" if isinstance(content, list) else _VALUE

    whole = text(record)
    following = iter(keys)
    places = [next(following) if place == _KEY else None for place in _PLACE.findall(whole)]
    return _Shape(tuple(_PLACE.split(whole)), tuple(places))


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


def _columns(records: Sequence[_Flat]) -> Iterator[Any]:
    """Of each key and value what all records have, or a list with an entry a record; numbers to six digits."""
    first = records[0][0]
    one_shape = all(shape is first for shape, _ in records)
    values = zip(*(values for _, values in records), strict=True)
    for place, key in enumerate(first.keys):  # whether it is one, what stands around it tells: the same for all
        if key is None:
            yield _column(next(values))
        else:
            yield key if one_shape else _column([shape.keys[place] for shape, _ in records])


def _column(values: Sequence[Any]) -> Any:
    alike = values.count(values[0]) == len(values)
    if alike and isinstance(values[0], int | float):  # 1, 1.0 and true are equal, and are not written alike
        alike = len(set(map(repr, values))) == 1
    short = [
        float(f"{value:.6g}") if isinstance(value, float) else value for value in (values[:1] if alike else values)
    ]
    return short[0] if alike else short
