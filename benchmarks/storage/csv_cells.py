"""Cells of CSV files that people open in a spreadsheet: text that it would take for a formula is marked as text.

By OWASP's rule for CSV injection: an apostrophe before text that begins as a formula does. It is taken away where this
program reads such a file again; a text that already has the apostrophe gets another, so that each comes back as it was.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile("'*[=+@\t\r\n＝＋－＠-]")  # the wide ones too, as spreadsheets take them for the others


def as_text(cell: Any) -> Any:
    """A cell as it is written; numbers stay as they are."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def from_text(cell: str) -> str:
    """A cell of a file of ours as it was before it was written."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_text(frame: "pd.DataFrame") -> str:
    """A frame as CSV, without its index."""
    import pandas as pd

    safe = frame.copy()
    for name, kind in frame.dtypes.items():
        if kind.kind == "O":  # whatever is no number; what is one inside stays so
            safe[name] = pd.Series(list(map(as_text, frame[name])), frame.index, dtype="object")
    return safe.rename(columns=as_text).to_csv(index=False, lineterminator="\n")
