"""The manifest of a prepared folder: `manifest.csv` lists its images, `manifest.json` says where they come from.

Columns of `manifest.csv`: `path` relative to the folder; `split`; `class`; `group` (images of one group lie in one
split); `source` relative to the raw folder, `archive.zip!/member` inside an archive; `pixels`, the SHA-256 of what is
seen (`benchmarks.images.decode.pixel_digest`). Whatever columns follow (sex, site, ...) are the user's, and tell
subgroups of images.
"""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired

from pydantic import InstanceOf, TypeAdapter
from typing_extensions import TypedDict

from benchmarks.data.classes import natural_key
from benchmarks.errors import UserError
from benchmarks.storage.csv_cells import as_text, from_text
from benchmarks.storage.files import check_content

SCHEMA = 1
COLUMNS = ("path", "split", "class", "group", "source", "pixels")
Kind = Literal["official", "ours", "user"]
# A text that may hold names of raw files which are no text (surrogates): pydantic's own would refuse these.
Name = InstanceOf[str]


class Entry(NamedTuple):
    """One image of a prepared folder; the fields are the columns, `label` is `class`."""

    path: str
    split: str
    label: str
    group: str
    source: str
    pixels: str


@dataclass(frozen=True)
class SplitOrigin:
    """Who made the splits.

    Attributes:
        kind: `official`, `ours` or `user`; `ours` too where only some are.
        parts: The kind of each split.
        group_key: What a group is: exam, lesion, patient, case, image.
        seed: Of our splits; None where none is ours.
        digest: Hex SHA-256 over path, split, class and group of every image.
    """

    kind: str
    parts: Mapping[str, str]
    group_key: str
    seed: int | None
    digest: str

    def as_json(self) -> dict[str, Any]:
        """For records and for `manifest.json`."""
        return {
            "kind": self.kind,
            "parts": dict(self.parts),
            "group_key": self.group_key,
            "seed": self.seed,
            "digest": self.digest,
        }


class Split(TypedDict):
    """What `SplitOrigin.as_json` gives."""

    kind: Kind
    parts: dict[str, Kind]
    group_key: Name
    digest: Name
    seed: int | None


class Excluded(TypedDict):
    """An image that was left out."""

    id: Name
    reason: Name


class About(TypedDict):
    """What is read of `manifest.json` again; it holds more."""

    complete: bool
    settings: dict[Name, Any]
    split: Split
    counts: dict[Name, dict[Name, int]]
    notes: list[Name]
    excluded: list[Excluded]
    bit_depth: NotRequired[int | None]


_ABOUT = TypeAdapter(About)


