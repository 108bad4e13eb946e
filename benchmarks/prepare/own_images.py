"""The labelled images of a user's own: a folder that holds a folder per class, or a table of paths and labels."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.choices import SPLITS
from benchmarks.data.dataset import list_folders, list_images
from benchmarks.data.findings import Values
from benchmarks.data.layout import layout_advice, split_like
from benchmarks.data.manifest import has_manifest
from benchmarks.errors import MissingError, UserError
from benchmarks.images.decode import is_image
from benchmarks.prepare.find import first
from benchmarks.raw.files import RawFile
from benchmarks.raw.match import image_id
from benchmarks.raw.tables import Row, read_table
from benchmarks.storage.files import why_no_file
from benchmarks.storage.folders import files_below, is_litter

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "image_id", "id")
LABELS = ("label", "class", "diagnosis", "target", "category", "grade")


class OwnImage(NamedTuple):
    """One labelled image.

    Attributes:
        file: Where it lies.
        label: Name of its class.
        name: Its path below the class folder, or below the folder that holds all images of a table.
        split: `train` or `test` where it lies in a folder of that name; None where it is to be decided.
        row: Of the table; empty without one.
        values: What the table says of each finding; empty of classes. The label says the same in one text.
    """

    file: Path
    label: str
    name: str
    split: str | None
    row: Row
    values: Values = ()

    @property
    def shown(self) -> str:
        """Its name, as a user knows it; with its class."""
        return self.name if self.values else f"{self.label}/{self.name}"

    @property
    def source(self) -> str:
        """Its path below the folder that was given, or below the folder that holds all images of a table."""
        return self.name if self.row else "/".join(filter(None, (self.split, self.label, self.name)))


def find_own_images(source: Path, images: Path | None, paths: str | None, labels: str | None) -> list[OwnImage]:
    """The labelled images of a folder or table, sorted by class and name.

    Args:
        source: A folder with a folder per class, maybe below `train` and `test`; or a csv or xlsx table.
        images: Below which the paths of the table lead to files; None for the folder that holds the table.
        paths: The table's column of paths; None to take the only one that is named as such columns are.
        labels: Its column of labels, likewise.

    Raises:
        UserError: It is neither, or columns, files or labels are wrong.
    """
    if source.is_dir():
        found = _from_folder(source)
    elif source.is_file():
        found = _from_table(source, images or source.parent, paths, labels)
    else:
        raise MissingError(f"images must be in a folder or a table, got {str(source)!r}; {why_no_file(source)}")
    classes = {image.label for image in found}
    if len(classes) < 2:
        raise UserError(
            f"there must be at least 2 classes, got {', '.join(classes) or 'none'} in {str(source)!r}; a folder must "
            "hold a folder per class, or give a table with a path and a label in each row"
        )
    return sorted(found, key=lambda image: (image.split or "", image.label, image.name))


def _from_folder(source: Path) -> list[OwnImage]:
    """Images of `class/...`, or of `train/class/...` and `test/class/...`."""
    folders = list_folders(source)
    given = ("train", "test") if set(folders) == {"train", "test"} else ()
    named = [name for name in folders if split_like(name)]
    if named and not given:
        whole = set(SPLITS) <= set(folders)
        advice = "it can be used as it is" if whole else layout_advice(source, folders)
        raise UserError(
            f"images must not be split yet, but for train and test alone, got {', '.join(folders)} in {str(source)!r}; "
            f"{advice}, or give a table of paths and labels to split them anew"
        )
    if given:
        parts: list[tuple[str | None, str]] = [(split, f"{split}/{name}") for split in given
                                               for name in list_folders(source / split)]  # fmt: skip
    else:
        parts = [(None, name) for name in folders]
    return [
        OwnImage(source / path, Path(folder).name, path.removeprefix(f"{folder}/"), split, {})
        for split, folder in parts
        for path in list_images(source, folder)
    ]


def _from_table(source: Path, folder: Path, paths: str | None, labels: str | None) -> list[OwnImage]:
    rows = read_table(table_file(source))
    columns = list(rows[0]) if rows else []
    path_column = column_of("paths", columns, paths, PATHS, source)
    label_column = column_of("labels", columns, labels, LABELS, source)
    files = files_of([row[path_column] for row in rows], folder, source)
    check_labels([row[label_column] for row in rows], label_column, source)
    common = Path(os.path.commonpath([file.parent for file in files]))
    found = [
        OwnImage(file, row[label_column], file.relative_to(common).as_posix(), None, row)
        for file, row in zip(files, rows, strict=True)
    ]
    refuse_hidden(found, source)
    return found


def table_file(source: Path) -> RawFile:
    """A table as what reads tables takes it."""
    status = source.stat()
    return RawFile(source.parent, source.name, "", status.st_size, status.st_mtime_ns)


def refuse_hidden(images: Sequence[OwnImage], source: Path) -> None:
    """Refuses images that no dataset would list.

    Raises:
        UserError: One is a hidden file, or lies in a hidden folder.
    """
    hidden = [image.name for image in images if any(map(is_litter, Path(image.name).parts))]
    if hidden:
        raise UserError(f"images must not be hidden files, got {first(hidden)} in {str(source)!r}; rename them")


def column_of(option: str, columns: list[str], asked: str | None, usual: Collection[str], source: Path) -> str:
    """The column asked for, else the only one with a usual name.

    Args:
        option: With which one is asked for; without dashes.
        columns: Of the table, in lower case.
        asked: Name of a column; None to look for one.
        usual: Names to look for.
        source: The table, for messages.

    Raises:
        UserError: There is none, or there are several.
    """
    if asked is not None:
        if asked.lower() not in columns:
            raise UserError(
                f"--{option} must be a column of {str(source)!r}, which are {', '.join(columns)}, got {asked!r}"
            )
        return asked.lower()
    known = [name for name in usual if name in columns]
    if len(known) != 1:
        got = f"several ({', '.join(known)})" if known else "none of these"
        raise UserError(
            f"table must have one column of {option}, such as {', '.join(usual)}, got {got} among "
            f"{', '.join(columns) or 'no rows'} in {str(source)!r}; name it with --{option} COLUMN"
        )
    return known[0]


def files_of(paths: list[str], folder: Path, source: Path) -> list[Path]:
    """The file of each row: at its path, or else the only one below the folder with that name.

    Args:
        paths: Of the rows.
        folder: That holds the files.
        source: The table, for messages.

    Raises:
        UserError: A row has no file, or several; or several have one.
    """
    found = [_at(folder, path) for path in paths]
    if None in found:
        by_name: dict[str, list[Path]] = {}
        for file in files_below(folder, has_manifest):  # prepared folders may lie there too
            by_name.setdefault(image_id(file.name), []).append(file)
        for place, path in enumerate(paths):
            alike = by_name.get(image_id(path), []) if found[place] is None else []
            alike = [file for file in alike if file != source and is_image(file)]
            if len(alike) > 1:
                raise UserError(
                    f"image of a row must be one file, got {str(alike[0])!r} and {str(alike[1])!r} for {path!r}; write "
                    f"its whole path into {str(source)!r}"
                )
            found[place] = found[place] or next(iter(alike), None)
    missing = [path for path, file in zip(paths, found, strict=True) if file is None]
    if missing:
        raise UserError(
            f"each row must have an image below {str(folder)!r}, got {len(missing)} of {len(paths)} without: "
            f"{first(missing)}; give the folder that holds them with --images, or take these rows out"
        )
    files = [file.absolute() for file in found if file is not None]
    twice = [str(file) for file, number in Counter(files).items() if number > 1]
    if twice:
        raise UserError(f"table must list each image once, got {first(twice)} twice in {str(source)!r}; decide on one")
    return files


def _at(folder: Path, path: str) -> Path | None:
    place = folder / path.replace("\\", "/")
    return Path(os.path.normpath(place)) if path and place.is_file() else None


def check_labels(labels: Iterable[str], column: str, source: Path) -> None:
    """Checks labels, which become names of folders.

    Args:
        labels: Of the rows of a table, below its header.
        column: That they are from.
        source: The table, for messages.

    Raises:
        UserError: One cannot name a folder.
    """
    for number, label in enumerate(labels, 2):
        if not label or label != label.strip() or "/" in label or is_litter(label) or not label.isprintable():
            raise UserError(
                f"label must be able to name a folder, got {label!r} in column {column!r}, row {number} of "
                f"{str(source)!r}; write another, or take the row out"
            )
