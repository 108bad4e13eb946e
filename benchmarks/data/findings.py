"""A table of findings in the place of class folders: `labels.csv` says of each image which findings it has, or none.

Its columns are `path`, relative to the folder; `split`, one of train, val and test; `group`, optional (a patient: in
one split alone); and one for each finding: 1 with it, 0 without it, -1 where that is uncertain, nothing where it is not
known. What the table does not list is no image of the dataset.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from benchmarks.choices import FEW_UNITS, SPLITS
from benchmarks.config import Uncertain
from benchmarks.errors import UserError
from benchmarks.images.decode import is_image
from benchmarks.names import is_text
from benchmarks.storage.csv_cells import as_text, from_text
from benchmarks.storage.files import irregular, read_regular
from benchmarks.tasks import Floats, scored_findings

FILE = "labels.csv"
UNCERTAIN = -1
OWN_COLUMNS = ("path", "split", "group")
_SHOWN = 5

Values = tuple[int | None, ...]  # of each finding: 1, 0, UNCERTAIN, or None where it is not known


# What a cell says.
SAID: Mapping[str, int | None] = {
    "": None,
    "0": 0,
    "1": 1,
    "-1": UNCERTAIN,
    "0.0": 0,
    "1.0": 1,
    "-1.0": UNCERTAIN,
}


class Row(NamedTuple):
    """An image of the table."""

    path: str
    split: str
    group: str
    values: Values


class Findings(NamedTuple):
    """The table: names of the findings, and its images by path. has_groups: whether it has a column of groups."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    has_groups: bool

    def split(self, name: str) -> list[Row]:
        """The images of a split."""
        return [row for row in self.rows if row.split == name]

    def numbers(self, *values: int) -> dict[str, dict[str, int]]:
        """By split and finding the images of which the table says any of some values."""
        return {
            split: {
                name: sum(row.values[index] in values for row in self.split(split))
                for index, name in enumerate(self.names)
            }
            for split in SPLITS
        }

    def about(self) -> dict[str, Any]:
        """What a record says of it beside the images with each finding: all images, those of which a finding is known,
        those of which it is uncertain, and the findings that are not scored."""
        return {
            "images": {split: len(self.split(split)) for split in SPLITS},
            "known": self.numbers(0, 1),
            "uncertain": self.numbers(UNCERTAIN),
            "unscored": {split: list(unscored(self, split)) for split in SPLITS[1:]},
        }


class NumberFault(NamedTuple):
    """Too few images: where, what a table must do, what it has, and what to do."""

    split: str
    rule: str
    got: str
    remedy: str


def has_findings(root: Path) -> bool:
    """Whether a table says what a folder's images show: there is one with splits, or no folder of these."""
    path = root / FILE
    if not path.is_file():
        return False
    header = _read(path)[0]
    return "split" in header or not any((root / split).is_dir() for split in SPLITS)


def read_findings(root: Path) -> Findings:
    """Reads and checks the table of a folder.

    Raises:
        UserError: It is no such table, its images are not there, or it has too little to train on and to score.
    """
    found = parse_findings(root)
    check_files(root / FILE, found.rows)
    _check_groups(root / FILE, found)
    for fault in number_faults(found):
        raise _refused(root / FILE, f"{fault.rule}, got {fault.got}", fault.remedy)
    return found


def parse_findings(root: Path) -> Findings:
    """Reads the table of a folder, whatever images are there, and however many.

    Raises:
        UserError: It is no such table.
    """
    path = root / FILE
    names = [name for name in read_header(path) if name not in OWN_COLUMNS]
    if not names:
        raise _refused(path, "name each column once, a finding each, got none of a finding", "mend its first line")
    return parse_table(path, names)


def read_header(path: Path) -> list[str]:
    """The columns of a table.

    Raises:
        UserError: It is no table, one has no name, or two have the same.
    """
    header = _read(path)[0]
    twice = [name for name, number in Counter(header).items() if number > 1]
    if twice or "" in header:
        got = f"{twice[0]!r} twice" if twice else "one without a name"
        raise _refused(path, f"name each column once, a finding each, got {got}", "mend its first line")
    return header


def parse_table(path: Path, names: Sequence[str], split: str | None = None) -> Findings:
    """Reads a table.

    Args:
        path: The table.
        names: Its columns that are findings.
        split: Of all images, where it has no column that says that; None where it must have one.

    Raises:
        UserError: It is no such table.
    """
    header, *lines = _read(path)
    for name in ("path", "split") if split is None else ("path",):
        if name not in header:
            raise _refused(path, f"have the columns path, split and one for each finding, got no {name!r}", "add it")
    if "split" not in header:
        header, lines = [*header, "split"], [[*line, split or ""] for line in lines]
    return Findings(tuple(names), tuple(sorted(_rows(path, header, names, lines))), "group" in header)