def split_digest(entries: Iterable[Entry]) -> str:
    """Hex SHA-256 over path, split, class and group of every image, in the order of the paths."""
    digest = hashlib.sha256()
    for entry in sorted(entries):
        text = "\0".join((entry.path, entry.split, entry.label, entry.group))
        digest.update(text.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def count(entries: Iterable[Entry]) -> dict[str, dict[str, int]]:
    """Images per split and class."""
    counted = Counter((entry.split, entry.label) for entry in entries)
    table: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(counted.items(), key=lambda item: (item[0][0], natural_key(item[0][1]))):
        table.setdefault(split, {})[label] = number
    return table


def spanning_groups(entries: Iterable[Entry]) -> list[str]:
    """Groups that lie in more than one split, sorted."""
    splits: dict[str, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.group, set()).add(entry.split)
    return sorted(group for group, names in splits.items() if len(names) > 1)


def write_manifest(root: Path, entries: list[Entry], about: dict[str, Any]) -> None:
    """Writes both files, synced to disk; `manifest.json` last. Names of raw files that are no text keep their bytes."""
    lines = [COLUMNS, *(map(as_text, entry) for entry in sorted(entries))]
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
        _sync(file)
    with (root / "manifest.json").open("w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump({"schema": SCHEMA} | about, file, indent=2, ensure_ascii=False)
        _sync(file)


def has_manifest(root: Path) -> bool:
    """Whether a folder was made by bench.py prepare."""
    return (root / "manifest.json").is_file() and (root / "manifest.csv").is_file()


def read_entries(root: Path) -> list[Entry]:
    """The images of a prepared folder, sorted by path.

    Raises:
        UserError: The table is damaged.
    """
    path = root / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [list(map(from_text, row)) for row in csv.reader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"manifest must be readable, got {str(path)!r}: {error}; {_REMEDY}") from error
    if not rows or tuple(rows[0][: len(COLUMNS)]) != COLUMNS or any(len(row) != len(rows[0]) for row in rows):
        raise UserError(f"manifest must have the columns {','.join(COLUMNS)}, got {str(path)!r}; {_REMEDY}")
    if len({row[0] for row in rows}) < len(rows):
        raise UserError(f"manifest must list each image once, got {str(path)!r}; {_REMEDY}")
    return sorted(Entry(*row[: len(COLUMNS)]) for row in rows[1:])


def read_column(root: Path, column: str) -> dict[str, str]:
    """A column of the manifest of a folder, by path; any `manifest.csv` with a column `path` will do.

    Raises:
        UserError: There is no such table or column.
    """
    path = root / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = [list(map(from_text, row)) for row in csv.reader(file) if row]
    except (OSError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"subgroups must be in a manifest, got {str(path)!r} ({why}); say where with --data-root"
        ) from error
    header = rows[0] if rows else []
    absent = [name for name in ("path", column) if name not in header]
    if absent:
        raise UserError(
            f"manifest {str(path)!r} must have a column {absent[0]!r}, got {', '.join(header) or 'none'}; write one: a "
            "value for each image"
        )
    if any(len(row) != len(header) for row in rows):
        raise UserError(f"manifest {str(path)!r} must have a value for each column in each row, got others")
    place, value = header.index("path"), header.index(column)
    return {row[place]: row[value].strip() for row in rows[1:]}


def read_about(root: Path) -> dict[str, Any]:
    """What `manifest.json` says.

    Raises:
        UserError: It is damaged, or of another version of this program.
    """
    path = root / "manifest.json"
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"manifest must be readable, got {str(path)!r}: {error}; {_REMEDY}") from error
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        found = about.get("schema") if isinstance(about, dict) else about
        raise UserError(f"manifest must be of schema {SCHEMA}, got {found!r:.50} in {str(path)!r}; {_REMEDY}")
    try:
        check_content(_ABOUT, about, "manifest")
    except UserError as error:
        raise UserError(f"manifest must be undamaged, got {str(path)!r} ({error}); {_REMEDY}") from error
    return about


def read_origin(root: Path, paths: Iterable[str]) -> SplitOrigin | None:
    """Who made the splits of a prepared folder; None for a folder without a manifest.

    Args:
        root: The folder.
        paths: Its images as they lie there, relative to it.

    Raises:
        UserError: The manifest is damaged, or lists other images than the folder holds.
    """
    if not has_manifest(root):
        return None
    about, entries = read_about(root), read_entries(root)
    there, listed = set(paths), {entry.path for entry in entries}
    if there != listed:
        different = sorted(there ^ listed)
        raise UserError(
            f"manifest of {str(root)!r} must list the images there, got {len(there - listed)} more and "
            f"{len(listed - there)} fewer: {', '.join(different[:5])}; put them back, or prepare the dataset again"
        )
    split, digest = about["split"], split_digest(entries)
    if digest != split["digest"]:
        raise UserError(
            f"manifest of {str(root)!r} must say of splits, classes and groups what it said when it was made, got "
            f"another manifest.csv; {_REMEDY}"
        )
    return SplitOrigin(split["kind"], split["parts"], split["group_key"], split["seed"], digest)


def prepared_depth(root: Path) -> int | None:
    """The bit depth that the images of a prepared folder had before; None without a manifest, or where they had none.

    Raises:
        UserError: The manifest is damaged.
    """
    return read_about(root).get("bit_depth") if has_manifest(root) else None


_REMEDY = "prepare the dataset again with --overwrite"


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
