"""Label tables of raw downloads: csv with any delimiter, xlsx, with or without a header; all values are text."""

import csv
import io
import zipfile
from collections.abc import Iterable

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles, check_members

_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", "_metadata")  # HAM10000_metadata has no suffix
_MAX_BYTES = 2**26
_MAX_CELLS = 2**19  # empty ones included, of which a workbook may have billions in a few bytes
_DELIMITERS = (",", ";", "\t")

Row = dict[str, str]


class NotFoundError(UserError):
    """The raw folder lacks what a dataset needs; the message is what was looked for."""


def find_tables(files: RawFiles, *columns: Iterable[str]) -> list[RawFile]:
    """Tables whose header has, for each given set of synonyms, one of them. Copies of one size and name count once.

    Args:
        files: The raw folder.
        columns: Sets of lower-case column names; one of each set must be there.
    """
    found: dict[tuple[str, int], RawFile] = {}
    for file in candidates(files):
        header = set(read_header(file))
        if all(header & set(synonyms) for synonyms in columns):
            found.setdefault((file.name, file.size), file)
    return list(found.values())


def one_table(files: RawFiles, what: str, *columns: Iterable[str]) -> RawFile:
    """The only table with such a header.

    Raises:
        NotFoundError: None has it; the message says which tables there are, with their columns.
        UserError: Several have it.
    """
    found = find_tables(files, *columns)
    wanted = ", ".join("|".join(synonyms) for synonyms in columns)
    if not found:
        seen = [f"{file.source!r} with {','.join(read_header(file)[:6])}" for file in candidates(files)][:5]
        beside = f"; tables there: {'; '.join(seen)}" if seen else ""
        raise NotFoundError(f"{what} (a table with the columns {wanted}){beside}")
    if len(found) > 1:
        raise UserError(
            f"{what} must be one table with the columns {wanted}, got {found[0].source!r} and {found[1].source!r}; "
            "remove the wrong one"
        )
    return found[0]


def candidates(files: RawFiles) -> list[RawFile]:
    """All files that may be tables."""
    return [file for file in files.files if file.name.lower().endswith(_SUFFIXES) and file.size <= _MAX_BYTES]


def read_header(file: RawFile) -> list[str]:
    """Column names of the first sheet, stripped and in lower case; empty where the file is not a table."""
    try:
        rows = read_rows(file)
    except UserError:
        return []
    return [name.lower() for name in rows[0]] if rows else []


def read_table(file: RawFile, sheet: str = "") -> list[Row]:
    """Rows as dictionaries with lower-case column names; values are stripped, blank rows are left out.

    Args:
        file: A table with a header.
        sheet: Of a workbook; the first one by default.

    Raises:
        UserError: It cannot be read.
    """
    rows = read_rows(file, sheet)
    header = [name.lower() for name in rows[0]] if rows else []
    return [dict(zip(header, row + [""] * (len(header) - len(row)), strict=False)) for row in rows[1:]]


def read_rows(file: RawFile, sheet: str = "") -> list[list[str]]:
    """All rows that are not blank, values stripped.

    Raises:
        UserError: It cannot be read.
    """
    data = file.read()
    if file.name.lower().endswith(".xlsx"):
        return _read_workbook(file, data, sheet)
    text = _decode(data)
    if "\0" in text:
        raise UserError(f"table must be text, got {file.source!r}; export it as csv again")
    first_line = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first_line.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"table must be readable, got {file.source!r}: {error}; export it as csv again") from error
    return [stripped for row in rows if any(stripped := [value.strip() for value in row])]


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _read_workbook(file: RawFile, data: bytes, sheet: str) -> list[list[str]]:
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_members(file.source, archive.infolist(), len(data))
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _MAX_BYTES:
            raise UserError(f"it must unpack to at most {_MAX_BYTES:,} bytes, got {unpacked:,}")
        workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        chosen = workbook[sheet] if sheet in workbook.sheetnames else workbook[workbook.sheetnames[0]]
        chosen.reset_dimensions()  # rows are as long as what they hold, whatever size the file states
        rows, room = [], _MAX_CELLS
        for values in chosen.iter_rows(values_only=True):
            room -= 1 + len(values)
            if room < 0:
                raise UserError(f"it must have at most {_MAX_CELLS:,} cells, got more")
            rows.append([_text(value) for value in values])
        workbook.close()
    except Exception as error:  # openpyxl raises whatever the XML inside leads it to
        raise UserError(
            f"workbook must be readable, got {file.source!r}: {error}; open it and save it as csv beside it"
        ) from error
    return [row for row in rows if any(row)]


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
