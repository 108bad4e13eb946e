"""The order of a dataset's classes, and whether they are grades: as declared, else natural and no grades.

`classes.txt` beside the folders of the splits declares it: the name of a class folder on each line, in order; a first
line `# ordered` says that each class is more than the one before, as grades are.
"""

import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.errors import UserError
from benchmarks.storage.files import read_regular
from datasets.info import DatasetInfo

FILE = "classes.txt"
MARK = "# ordered"
_NUMBERS = re.compile(r"([0-9]+(?:\.[0-9]+)?)")


class ClassOrder(NamedTuple):
    """Names of the class folders in order, and whether they are grades."""

    names: tuple[str, ...]
    ordered: bool = False


def natural_key(name: str) -> tuple[Any, ...]:
    """Sorts names as plain text, but for the numbers in them, which go by value: `2` before `10`."""
    parts: list[tuple[int, Decimal]] = []
    for index, part in enumerate(_NUMBERS.split(name)):
        number = index % 2
        parts += [(ord("0"), Decimal(part))] if number else [(ord(letter), Decimal(0)) for letter in part]
    return (parts, name)


def class_order(root: Path, folders: Iterable[str], info: DatasetInfo | None = None) -> ClassOrder:
    """The order of the classes in a folder.

    Args:
        root: Holds the folders of the splits and, maybe, `classes.txt`.
        folders: Names of the class folders.
        info: The dataset's entry in the table, if it has one; what it says holds.

    Raises:
        UserError: `classes.txt` is no list of these folders, or says something else than the dataset's entry.
    """
    declared = _read(root / FILE, sorted(folders, key=natural_key))
    if info is None:
        return declared or ClassOrder(tuple(sorted(folders, key=natural_key)))
    known = ClassOrder(info.classes, info.ordered)
    if declared not in (None, known):
        raise UserError(
            f"{FILE} must say of {info.name} what its dataset file does ({_shown(known)}), got {_shown(declared)} in "
            f"{str(root / FILE)!r}; remove it, or give the folder another name"
        )
    return known


def write_class_order(root: Path, order: ClassOrder) -> None:
    """Writes `classes.txt`."""
    lines = [*([MARK] if order.ordered else []), *order.names]
    (root / FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read(path: Path, folders: list[str]) -> ClassOrder | None:
    try:
        lines = [line.strip() for line in read_regular(path).decode("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{FILE} must be a text file in UTF-8, got {str(path)!r} ({error}); write it anew") from error
    ordered = bool(lines) and " ".join(lines[0].removeprefix("#").split()) == "ordered" and lines[0].startswith("#")
    names = tuple(lines[1:] if ordered else lines)
    twice = [name for name, number in Counter(names).items() if number > 1]
    if not names or twice:
        got = f"{twice[0]!r} twice" if twice else "no name"
        raise UserError(f"{FILE} must name each class folder once, a line each, got {got} in {str(path)!r}; mend it")
    if set(names) != set(folders):
        raise UserError(
            f"{FILE} must name the class folders {', '.join(folders)}, got {', '.join(names)} in {str(path)!r}; mend "
            f"it, or remove it (a first line {MARK!r} marks grades)"
        )
    return ClassOrder(names, ordered)


def _shown(order: ClassOrder | None) -> str:
    assert order is not None
    return f"{', '.join(order.names)}{', ordered' if order.ordered else ''}"
