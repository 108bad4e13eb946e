"""Damages valid content at random: values inside it, rows of a table, bytes of a file.

Each test tries the same few examples at every call; `FUZZ_DEPTH=100 python -m pytest -m fuzz` tries a hundred times as
many, and other ones each time. What has failed once stays as an `@example`.
"""

import contextlib
import copy
import csv
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from benchmarks.errors import UserError

MENDABLE = (UserError, OSError)  # what bench.main turns into one line
DEPTH = int(os.environ.get("FUZZ_DEPTH", "1"))  # times as many examples, and other ones each time where it is not 1
fuzz = settings(
    derandomize=DEPTH == 1,
    deadline=None,
    max_examples=25 * DEPTH,
    database=None,
    suppress_health_check=list(HealthCheck),
)
fuzz_briefly = settings(fuzz, max_examples=10 * DEPTH)  # what goes all the way to tables takes its time

ODD = ["", " ", "\0", "\r\n", "\ufeff", "\ud800", "\udcff", "é", "𝕏" * 3, "-1", "--help", "../x", "1e999", "x" * 2000]
DEEP = b"[" * 5000 + b"]" * 5000
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**63, -(2**63), 10**30, 10**400]),
    st.floats(),
    st.sampled_from(ODD),
    st.text(max_size=5),
)
INTEGERS = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 64, 255, 256, 9999, 2**15, 2**16 - 1])
LARGE = INTEGERS | st.sampled_from([2**16, 2**31 - 1, 2**31, 2**32 - 1])
keys = st.sampled_from(ODD) | st.text(max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=4
)


def one_line(error: BaseException) -> None:
    """What bench.main prints: not empty, and printable."""
    text = " ".join(str(error).split())
    assert text, repr(error)
    assert not isinstance(error, RecursionError)


@contextlib.contextmanager
def only_clean_errors() -> Iterator[None]:
    try:
        yield
    except MENDABLE as error:
        one_line(error)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside nested lists and dictionaries."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def damaged(draw: st.DrawFn, content: Any) -> Any:
    """Up to three parts replaced, dropped or added."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))))
        if not path:
            if draw(st.integers(0, 20)) == 0:
                return draw(values)
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "replace", "drop", "add"]))
        if how == "replace":
            parent[path[-1]] = draw(values)
        elif how == "drop":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = draw(values)
    return content


@st.composite
def broken(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes cut, overwritten, inserted, repeated, or in other line ends and encodings."""
    for _ in range(draw(st.integers(1, 3))):
        start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        junk = draw(st.binary(max_size=8) | st.sampled_from([b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"NaN"]))
        how = draw(st.sampled_from(["cut", "over", "insert", "repeat", "crlf", "utf16", "bom"]))
        if how == "cut":
            data = data[:start]
        elif how == "over":
            data = data[:start] + junk + data[start + len(junk) :]
        elif how == "insert":
            data = data[:start] + junk + data[start:]
        elif how == "repeat":
            data = data[:start] + data[start : start + length] * 2 + data[start + length :]
        elif how == "crlf":
            data = data.replace(b"\n", b"\r\n")
        elif how == "utf16":
            data = data.decode("latin-1").encode("utf-16")
        else:
            data = b"\xef\xbb\xbf" + data
    return data


@st.composite
def odd_tables(draw: st.DrawFn, rows: list[list[str]]) -> list[list[str]]:
    """Cells replaced, rows dropped, repeated, cut short or made longer, columns renamed."""
    rows = copy.deepcopy(rows)
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(rows) - 1))
        how = draw(st.sampled_from(["cell", "cell", "drop", "repeat", "short", "long", "header"]))
        row = rows[0] if how == "header" else rows[number]
        if how in ("cell", "header") and row:
            other = draw(st.sampled_from([value for row in rows for value in row]))
            row[draw(st.integers(0, len(row) - 1))] = draw(st.sampled_from([*ODD, "nan", "inf", "1e5", other]))
        elif how == "drop" and len(rows) > 1:
            del rows[number]
        elif how == "repeat":
            rows.insert(number, list(row))
        elif how == "short":
            del row[1:]
        elif how == "long":
            row += ["more", ""]
    return rows


def as_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="surrogatepass")
