"""Looks at all of a prepared folder, fully decoded, and reports everything that would spoil a run.

`benchmarks.data.dataset.open_dataset` stops at the first fault; here all of it is listed and decoded, and shown as
tables; `benchmarks.check.problems` says what is wrong with it.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.check.look import Look, look_at
from benchmarks.choices import SPLITS
from benchmarks.data.bit_depth import file_extent, stated_depth
from benchmarks.data.classes import FILE, ClassOrder, class_order, natural_key
from benchmarks.data.dataset import list_files, list_folders
from benchmarks.data.hashes import Difference
from benchmarks.data.layout import layout_advice
from benchmarks.data.manifest import Entry, has_manifest, read_about, read_entries
from benchmarks.errors import UserError
from benchmarks.images.decode import ImageFacts, in_order, is_image, read_inspected
from benchmarks.images.depth import DEPTHS, Extent, Scale, common_extent, scale_of
from benchmarks.storage.files import irregular
from benchmarks.storage.folders import is_litter, link_fault
from datasets.info import DatasetInfo

RESOLUTIONS = (224, 384, 512, 768, 1024)


class File(NamedTuple):
    """A file in a class folder.

    Attributes:
        path: Relative to the root, with forward slashes.
        split: The split's folder.
        folder: The class folder as it is named there.
        facts: What its image is; None where there is none.
        error: Why there is none.
        look: What it looks like; None where there is no image.
    """

    path: str
    split: str
    folder: str
    facts: ImageFacts | None
    error: str
    look: Look | None = None

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
        strays: Paths of images that lie in a split, but in no class folder.
        manifest: Its entries by path; empty where there is none.
        about: What the manifest says of the whole dataset; None where there is none.
        declared: The order of the classes by `classes.txt` or the table of datasets; None where neither says one.
        order_error: What is wrong with `classes.txt`.
        scale: What is black and white in images that do not say it; None where all do.
        stated_depth: Its bits, where `bit_depth.txt` or the table of datasets says them.
        depth_error: What is wrong with `bit_depth.txt`, or with the values of all files together.
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
    differences: list[Difference] = field(default_factory=list)

    @property
    def images(self) -> list[File]:
        """The files that can be decoded."""
        return [file for file in self.files if file.facts is not None]

    @property
    def classes(self) -> list[str]:
        """The classes in the declared order, then the others in natural order; of several spellings the commonest."""
        known = {class_key(name): name for name in (self.declared.names if self.declared else ())}
        spellings = Counter(name for names in self.folders.values() for name in names)
        commonest = {class_key(name): name for name, _ in reversed(spellings.most_common())}
        return [*known.values(), *(commonest[key] for key in sorted(commonest, key=natural_key) if key not in known)]


def class_key(name: str) -> str:
    """What is left of a folder's name without case, needless spaces and the ways to encode an accent."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def survey(root: Path, info: DatasetInfo | None, on_progress: Callable[[int, int], None] | None = None) -> Survey:
    """Lists a prepared folder and decodes all of its images, with a thread per core.

    Args:
        root: Holds train, val and test.
        info: The dataset's entry in the table, if it has one.
        on_progress: Called with (files done, files in all).

    Raises:
        UserError: There is none of the splits, or the manifest cannot be read.
    """
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
    files = []
    for file in in_order(lambda entry: _inspect(root, *entry, scale), listed):
        files.append(file)
        if on_progress is not None:
            on_progress(len(files), len(listed))
    declared, order_error = _declared(root, {name for names in folders.values() for name in names}, info)
    by_path = {entry.path: entry for entry in entries}
    return Survey(root, info, folders, files, strays, by_path, about, declared, order_error, scale, stated, depth_error)


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


def tables(found: Survey) -> dict[str, pd.DataFrame]:
    """What the folder holds, as tables by name: images, splits, sizes and pixels."""
    return {
        "images": _image_table(found),
        "splits": _split_table(found),
        "sizes": _size_table(found),
        "pixels": _pixel_table(found),
    }


def expected_counts(found: Survey) -> dict[str, int]:
    """Images of each class that there should be, by `class_key`: of the manifest, else as published."""
    if found.about is None and found.info is not None and found.info.expected_counts is not None:
        return {class_key(name): count for name, count in found.info.expected_counts.items()}
    return dict(Counter(class_key(entry.label) for entry in found.manifest.values()))


def _image_table(found: Survey) -> pd.DataFrame:
    """Readable images per class and split, and the class's share of all."""
    counts = Counter((file.label, file.split) for file in found.images)
    expected = expected_counts(found)
    rows = []
    for name in found.classes:
        per_split = {split: counts[class_key(name), split] for split in SPLITS}
        total = sum(per_split.values())
        share = round(100 * total / max(1, len(found.images)), 1)
        rows.append(
            {"class": name, **per_split, "all": total, "expected": expected.get(class_key(name)), "percent": share}
        )
    frame = pd.DataFrame(rows, columns=["class", *SPLITS, "all", "expected", "percent"])
    return frame.astype({"expected": "Int64"})


def _split_table(found: Survey) -> pd.DataFrame:
    """Images of each split, its faulty files, and how many times its largest class is larger than its smallest."""
    rows = []
    for split in SPLITS:
        counts = Counter(file.label for file in found.images if file.split == split)
        faulty = sum(file.split == split and file.facts is None for file in found.files)
        ratio = round(max(counts.values()) / min(counts.values()), 1) if counts else None
        rows.append(
            {"split": split, "images": counts.total(), "faulty": faulty, "classes": len(counts), "imbalance": ratio}
        )
    return pd.DataFrame(rows)


def _size_table(found: Survey) -> pd.DataFrame:
    """Sizes in pixels, and how many images would be enlarged at each resolution since a side of theirs is shorter."""
    rows = []
    for split in (*SPLITS, "all"):
        sizes = pd.DataFrame(
            [
                (file.facts.width, file.facts.height)
                for file in found.images
                if file.facts and split in (file.split, "all")
            ],
            columns=["width", "height"],
        )
        row: dict[str, object] = {"split": split, "images": len(sizes)}
        for name in ("width", "height"):
            for measure in ("min", "median", "max"):
                row[f"{name}_{measure}"] = None if sizes.empty else int(sizes[name].agg(measure))
        row |= {f"below_{side}": int((sizes.min(axis=1) < side).sum()) for side in RESOLUTIONS}
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in frame.columns if name != "split"})


def _pixel_table(found: Survey) -> pd.DataFrame:
    """How the files of a class store a pixel (PIL's modes): a format that goes with a class is a giveaway."""
    counts = Counter((file.label, file.facts.mode) for file in found.images if file.facts)
    rows = [
        {"class": name, "mode": mode, "images": counts[class_key(name), mode]}
        for name in found.classes
        for mode in sorted({mode for key, mode in counts if key == class_key(name)})
    ]
    return pd.DataFrame(rows, columns=["class", "mode", "images"])


def by_pixels(images: list[File]) -> Iterator[list[File]]:
    """Sets of two or more files that look exactly the same."""
    alike: dict[str, list[File]] = {}
    for file in images:
        assert file.facts is not None
        alike.setdefault(file.facts.pixels, []).append(file)
    return (files for files in alike.values() if len(files) > 1)