def write_findings(root: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Writes the table of a folder."""
    with (root / FILE).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*OWN_COLUMNS, *names])
        for path, split, group, values in sorted(rows):
            writer.writerow([as_text(path), split, as_text(group), *("" if each is None else each for each in values)])


def targets_of(values: Sequence[Values], uncertain: Uncertain = "ignore") -> Floats:
    """What a loss and scores take: `(n, C)` of 0 and 1, nan where that is not known.

    Args:
        values: Of each image.
        uncertain: What is uncertain counts as: nothing known, 0 or 1.
    """
    meant = {"ignore": np.nan, "zero": 0.0, "one": 1.0}[uncertain]
    known = {None: np.nan, UNCERTAIN: meant, 0: 0.0, 1: 1.0}
    return np.array([[known[value] for value in row] for row in values], dtype=np.float64)


def unscored(found: Findings, split: str) -> dict[str, str]:
    """The findings of a split that cannot be scored, and the images with and without each, in words."""
    targets = targets_of([row.values for row in found.split(split)])
    few = np.flatnonzero(~scored_findings(targets))
    numbers = {found.names[i]: [(targets[:, i] == value).sum() for value in (1, 0)] for i in few}
    return {name: f"{with_it} with, {without} without" for name, (with_it, without) in numbers.items()}


def notes_on_findings(name: str, found: Findings) -> list[str]:
    """What a user who trains on a table should know, a line each."""
    notes = []
    for split in ("val", "test"):
        few = unscored(found, split)
        if few:
            said = ", ".join(f"{finding} ({numbers})" for finding, numbers in few.items())
            notes.append(
                f"findings of {name} are not scored in {split} where fewer than {FEW_UNITS} images have them, or fewer "
                f"do not: {said}"
            )
    return notes


def _read(path: Path) -> list[list[str]]:
    try:
        text = read_regular(path).decode("utf-8-sig")
        lines = [line for line in csv.reader(text.splitlines(keepends=True)) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path.name} must be a csv file in UTF-8, got {str(path)!r} ({error}); write it anew"
        ) from error
    if not lines:
        raise _refused(path, "have a first line that names its columns, got none", "write it anew")
    return [[name.strip() for name in lines[0]], *lines[1:]]


def _refused(path: Path, rule: str, remedy: str) -> UserError:
    return UserError(f"{path.name} must {rule} in {str(path)!r}; {remedy}")


def _rows(path: Path, header: list[str], names: Sequence[str], lines: Sequence[list[str]]) -> list[Row]:
    place = {name: header.index(name) for name in header}
    rows, seen = [], set()
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise _refused(path, f"have {len(header)} values in each line, got {len(line)} in line {number}", "mend it")
        image, split = from_text(line[place["path"]].strip()), line[place["split"]].strip()
        if split not in SPLITS:
            raise _refused(path, f"say train, val or test as split, got {split!r} in line {number}", "mend it")
        if image in seen:
            raise _refused(path, f"list each image once, got {image!r} twice", "take one of its lines out")
        seen.add(image)
        group = from_text(line[place["group"]].strip()) if "group" in place else ""
        values = tuple(_value(line[place[name]], path, name, number) for name in names)
        rows.append(Row(image, split, group, values))
    return rows


def _value(text: str, path: Path, name: str, number: int) -> int | None:
    try:
        return SAID[text.strip()]
    except KeyError:
        raise _refused(
            path,
            f"hold 1, 0, -1 (uncertain) or nothing (unknown) for a finding, got {text!r} as {name!r} in line {number}",
            "mend it, or take the column out if it is no finding",
        ) from None


def is_inside(path: str) -> bool:
    """Whether a path of a table is one inside its folder, in UTF-8."""
    place = PurePosixPath(path)
    return bool(path) and not place.is_absolute() and ".." not in place.parts and is_text(path)


def check_files(path: Path, rows: Sequence[Row]) -> None:
    """Checks the images of a table, which lie where its paths say below the folder of the table.

    Raises:
        UserError: One lies elsewhere, is not there, or is no image.
    """
    root = path.parent
    missing = []
    for row in rows:
        if not is_inside(row.path):
            raise _refused(path, f"hold paths inside the folder, in UTF-8, got {row.path!r}", "mend it")
        if not (root / row.path).is_file():
            missing.append(row.path)
        elif irregular(root / row.path) is not None or not is_image(root / row.path):
            raise _refused(path, f"list only images, got {row.path!r}", "take it out or convert it to PNG")
    if missing:
        listed = ", ".join(map(repr, missing[:_SHOWN]))
        raise _refused(path, f"list images that are there, got {len(missing)} that are not: {listed}", "mend its paths")


def _check_groups(path: Path, found: Findings) -> None:
    splits: dict[str, set[str]] = {}
    for row in found.rows:
        if row.group:
            splits.setdefault(row.group, set()).add(row.split)
    spanning = sorted(group for group, names in splits.items() if len(names) > 1)
    if spanning:
        listed = ", ".join(map(repr, spanning[:_SHOWN]))
        raise _refused(
            path, f"have each group in one split, got {len(spanning)} in several: {listed}", "put each into one"
        )


def number_faults(found: Findings) -> Iterator[NumberFault]:
    """What a table has too little of to train on and to score."""
    for split in SPLITS:
        if not found.split(split):
            yield NumberFault(split, "have images in train, val and test", f"none in {split}", "add some")
    train = targets_of([row.values for row in found.split("train")]).reshape(-1, len(found.names))
    for value, words in ((1, "with"), (0, "without")):
        lacking = [name for name, there in zip(found.names, (train == value).any(axis=0), strict=True) if not there]
        if lacking:
            rule = "have training images with and without each finding"
            remedy = "take the column out, or add some"
            yield NumberFault("train", rule, f"none {words} {', '.join(lacking)}", remedy)
    for split in ("val", "test"):
        if found.split(split) and len(unscored(found, split)) == len(found.names):
            rule = f"have a finding that at least {FEW_UNITS} images of {split} have and {FEW_UNITS} do not"
            yield NumberFault(split, rule, "none", "add images, or others of train")
