"""Looks at all of a prepared folder, fully decoded: folders of classes, or images and a table of findings.

`benchmarks.data.dataset.open_dataset` stops at the first fault; here all of it is listed and decoded;
`benchmarks.check.problems` says what is wrong with it.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.check.look import Look, look_at
from benchmarks.choices import SPLITS
from benchmarks.data.bit_depth import file_extent, stated_depth
from benchmarks.data.classes import FILE, ClassOrder, class_order, natural_key
from benchmarks.data.dataset import list_files, list_folders
from benchmarks.data.findings import Findings, Row, Values, has_findings, is_inside, parse_findings
from benchmarks.data.hashes import Difference
from benchmarks.data.layout import layout_advice
from benchmarks.data.manifest import Entry, has_manifest, read_about, read_entries
from benchmarks.errors import UserError
from benchmarks.images.decode import ImageFacts, in_order, is_image, read_inspected
from benchmarks.images.depth import DEPTHS, Extent, Scale, common_extent, scale_of
from benchmarks.storage.files import irregular
from benchmarks.storage.folders import files_below, is_litter, link_fault
from datasets.info import DatasetInfo


class File(NamedTuple):
    """A file in a class folder, or of a table of findings.

    Attributes:
        path: Relative to the root, with forward slashes.
        split: The split's folder, or what the table says.
        folder: The class folder as it is named there; empty of a table.
        facts: What its image is; None where there is none.
        error: Why there is none.
        look: What it looks like; None where there is no image.
        values: What the table says of each finding; empty of a class folder.
    """

    path: str
    split: str
    folder: str
    facts: ImageFacts | None
    error: str
    look: Look | None = None
    values: Values = ()

    @property
    def label(self) -> str:
        """What the class folder is meant to be, whatever its case and spaces."""
        return class_key(self.folder)


@dataclass(frozen=True)
class Survey:
    """Everything that a prepared folder holds.

    Attributes:
        root: The folder.
        info: What the table of datasets says about it, if it is one of those.
        folders: Names of the class folders of each split that there is.
        files: Files in class folders, sorted by split and path.
        strays: Paths of images that lie in a split, but in no class folder; or that a table of findings does not list.
        manifest: Its entries by path; empty where there is none.
        about: What the manifest says of the whole dataset; None where there is none.
        declared: The order of the classes by `classes.txt` or the table of datasets; None where neither says one.
        order_error: What is wrong with `classes.txt`.
        scale: What is black and white in images that do not say it; None where all do.
        stated_depth: Its bits, where `bit_depth.txt` or the table of datasets says them.
        depth_error: What is wrong with `bit_depth.txt`, or with the values of all files together.
        table: That of findings; None of folders of classes.
        differences: Images that are not what runs know of them, where that was looked for.
    """

    root: Path
    info: DatasetInfo | None
    folders: dict[str, list[str]]
    files: list[File]
    strays: list[str]
    manifest: dict[str, Entry]
    about: dict[str, Any] | None
    declared: ClassOrder | None
    order_error: str
    scale: Scale | None
    stated_depth: int | None
    depth_error: str
    table: Findings | None = None
    differences: list[Difference] = field(default_factory=list)

    @property
    def images(self) -> list[File]:
        """The files that can be decoded."""
        return [file for file in self.files if file.facts is not None]

    @property
    def classes(self) -> list[str]:
        """The findings; or the classes in the declared order, then the others in natural order.

        Of several spellings the commonest is taken.
        """
        if self.table is not None:
            return list(self.table.names)
        known = {class_key(name): name for name in (self.declared.names if self.declared else ())}
        spellings = Counter(name for names in self.folders.values() for name in names)
        commonest = {class_key(name): name for name, _ in reversed(spellings.most_common())}
        return [*known.values(), *(commonest[key] for key in sorted(commonest, key=natural_key) if key not in known)]

    @cached_property
    def groups(self) -> dict[str, str]:
        """The patient or other group of each image of which one is known, by its path."""
        said = {row.path: row.group for row in self.table.rows} if self.table is not None else {}
        listed = {path: row.group for path, row in self.manifest.items()}
        return {path: group for path, group in (listed | said).items() if group}

    def showing(self, files: Sequence[File]) -> dict[str, list[File]]:
        """Of each class its files, of each finding those with it."""
        return {name: [file for file in files if self.says(file, name) is True] for name in self.classes}

    def says(self, file: File, name: str) -> bool | None:
        """Whether a file is of a class, or with a finding; None where that is not known, or uncertain."""
        if self.table is None:
            return file.label == class_key(name)
        return {0: False, 1: True}.get(file.values[self.table.names.index(name)])  # type: ignore[arg-type]

    def differing(self, first: File, second: File) -> list[str]:
        """The labels that two files cannot both be right in, if they show the same: both classes, or findings."""
        if self.table is None:
            return [] if first.label == second.label else sorted({first.label, second.label}, key=natural_key)
        return [name for name in self.classes if {self.says(first, name), self.says(second, name)} == {True, False}]


def class_key(name: str) -> str:
    """What is left of a folder's name without case, needless spaces and the ways to encode an accent."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def survey(root: Path, info: DatasetInfo | None, on_progress: Callable[[int, int], None] | None = None) -> Survey:
    """Lists a prepared folder and decodes all of its images, with a thread per core.

    Args:
        root: Holds train, val and test, or a table of findings.
        info: The dataset's entry in the table, if it has one.
        on_progress: Called with (files done, files in all).

    Raises:
        UserError: There is none of the splits, or the manifest or the table of findings cannot be read.
    """
    if has_findings(root):
        return _survey_table(root, info, on_progress)
    folders = {split: list_folders(root / split) for split in SPLITS if (root / split).is_dir()}
    if not folders:
        there = list_folders(root)
        raise UserError(
            f"dataset folder must hold train, val and test, got {', '.join(there) or 'no folder'} in {str(root)!r}; "
            f"{layout_advice(root, there)}"
        )
    entries = read_entries(root) if has_manifest(root) else []
    about = read_about(root) if has_manifest(root) else None
    listed = [
        (path, split, name)
        for split, names in folders.items()
        for name in names
        for path in list_files(root / split / name)
    ]
    strays = [
        path.relative_to(root).as_posix()
        for split in folders
        for path in sorted((root / split).iterdir())
        if not is_litter(path.name) and path.is_file() and is_image(path)
    ]
    scale, stated, depth_error = _scale(root, [path for path, *_ in listed], info)
    files = _inspected(lambda entry: _inspect(root, entry[0], entry[1], entry[2], scale), listed, on_progress)
    declared, order_error = _declared(root, {name for names in folders.values() for name in names}, info)
    by_path = {entry.path: entry for entry in entries}
    return Survey(root, info, folders, files, strays, by_path, about, declared, order_error, scale, stated, depth_error)


