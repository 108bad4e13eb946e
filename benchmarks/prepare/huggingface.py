"""Image folders and parquet files as Hugging Face's datasets have them, on disk: nothing is downloaded."""

import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.choices import SPLITS
from benchmarks.data.classes import natural_key
from benchmarks.data.layout import split_like
from benchmarks.errors import MissingError, UserError
from benchmarks.prepare.find import first
from benchmarks.prepare.own_images import LABELS, check_labels, column_of
from benchmarks.prepare.request import Opened
from benchmarks.raw.files import RawFile, RawFiles, scan
from benchmarks.raw.held import list_file
from benchmarks.raw.parquet import Table, held_images, open_table, read_column
from benchmarks.raw.tables import Row, read_table
from benchmarks.storage.files import why_no_file
from datasets.info import DatasetInfo, Found, RawSample

_URL = "https://huggingface.co/datasets"
_CARD = "see the dataset's card"
_SUFFIX = "-prepared"  # a folder of the same name, as it is given on the command line, would be taken instead
_METADATA = ("metadata.csv", "metadata.jsonl")
_NO_PATIENTS = "no patients are named: whether one has images in two splits cannot be seen"


class _Image(NamedTuple):
    """One labelled image; `names` are what it may be called, the best first."""

    file: RawFile
    label: str
    split: str | None
    names: tuple[str, ...]


class _Content(NamedTuple):
    """What a download holds; classes are those that it declares, in order, else empty."""

    images: list[_Image]
    classes: tuple[str, ...] = ()
    missing: Sequence[str] = ()
    unlabelled: Sequence[str] = ()
    table: RawFile | None = None


def open_huggingface(raw: Path, label: str | None, own_split: bool) -> Opened:
    """The dataset of a folder or a parquet file, named as the file without suffix, or as the folder and `-prepared`.

    Splits are folders, or parquet files, of usual names (`train`, `validation`, `test-00000-of-00001.parquet`), or a
    column `split` of a parquet file. Classes are the folders in them, or a column of `metadata.csv`, `metadata.jsonl`
    or the parquet file.

    Args:
        raw: The folder or file.
        label: The column of classes; None for the one that is named as such columns are.
        own_split: Whether the user says in a file where each image belongs.

    Raises:
        UserError: It is neither, a split is missing, or columns, files or labels are wrong.
        MachineError: pyarrow is needed and not installed.
    """
    if raw.is_file() and raw.suffix.lower() == ".parquet":
        files = list_file(raw)
    elif raw.is_dir():
        files = scan(raw)
    else:
        raise MissingError(
            f"--raw must be a folder of images or of parquet files, or one such file, got {str(raw)!r}; "
            f"{why_no_file(raw) if raw.suffix.lower() == '.parquet' else 'there is none'}"
        )
    tables = [file for file in files.files if file.name.lower().endswith(".parquet")]
    metadata = [file for file in files.files if file.name.lower() in _METADATA]
    if tables:
        content = _from_parquet(list(map(open_table, tables)), label)
    elif metadata:
        content = _from_metadata(files, metadata, label)
    else:
        content = _from_folders(files, label)
    if not own_split:
        _check_splits(raw, content)
    return Opened(files, _info(raw, content))


def _info(raw: Path, content: _Content) -> DatasetInfo:
    names = _unique([image.names for image in content.images])
    samples = [
        RawSample(image.file, image.label, f"image-{name}", name, image.split)
        for image, name in zip(content.images, names, strict=True)
    ]
    classes = content.classes or tuple(sorted({image.label for image in content.images}, key=natural_key))
    if len(classes) < 2:
        raise UserError(f"there must be at least 2 classes, got {', '.join(classes) or 'none'} in {str(raw)!r}")
    found = Found(samples, missing=list(content.missing), unlabelled=list(content.unlabelled), notes=[_NO_PATIENTS])
    name = raw.resolve().stem if raw.is_file() else f"{raw.resolve().name}{_SUFFIX}"
    return DatasetInfo(
        name, name, classes, None, None, url=_URL, licence=_CARD, citation=_CARD, official=SPLITS,
        find=lambda _: found,
    )  # fmt: skip


def _unique(names: Sequence[tuple[str, ...]]) -> list[str]:
    """The first kind of names of which no two are alike; else the last."""
    kinds = list(zip(*names, strict=True))
    alone = [kind for kind in kinds if len({name.lower() for name in kind}) == len(kind) and all(map(_is_name, kind))]
    return list(alone[0] if alone else kinds[-1]) if kinds else []


def _is_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and name.isprintable() and "/" not in name and "\\" not in name


def _check_splits(raw: Path, content: _Content) -> None:
    there = [split for split in SPLITS if any(image.split == split for image in content.images)]
    if any(image.split is None for image in content.images):
        there = [*there, "images in none of them"]
    if there == list(SPLITS):
        return
    ours = "python bench.py split"
    if content.table is not None and content.table.name.endswith(".csv") and not content.table.member:
        advice = f"{ours} {shlex.quote(str(content.table.root / content.table.path))} --groups COLUMN makes them"
    elif content.table is None and there in ([], ["train", "test"], ["images in none of them"]):
        advice = f"{ours} {shlex.quote(str(raw))} --group-pattern REGEX makes them"
    else:
        advice = f"write its images into class folders and have them made: {ours} FOLDER --group-pattern REGEX"
    raise UserError(
        f"splits must be train, validation and test, got {', '.join(there) or 'none'} in {str(raw)!r}; {advice}, or "
        "say where each image belongs with --split-file"
    )


