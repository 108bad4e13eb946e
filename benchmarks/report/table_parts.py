"""A file of tables, a heading and its notes each, as md, csv and tex: what `results` does not hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.report.captions import protocol
from benchmarks.report.entries import Column
from benchmarks.report.latex import LATEX_PACKAGES, label_name, latex_table
from benchmarks.report.tables import escape_markdown, markdown_rows
from benchmarks.storage.csv_cells import csv_text
from benchmarks.storage.files import write_atomic


class TablePart(NamedTuple):
    """One table: its heading, the rows of one dataset and protocol, their columns, and what is said below."""

    heading: str
    rows: pd.DataFrame
    columns: Sequence[Column]
    notes: Sequence[str]


def write_parts(
    results: Path, name: str, title: str, how: str, data: pd.DataFrame, parts: Sequence[TablePart], label: str = ""
) -> list[Path]:
    """Writes `results/tables/<name>.md`, `.csv` and `.tex`.

    Args:
        results: The results root.
        name: Of the files.
        title: Of the md.
        how: How to read the tables.
        data: Of the csv.
        parts: The tables.
        label: What labels of the tex begin with; the name, if not given.

    Raises:
        MachineError: They cannot be written.
    """
    texts = {"md": _markdown(title, how, parts), "csv": csv_text(data), "tex": _latex(label or name, how, parts)}
    return [write_atomic(results / "tables" / f"{name}.{ending}", text.encode()) for ending, text in texts.items()]


def _markdown(title: str, how: str, parts: Sequence[TablePart]) -> str:
    texts = [f"# {escape_markdown(title)}\n"]
    for heading, rows, columns, notes in parts:
        texts += [
            f"## {escape_markdown(heading)}\n",
            f"{escape_markdown(protocol(rows))}. Protocol {rows['block'].iloc[0]}.\n",
            markdown_rows(rows, columns),
            *(f"{escape_markdown(note)}\n" for note in notes),
        ]
    return "\n".join([*texts, "## How to read\n", f"{how}\n"])


def _latex(label: str, how: str, parts: Sequence[TablePart]) -> str:
    return LATEX_PACKAGES + "\n".join(
        latex_table(rows, columns, f"{heading}. {protocol(rows)}. {how}", f"{label}-{label_name(heading)}", notes)
        for heading, rows, columns, notes in parts
    )
