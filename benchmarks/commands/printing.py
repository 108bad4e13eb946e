"""How the commands print their tables: whole as csv and JSON, and as markdown in what width the terminal has.

A table that is too wide loses what is the same in all rows to a caption, then wraps its texts between words, then
leaves out columns and says which. A word is never cut.
"""

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.storage.csv_cells import csv_text
from benchmarks.storage.notes import say

if TYPE_CHECKING:
    import pandas as pd

_LEAST = 24  # characters to which texts may be wrapped
_MOST_LINES = 6  # of a wrapped cell
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def print_frame(frame: "pd.DataFrame", layout: str, wide: bool = False, details: Sequence[str] = ()) -> None:
    """Prints data, and nothing else, to stdout.

    Args:
        frame: The table.
        layout: `md`, `csv` or `json`.
        wide: With `md`, every column and a line a row, however wide.
        details: Columns that are left out first where the terminal is too narrow for all.
    """
    if layout == "csv":
        print(csv_text(frame), end="")
    elif layout == "json":
        print(frame.to_json(orient="records", indent=2))
    elif wide:
        print(markdown_table(frame))
    else:
        print_narrow(frame, details)


def print_narrow(frame: "pd.DataFrame", details: Sequence[str] = (), flag: str = "--wide", **layout: Any) -> None:
    """Prints a table that fits the terminal, 80 columns where there is none; what it left out goes to stderr.

    Args:
        frame: The table.
        details: Columns that are left out first.
        flag: What the command offers to see all.
        layout: For `tabulate`.
    """
    width = terminal_width()
    text, left_out = fitted(frame, width, details, **layout)
    print(text)
    if left_out:
        say(f"left out, as the terminal has {width} columns: {', '.join(left_out)}; {flag} shows all")


def terminal_width() -> int:
    """Columns of the terminal, or what the environment variable COLUMNS says; 80 where neither is known."""
    return shutil.get_terminal_size((80, 24)).columns


def fitted(frame: "pd.DataFrame", width: int, details: Sequence[str] = (), **layout: Any) -> tuple[str, list[str]]:
    """A table as markdown of at most so many columns, and the names of columns that found no room.

    Words stay whole: a first column that is wider alone stays so.
    """
    text = markdown_table(frame, **layout)
    if max(map(len, text.splitlines()), default=0) <= width:
        return text, []
    columns = [_Column.read(frame, place, layout) for place in range(frame.shape[1])]
    if len(frame) == 1:
        return _upright(columns, width), []
    same = [column for column in columns[1:] if len(set(column.cells)) == 1]
    first, rest = ([column for column in same if (column.name in details) is is_one] for is_one in (True, False))
    said: list[str] = []
    for column in [*first, *sorted(rest, key=lambda column: not column.is_empty)]:
        if column in rest and _fit(columns, width):
            break
        columns.remove(column)
        said += [] if column.is_empty else [f"{column.name} {column.cells[0]}"]
    caption = [*_wrapped(f"In all rows: {', '.join(said)}.", width), ""] if said else []
    left_out: list[str] = []
    named = [*details, *(column.name for column in reversed(columns[1:]) if column.name not in details)]
    while not (widths := _widths(columns, width)) and len(columns) > 1:
        column = next(column for name in named for column in columns[1:] if column.name == name)
        columns.remove(column)
        left_out.append(column.name)
    return "\n".join([*caption, *_lines(columns, widths or [columns[0].width])]), left_out


class _Column:
    """A column as tabulate lays it out.

    Attributes:
        name: Its heading.
        cells: Its texts.
        right: Whether they stand to the right, as numbers.
        width: Of the widest.
        least: To which it may be wrapped.
        is_empty: Whether no cell says anything.
    """

    def __init__(self, name: str, cells: list[str], right: bool) -> None:
        self.name, self.cells, self.right = name, cells, right
        self.width = max(map(len, [name, *cells]))
        words = [word for cell in cells for word in cell.split()]
        self.is_empty = not {*cells} - {"", "-", "–"}
        self.least = max([len(name), min(self.width, _LEAST), *map(len, words)])

    @classmethod
    def read(cls, frame: "pd.DataFrame", place: int, layout: Any) -> "_Column":
        """The column at a place of a frame."""
        _, rule, *rows = markdown_table(frame.iloc[:, [place]], **layout).splitlines()
        return cls(str(frame.columns[place]), [row[1:-1].strip() for row in rows], rule.endswith(":|"))


def _fit(columns: list[_Column], width: int) -> bool:
    """Whether all fit with no text wrapped."""
    return sum(column.width + 3 for column in columns) + 1 <= width


def _widths(columns: list[_Column], width: int) -> list[int]:
    """A width for each column so that all fit, the widest texts wrapped; empty where there is none."""
    room = width - 3 * len(columns) - 1
    widths = [column.width for column in columns]
    while sum(widths) > room:
        wider = [place for place, column in enumerate(columns) if widths[place] > column.least]
        if not wider:
            return []
        widths[max(wider, key=lambda place: widths[place])] -= 1
    lines = (len(_wrapped(cell, size)) for column, size in zip(columns, widths, strict=True) for cell in column.cells)
    return widths if max(lines, default=0) <= _MOST_LINES else []


def _lines(columns: list[_Column], widths: list[int]) -> list[str]:
    """The rows; what of a cell is wrapped stands in further rows."""
    rules = ["-" * (size + 1) + ":" if column.right else ":" + "-" * (size + 1)
             for column, size in zip(columns, widths, strict=True)]  # fmt: skip
    lines = [_row([column.name for column in columns], columns, widths), f"|{'|'.join(rules)}|"]
    for cells in zip(*(column.cells for column in columns), strict=True):
        parts = [_wrapped(cell, size) for cell, size in zip(cells, widths, strict=True)]
        lines += [
            _row([part[number] if number < len(part) else "" for part in parts], columns, widths)
            for number in range(max(map(len, parts)))
        ]
    return lines


def _row(texts: list[str], columns: list[_Column], widths: list[int]) -> str:
    cells = (
        text.rjust(size) if column.right else text.ljust(size)
        for text, column, size in zip(texts, columns, widths, strict=True)
    )
    return f"| {' | '.join(cells)} |"


def _upright(columns: list[_Column], width: int) -> str:
    """The one row of a table from top to bottom: a line for each column."""
    names = _Column("", [column.name for column in columns], right=False)
    cells = _Column("", [column.cells[0] for column in columns], right=False)
    room = max(width - names.width - 7, max(map(len, " ".join(cells.cells).split()), default=1))
    return "\n".join(_lines([names, cells], [names.width, min(cells.width, room)]))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, **_WHOLE_WORDS) or [""]


def markdown_table(frame: "pd.DataFrame", **layout: Any) -> str:
    """A frame as a markdown table; a name with a bar in it stays in its cell."""
    cells = frame.map(lambda cell: cell.replace("|", r"\|") if isinstance(cell, str) else cell)
    cells = cells.astype("object").where(cells.notna(), None)
    # Looking into every cell for numbers takes most of the time, and in a column with a word there is none.
    words = [place for place, (_, column) in enumerate(cells.items()) if _holds_a_word(column)]
    return str(cells.to_markdown(index=False, **{"missingval": "-", "disable_numparse": words} | layout))


def _holds_a_word(column: "pd.Series") -> bool:
    """Whether all cells are text, and one of them begins with a letter and is neither a number nor a truth value."""
    if not all(isinstance(cell, str) for cell in column):
        return False
    return any(cell[:1].isalpha() and not _is_value(cell) for cell in column)


def _is_value(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell in ("True", "False")
    return True