def _from_folders(files: RawFiles, label: str | None) -> _Content:
    if label is not None:
        raise UserError(
            f"--label must be a column of metadata.csv, metadata.jsonl or a parquet file, got {label!r} and none of "
            f"these in {str(files.root)!r}; leave it out where folders are the classes"
        )
    images = []
    for file in _pictures(files):
        split, inside = _split_of(file.folders)
        if not inside:
            raise UserError(
                f"image must lie in a folder of its class, got {file.source!r} in {str(files.root)!r}; give "
                "metadata.csv with the columns file_name and label"
            )
        images.append(_Image(file, inside[0], split, _names(file)))
    return _Content(images)


def _from_metadata(files: RawFiles, tables: list[RawFile], label: str | None) -> _Content:
    """Each table names images by their paths below its folder."""
    by_source = {file.source: file for file in _pictures(files)}
    images, missing, listed = [], [], set()
    for table in tables:
        rows = _rows(table)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        column = column_of("label", columns, label, LABELS, Path(table.source))
        if "file_name" not in columns:
            raise UserError(f"metadata must have a column file_name, got {', '.join(columns)} in {table.source!r}")
        check_labels([row.get(column, "") for row in rows], column, Path(table.source))
        for row in rows:
            source = posixpath.normpath(posixpath.join(table.folder, row.get("file_name", "").replace("\\", "/")))
            file = by_source.get(source)
            if source in listed:
                raise UserError(f"metadata must list each image once, got {source!r} twice; decide on one row")
            listed.add(source)
            if file is None:
                missing.append(source)
            else:
                images.append(_Image(file, row[column], _split_of(file.folders)[0], _names(file)))
    return _Content(images, (), missing, [name for name in by_source if name not in listed], tables[0])


def _rows(table: RawFile) -> list[Row]:
    """Column names in lower case, values as text."""
    if table.name.lower().endswith(".csv"):
        return read_table(table)
    rows = []
    for number, line in enumerate(table.read().decode("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({name.lower(): _text(value) for name, value in row.items()})
        except (ValueError, AttributeError, RecursionError) as error:
            raise UserError(
                f"metadata must be an object of texts and numbers on each line, got line {number} of {table.source!r} "
                f"({error}); mend it"
            ) from error
    return rows


def _text(value: Any) -> str:
    """A value of a label as text; what is neither text nor number has none, and is no label."""
    return value.strip() if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else ""


def _from_parquet(tables: list[Table], label: str | None) -> _Content:
    _check_one_set(tables)
    images = []
    classes: dict[tuple[str, ...], None] = {}
    for table in tables:
        source = Path(table.file.source)
        columns = {name.lower(): name for name in table.columns}
        column = columns[column_of("label", list(columns), label, LABELS, source)]
        names = table.names.get(column, ())
        labels = [_label(value, names, column, source) for value in read_column(table, column)]
        check_labels([*names, *labels], column, source)
        classes[names] = None
        splits = read_column(table, "split") if "split" in table.columns else [_split_of_table(table)] * len(labels)
        paths = read_column(table, f"{table.image}.path")
        for file, name, split, path in zip(held_images(table), labels, splits, paths, strict=True):
            usual = f"{source.stem}_{int(file.member):06}"
            stem = re.sub(r"\.[A-Za-z0-9]{1,4}$", "", posixpath.basename(str(path or "")))
            images.append(_Image(file, name, split_like(str(split)) if split else None, (stem, usual)))
    if len(classes) > 1:
        raise UserError(
            "classes must have the same names in all parquet files, got "
            f"{' and '.join(', '.join(names) or 'none' for names in classes)}; give files of one dataset alone"
        )
    return _Content(images, next(iter(classes)), table=tables[0].file)


def _label(value: Any, names: tuple[str, ...], column: str, source: Path) -> str:
    """A class by its number, where numbers have names."""
    if not names:
        return _text(value)
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise UserError(
            f"{column} must be 0 to {len(names) - 1} ({first(names)}), got {value!r} in {str(source)!r}: images "
            "without a label cannot be used; take another column with --label, or files with labels"
        )
    return names[value]


def _check_one_set(tables: list[Table]) -> None:
    """Several configurations of a dataset lie side by side, with the same images."""
    places = {"/".join(name for name in table.file.folders if not split_like(name)) for table in tables}
    if len(places) > 1:
        raise UserError(
            f"parquet files must be of one configuration, got {first(sorted(places))} in {str(tables[0].file.root)!r}; "
            "give the folder of one with --raw"
        )


def _split_of_table(table: Table) -> str | None:
    """By a folder, or by how the file's name begins."""
    split, _ = _split_of(table.file.folders)
    return split or split_like(re.split(r"[-_.]", table.file.name)[0])


def _split_of(folders: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The split that the first of the folders is named as which are, and the folders inside; without one, all."""
    for place, name in enumerate(folders):
        if split := split_like(name):
            return split, folders[place + 1 :]
    return None, folders


def _pictures(files: RawFiles) -> Iterable[RawFile]:
    return [file for file in files.files if file.stem != file.name]


def _names(file: RawFile) -> tuple[str, ...]:
    return file.stem, "_".join((*file.folders, file.stem))
