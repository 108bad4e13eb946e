"""Parquet files of images, as Hugging Face's datasets write them: a struct of bytes and path, and a label, in each row.

Names of classes are in the file's metadata, under `huggingface`: features by column, with `_type` (`Image`,
`ClassLabel`, ...) and `names`.
"""

import json
import threading
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.errors import MachineError, UserError
from benchmarks.raw.files import RawFile
from benchmarks.raw.held import HeldImage

_ONE_AT_A_TIME = threading.Lock()  # threads that convert images ask for one group of rows at the same time


class Table(NamedTuple):
    """A parquet file, but for its rows.

    Attributes:
        file: The file.
        columns: Their names.
        image: The column of images.
        names: Of classes by number, by column.
        group_sizes: Rows of each group that is read at once.
    """

    file: RawFile
    columns: tuple[str, ...]
    image: str
    names: dict[str, tuple[str, ...]]
    group_sizes: tuple[int, ...]


def open_table(file: RawFile) -> Table:
    """Reads what a file says about itself.

    Raises:
        UserError: It is damaged, inside an archive, or has not one column of images.
        MachineError: pyarrow is not installed.
    """
    if file.member:
        raise UserError(f"parquet file must not be in an archive, got {file.source!r}; unpack it")
    opened = _opened(file.root / file.path)
    schema, metadata = opened.schema_arrow, opened.metadata
    features = _features(file, schema.metadata or {})
    sizes = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    image = _image_column(file, schema, features)
    names = {name: tuple(map(str, feature["names"])) for name, feature in features.items() if feature.get("names")}
    return Table(file, tuple(schema.names), image, names, sizes)


def read_column(table: Table, column: str) -> list[Any]:
    """The values of a column, or of a field of one such as `image.path`."""
    field = column.removeprefix(f"{table.image}.")
    rows = _read(table.file, column, None)
    return [row and row[field] for row in rows] if field != column else rows


def held_images(table: Table) -> list[HeldImage]:
    """The image of each row, read when it is asked for."""
    file, num_rows = table.file, sum(table.group_sizes)
    starts = accumulate(table.group_sizes, initial=0)
    places = [(group, row) for group, size in enumerate(table.group_sizes) for row in range(size)]
    first_of = list(starts)
    return [
        HeldImage(
            file.root, file.path, str(first_of[group] + row), file.size // num_rows, file.stamp,
            lambda group=group, row=row: _bytes(table, group, row),  # type: ignore[misc]
        )
        for group, row in places
    ]  # fmt: skip


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MachineError(
            "parquet files must be read by pyarrow, which is not installed: pip install pyarrow"
        ) from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _features(file: RawFile, metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What `huggingface` says of each column; empty where it says nothing."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"metadata of a parquet file must be as datasets writes it, got {file.source!r} ({error}); write it again"
        ) from error


def _image_column(file: RawFile, schema: Any, features: dict[str, dict[str, Any]]) -> str:
    """The column of structs with bytes and path; of several, the one that is said to hold images."""
    from pyarrow.types import is_struct

    found = [
        str(field.name)
        for field in schema
        if is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}
    ]
    declared = [name for name in found if features.get(name, {}).get("_type") == "Image"]
    chosen = [name for name in declared or found if name == "image"] or declared or found
    if len(chosen) != 1:
        got = f"several ({', '.join(chosen)})" if chosen else "none"
        raise UserError(
            "parquet file must have one column of images (structs of bytes and path), or one of several that is named "
            f"image, got {got} among {', '.join(schema.names)} in {file.source!r}; write it with the images in it"
        )
    return chosen[0]


def _bytes(table: Table, group: int, row: int) -> bytes:
    with _ONE_AT_A_TIME:
        value = _kept_group(table.file, table.image, group)[row]
    data = value["bytes"] if isinstance(value, dict) else value
    if not data:
        raise UserError(
            f"image must be in the parquet file, got none in row {row} of group {group} of {table.file.source!r}; "
            "write the file with the images embedded"
        )
    return bytes(data)


@lru_cache(maxsize=4)  # of few files and groups at a time: other threads have begun the next
def _kept_group(file: RawFile, column: str, group: int) -> list[Any]:
    return _read(file, column, group)


def _read(file: RawFile, column: str, group: int | None) -> list[Any]:
    from pyarrow import ArrowException

    path = file.root / file.path
    opened = _opened(path)
    try:
        rows = opened.read([column]) if group is None else opened.read_row_group(group, [column])
    except (ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    return list(rows.column(0).to_pylist())


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"parquet file must be readable, got {str(path)!r} ({error}); download it again")
