"""A user's own table of images with several findings each: a path and, a column a finding, 1, 0, -1 or nothing."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.choices import not_one_of
from benchmarks.data.findings import OWN_COLUMNS, SAID
from benchmarks.errors import UserError
from benchmarks.prepare.kinds import label_of
from benchmarks.prepare.own_images import LABELS, PATHS, OwnImage, column_of, files_of, refuse_hidden, table_file
from benchmarks.raw.tables import read_rows, read_table
from datasets.info import SEPARATOR, UNKNOWN, UNSURE


def finding_columns(source: Path, taken: Collection[str], paths: str | None, asked: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table that are findings: those asked for, or all that nothing else is known of.

    Args:
        source: The table.
        taken: Names of columns that are something else.
        paths: The column of paths; None to take the only one that is named as such columns are.
        asked: Names of columns.

    Returns:
        Them, in the order of the table; none where it has a column of labels, or none holds what is said of a finding.

    Raises:
        UserError: It is no table, there is no such column, or one holds something else.
    """
    header, *rows = read_rows(table_file(source)) or [[]]
    lower = [name.lower() for name in header]
    for name in asked:
        if name.lower() not in lower:
            raise UserError(not_one_of(f"finding in {str(source)!r}", header, name))
    if not asked and any(name in lower for name in LABELS):
        return ()
    other = {name.lower() for name in (*taken, *OWN_COLUMNS, column_of("paths", lower, paths, PATHS, source))}
    mine = [name for name in header if (name.lower() in map(str.lower, asked) if asked else name.lower() not in other)]
    wrong = {name: value for name in mine if (value := _first_other(rows, header.index(name))) is not None}
    if len(wrong) == len(mine) and not asked:
        return ()
    if wrong:
        name, value = next(iter(wrong.items()))
        raise UserError(
            f"columns of findings must hold 1, 0, -1 (uncertain) or nothing (unknown), got {value!r} as {name!r} in "
            f"{str(source)!r}; name those that are with --findings COLUMN ..., or the classes with --labels COLUMN"
        )
    bad = [
        name for name in mine if SEPARATOR in name or name.endswith((UNSURE, UNKNOWN)) or lower.count(name.lower()) > 1
    ]
    if bad:
        raise UserError(
            f"names of findings must differ by more than case, have no {SEPARATOR} and not end in {UNSURE} or "
            f"{UNKNOWN}, got {bad[0]!r} in {str(source)!r}; rename the column"
        )
    return tuple(mine)


def find_own_findings(source: Path, images: Path | None, paths: str | None, findings: Sequence[str]) -> list[OwnImage]:
    """The images of a table, sorted by name.

    Args:
        source: A csv or xlsx table.
        images: Below which its paths lead to files; None for the folder that holds the table.
        paths: Its column of paths, as of `finding_columns`.
        findings: As that gives them.

    Raises:
        UserError: An image is not there, or listed twice.
    """
    rows = read_table(table_file(source))
    column = column_of("paths", list(rows[0]) if rows else [], paths, PATHS, source)
    files = files_of([row[column] for row in rows], images or source.parent, source)
    common = Path(os.path.commonpath([file.parent for file in files]))
    found = []
    for file, row in zip(files, rows, strict=True):
        values = tuple(SAID[row[name.lower()]] for name in findings)
        name = file.relative_to(common).as_posix()
        found.append(OwnImage(file, label_of(values, findings), name, None, row, values))
    refuse_hidden(found, source)
    return sorted(found, key=lambda image: image.name)


def said_findings(images: Sequence[OwnImage], findings: Sequence[str]) -> list[str]:
    """What a user should look at before the table is relied on, a line each."""
    lines = [f"{len(findings)} findings of {len(images):,} images, as the table says:"]
    for place, name in enumerate(findings):
        values = [image.values[place] for image in images]
        numbers = [f"{values.count(value):,} {words}" for value, words in ((1, "with"), (0, "without"))]
        rest = [f"{values.count(value):,} {words}" for value, words in ((-1, "uncertain"), (None, "unknown"))]
        lines.append(f"  {name}: {', '.join([*numbers, *(text for text in rest if not text.startswith('0 '))])}")
    if "split" in images[0].row:
        lines.append("  its column split is not used: all images are split anew")
    return lines


def _first_other(rows: Sequence[Sequence[str]], place: int) -> str | None:
    """The first value of a column that says nothing of a finding."""
    values = (row[place] if place < len(row) else "" for row in rows)
    return next((value for value in values if value not in SAID), None)