def _survey_table(root: Path, info: DatasetInfo | None, on_progress: Callable[[int, int], None] | None) -> Survey:
    table = parse_findings(root)
    scale, stated, depth_error = _scale(root, [root / row.path for row in table.rows if is_inside(row.path)], info)

    def inspect(row: Row) -> File:
        if not is_inside(row.path):
            return File(row.path, row.split, "", None, "is no path inside the folder, in UTF-8", None, row.values)
        return _inspect(root, root / row.path, row.split, "", scale)._replace(values=row.values)

    files = _inspected(inspect, table.rows, on_progress)
    listed = {row.path for row in table.rows}
    beside = [path for path in files_below(root) if path.is_file() and path.relative_to(root).as_posix() not in listed]
    strays = [path.relative_to(root).as_posix() for path in beside if irregular(path) is None and is_image(path)]
    entries, about = (read_entries(root), read_about(root)) if has_manifest(root) else ([], None)
    by_path = {entry.path: entry for entry in entries}
    return Survey(root, info, {}, files, strays, by_path, about, None, "", scale, stated, depth_error, table)


def _inspected(
    inspect: Callable[[Any], File], listed: Sequence[Any], on_progress: Callable[[int, int], None] | None
) -> list[File]:
    files: list[File] = []
    for file in in_order(inspect, listed):
        files.append(file)
        if on_progress is not None:
            on_progress(len(files), len(listed))
    return files


def _declared(root: Path, folders: set[str], info: DatasetInfo | None) -> tuple[ClassOrder | None, str]:
    """The declared order of the classes, and what is wrong with `classes.txt`."""
    try:
        order = class_order(root, folders, info)
    except UserError as error:
        return None if info is None else ClassOrder(info.classes, info.ordered), str(error)
    return order if info is not None or (root / FILE).exists() else None, ""


def _scale(root: Path, paths: list[Path], info: DatasetInfo | None) -> tuple[Scale | None, int | None, str]:
    """The scale as a run takes it, from the files that can be read; the stated depth; and what is wrong with either."""
    extent, stated = common_extent(in_order(_extent, paths)), None
    try:
        stated = stated_depth(root, info)
        return scale_of(extent, stated), stated, ""
    except UserError as error:
        return None if extent is None else Scale(min(0, extent.low), DEPTHS[-1]), stated, str(error)


def _extent(path: Path) -> Extent | None:
    try:
        return file_extent(path) if irregular(path) is None and is_image(path) else None
    except (UserError, OSError):
        return None  # said when it is inspected


def _inspect(root: Path, path: Path, split: str, folder: str, scale: Scale | None) -> File:
    facts, look, error = None, None, ""
    try:
        if fault := link_fault(path):
            error = fault
        elif not path.exists():
            error = "is not there"
        elif kind := irregular(path):
            error = f"is no regular file but {kind}"
        elif path.stat().st_size == 0:
            error = "is empty (0 bytes)"
        elif not is_image(path):
            error = "is not an image"
        else:
            facts, image = read_inspected(path, scale)
            look = look_at(image, path)
    except (UserError, OSError) as reason:
        error = f"cannot be read ({reason.__cause__ or reason})"
    return File(path.relative_to(root).as_posix(), split, folder, facts, " ".join(error.split()), look)


def expected_counts(found: Survey) -> dict[str, int]:
    """Images of each class that there should be, by `class_key`: of the manifest, or as published; no findings."""
    if found.table is not None:
        return {}
    if found.about is None and found.info is not None and found.info.expected_counts is not None:
        return {class_key(name): count for name, count in found.info.expected_counts.items()}
    return dict(Counter(class_key(entry.label) for entry in found.manifest.values()))


def by_pixels(images: list[File]) -> Iterator[list[File]]:
    """Sets of two or more files that look exactly the same."""
    alike: dict[str, list[File]] = {}
    for file in images:
        assert file.facts is not None
        alike.setdefault(file.facts.pixels, []).append(file)
    return (files for files in alike.values() if len(files) > 1)
