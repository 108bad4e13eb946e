"""What a user asks of bench.py prepare, and the file with a split of their own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.choices import SPLITS
from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.match import image_id
from benchmarks.raw.tables import Row, read_table
from benchmarks.storage.files import why_no_file
from datasets.info import DatasetInfo, RawSample

MAX_SIDE = 1536
EXCLUDE = "exclude"


class Opened(NamedTuple):
    """A dataset that is in no table, as a file or folder of a known form describes it.

    Attributes:
        files: The file, or what the folder holds.
        info: The dataset, with its images found.
    """

    files: RawFiles
    info: DatasetInfo


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        raw: The folder of the download, or its one file.
        target: The dataset's folder to be.
        max_side: Shorter side in pixels to which larger images are reduced; None for no limit.
        seed: Of the splits that are ours.
        split_file: A user's own split.
        allow_incomplete: Go on though images are missing or not listed, or counts are not as published.
        skip_unreadable: Go on without images that cannot be read.
        image_level: Let each image be its own group.
        overwrite: Make a dataset anew that was made with other settings.
        link: Hard-link plain files of the raw folder instead of copying them.
        bit_depth: Of images of more than 8 bits that do not say what is black and white; None to find it.
        label: Column of the classes; None for the usual one, or where there is no table.
        files: What the download holds, of a dataset that is in no table; None to look for it.
    """

    raw: Path
    target: Path
    max_side: int | None = MAX_SIDE
    seed: int = 0
    split_file: Path | None = None
    allow_incomplete: bool = False
    skip_unreadable: bool = False
    image_level: bool = False
    overwrite: bool = False
    link: bool = False
    bit_depth: int | None = None
    label: str | None = None
    files: RawFiles | None = None

    def settings(self, official: Sequence[str]) -> dict[str, Any]:
        """What decides the result, for comparison with what an existing dataset was made with."""
        seeded = self.split_file is None and set(official) != set(SPLITS)
        return {
            "max_side": self.max_side,
            "seed": self.seed if seeded else None,
            "split_file": hashlib.sha256(self.split_file.read_bytes()).hexdigest() if self.split_file else None,
            "image_level": self.image_level,
            "bit_depth": self.bit_depth,
            "label": self.label,
            "download": _digest(self.files) if self.files else None,
        }


def _digest(files: RawFiles) -> str:
    """Tells downloads apart by names and sizes: other images under a name that was used are not taken for the same."""
    return hashlib.sha256(repr([(file.source, file.size) for file in files.files]).encode()).hexdigest()


@dataclass(frozen=True)
class UserSplit:
    """A user's split: what they say about each image, by stem of the prepared or of the raw file."""

    path: Path
    splits: dict[str, str]
    groups: dict[str, str]

    def apply(self, samples: list[RawSample]) -> tuple[list[RawSample], dict[str, str]]:
        """Puts each image where the user wants it.

        Returns:
            The images, and those that the user leaves out with the reason.

        Raises:
            UserError: An image is not in the file, or the file has ids that no image has.
        """
        chosen, excluded, used = [], {}, set()
        unnamed = []
        for sample in samples:
            key = next((name for name in (sample.stem.lower(), sample.file.stem.lower()) if name in self.splits), None)
            if key is None:
                unnamed.append(sample.stem)
                continue
            used.add(key)
            if self.splits[key] == EXCLUDE:
                excluded[sample.file.source] = f"left out by {self.path.name}"
                continue
            group = self.groups.get(key, sample.group)
            chosen.append(RawSample(sample.file, sample.label, group, sample.stem, self.splits[key]))
        unused = [name for name in self.splits if name not in used]
        if unnamed or unused:
            raise UserError(
                f"split file must name each image once, got {len(unnamed)} images that it does not name "
                f"({', '.join(unnamed[:5]) or 'none'}) and {len(unused)} ids that no image has "
                f"({', '.join(unused[:5]) or 'none'}); give images to leave out the split '{EXCLUDE}'"
            )
        return chosen, excluded


def read_split_file(path: Path) -> UserSplit:
    """Reads a csv with the columns `id` (or `path`), `split` and, at will, `group`.

    Raises:
        UserError: It is not there, or its columns, ids or splits are wrong.
    """
    if not path.is_file():
        raise UserError(f"split file must be a csv file, got {str(path)!r}; {why_no_file(path)}")
    status = path.stat()
    rows = read_table(RawFile(path.parent, path.name, "", status.st_size, status.st_mtime_ns))
    columns = list(rows[0]) if rows else []
    column = next((name for name in ("id", "path") if name in columns), None)
    if column is None or "split" not in columns:
        raise UserError(
            f"split file must have the columns id (or path), split and at will group, got "
            f"{','.join(columns) or 'no rows'} in {str(path)!r}"
        )
    splits: dict[str, str] = {}
    groups: dict[str, str] = {}
    for row in rows:
        name = _check_row(row, column, splits, path)
        splits[name] = row["split"]
        if row.get("group"):
            groups[name] = row["group"]
    return UserSplit(path, splits, groups)


def _check_row(row: Row, column: str, splits: dict[str, str], path: Path) -> str:
    """The id of a row."""
    name = image_id(row[column])
    if row["split"] not in (*SPLITS, EXCLUDE):
        raise UserError(
            f"split must be one of {', '.join(SPLITS)}, {EXCLUDE}, got {row['split']!r} for {row[column]!r} "
            f"in {str(path)!r}"
        )
    if name in splits:
        raise UserError(f"split file must name each image once, got {row[column]!r} twice in {str(path)!r}")
    return name
