"""Datasets as prepared folders: `<root>/{train,val,test}/<class>/<images>`, or images and a table of findings.

They are checked, listed and digested here.

Files beside the class folders and beside the split folders (manifests, licences) are left alone. Class folders may have
sub-folders; links are followed. Hidden files and well-known litter are passed over; any other file must be an image.
"""

import difflib
import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.choices import SPLITS
from benchmarks.config import Uncertain
from benchmarks.data.bit_depth import find_scale, stated_depth
from benchmarks.data.classes import class_order, natural_key
from benchmarks.data.findings import Findings, Values, has_findings, read_findings, targets_of
from benchmarks.data.hashes import content_hashes
from benchmarks.data.identical import Identical, find_identical
from benchmarks.data.layout import layout_advice
from benchmarks.data.manifest import Entry, SplitOrigin, prepared_depth, read_entries, read_origin, split_digest
from benchmarks.errors import MissingError, UserError
from benchmarks.images.decode import PIXEL_FORMAT, in_order, is_image, read_image
from benchmarks.images.depth import Scale
from benchmarks.names import is_text, printable
from benchmarks.storage.files import irregular, read_cached, write_cached
from benchmarks.storage.folders import files_below, is_litter, link_fault
from datasets import DATASETS
from datasets.info import DatasetInfo

SYNTHETIC_MARK = "NOT_CLINICAL_DATA.txt"
NORMALIZATION_SIDE = 224

Statistics = tuple[float, float, float]  # of each channel


class Sample(NamedTuple):
    """One image: its path relative to the dataset's root, with forward slashes, and what it shows.

    That is the index of its class or, where a table says its findings, of each what the table says.
    """

    path: str
    label: int | Values


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset on disk.

    Attributes:
        name: Name in the table of datasets, or the folder's name.
        title: Name in tables and plots; says so where the images are synthetic.
        root: The folder that holds the splits.
        classes: Folder names in class order, or names of findings.
        ordered: Whether the classes are grades, in their order.
        splits: `train`, `val` and `test`, each sorted by class and path.
        digest: Hex SHA-256 over split, class, path and content of every image, in the order of the classes (of
            findings what the table says is the class); over a mark of grades in `classes.txt`, and over the scale where
            there is one; the same on every machine.
        mean: Normalisation mean per RGB channel, of pixels in [0, 1].
        std: Normalisation standard deviation per RGB channel.
        normalization_source: `dataset` (stated in the dataset's file), `computed` (over the train split), or `backbone`
            where a run has asked for that.
        metric: Headline metric.
        epochs: Default number of epochs.
        batch_size: Default images a step.
        synthetic: Whether the images are generated; never clinical data.
        split_origin: Who made the splits, by the folder's manifest; None where there is none.
        scale: What is black and white in images that do not say it; None where all do.
        bit_depth: Of the scale, or of that with which the folder was prepared.
        identical: Images that are byte for byte the same in several splits or classes.
        findings: The table that says what its images show; None where that are folders of classes.
    """

    name: str
    title: str
    root: Path
    classes: tuple[str, ...]
    ordered: bool
    splits: dict[str, tuple[Sample, ...]]
    digest: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalization_source: str
    metric: str
    epochs: int
    batch_size: int
    synthetic: bool
    split_origin: SplitOrigin | None
    scale: Scale | None
    bit_depth: int | None
    identical: Identical
    findings: Findings | None = None

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images per split and class, or with each finding."""
        if self.findings is not None:
            with_it = {split: (self.targets(split) == 1).sum(axis=0) for split in self.splits}
            return {
                split: dict(zip(self.classes, map(int, numbers), strict=True)) for split, numbers in with_it.items()
            }
        counted = {split: Counter(sample.label for sample in samples) for split, samples in self.splits.items()}
        return {split: {name: labels[i] for i, name in enumerate(self.classes)} for split, labels in counted.items()}

    def targets(self, split: str, uncertain: Uncertain = "ignore") -> NDArray[Any]:
        """What a loss takes of a split: class indices `(n,)`; of findings as of `findings.targets_of` `(n, C)`."""
        labels: list[Any] = [sample.label for sample in self.splits[split]]
        return np.array(labels) if self.findings is None else targets_of(labels, uncertain).astype(np.float32)

    def label_columns(self, split: str) -> dict[str, Any]:
        """What predictions say of a split: `label`, a class, or `target_<finding>` of findings, missing if unknown."""
        if self.findings is None:
            return {"label": [self.classes[label] for label in self.targets(split)]}
        targets = self.targets(split)
        return {f"target_{name}": pd.array(targets[:, i], dtype="Int64") for i, name in enumerate(self.classes)}

    def groups(self) -> dict[str, str] | None:
        """The group of each image by its path; None where nobody says any."""
        if self.findings is not None:
            return {row.path: row.group for row in self.findings.rows} if self.findings.has_groups else None
        if self.split_origin is None:
            return None
        return {entry.path: entry.group for entry in read_entries(self.root)}


def open_dataset(name_or_path: str, data_root: Path, cache_root: Path, verify: bool = False) -> Dataset:
    """Opens a dataset of the table by its name, or any folder of the layout by its path.

    The demo is generated at first use. For a folder by its path the classes are its folder names, in the order that
    its `classes.txt` says or in natural order, and the normalisation is computed once over the train split and kept in
    the cache.

    Args:
        name_or_path: A name in `datasets.DATASETS`, the path of a folder, or the name of a folder in `data_root`.
        data_root: Where the prepared folders lie.
        cache_root: Content hashes and computed normalisations are kept here.
        verify: Whether to hash every file again, whatever is known of it; a note says what differs from that.

    Raises:
        UserError: Unknown name, or a folder whose layout, classes, files or `classes.txt` are wrong.
        MissingError: A dataset of the table that has not been prepared.
    """
    info, root = find_root(name_or_path, data_root)
    if info is None:
        return _open_folder(root, cache_root, verify)
    if info.findings:
        return _open_findings(root, cache_root, verify, info)
    folders = _class_folders(root)
    if set(folders) != set(info.classes):
        raise UserError(f"classes of {info.name} must be {', '.join(info.classes)}, got {', '.join(folders)} in {root}")
    classes, ordered = class_order(root, folders, info)
    splits = _list_splits(root, classes)
    marked = False  # the entry's mark of grades is as fixed as its name
    content = _read_content(root, splits, classes, marked, stated_depth(root, info), cache_root, verify)
    mean, std, source = _statistics(root, info, splits["train"], content, cache_root)
    return Dataset(
        info.name, info.title, root, classes, ordered, splits, content.digest, mean, std,
        source, info.metric, info.epochs, info.batch_size, info.synthetic, content.origin,
        content.scale, content.bit_depth, content.identical,
    )  # fmt: skip


def find_root(name_or_path: str, data_root: Path) -> tuple[DatasetInfo | None, Path]:
    """The entry in the table, if it is one of those, and the folder of a dataset; the demo is generated at first use.

    Raises:
        UserError: Neither a name nor a folder.
        MissingError: A dataset of the table that has not been prepared.
    """
    info = DATASETS.get(name_or_path)
    if info is None:
        return None, _find_folder(name_or_path, data_root)
    root = data_root / info.name
    if info.generate is not None and not root.exists():
        _generate(info, root)
    if not root.is_dir():
        _refuse_fault(root)
        raise MissingError(
            f"dataset {info.name} must be prepared in {str(root)!r}, got no such folder; download it from {info.url}, "
            f"then: python bench.py prepare {info.name} --raw DIR"
        )
    return info, root


def _find_folder(name_or_path: str, data_root: Path) -> Path:
    for folder in (Path(name_or_path).expanduser(), data_root / name_or_path):
        if folder.is_dir():
            return folder
        _refuse_fault(folder)
    near = difflib.get_close_matches(name_or_path, DATASETS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "there is no such folder"
    raise UserError(f"dataset must be one of {', '.join(DATASETS)} or a folder, got {name_or_path!r}; {hint}")


def _open_folder(root: Path, cache_root: Path, verify: bool) -> Dataset:
    if has_findings(root):
        return _open_findings(root, cache_root, verify)
    classes, ordered = class_order(root, _class_folders(root))
    splits = _list_splits(root, classes)
    content = _read_content(root, splits, classes, ordered, stated_depth(root), cache_root, verify)
    defaults = _described(root, classes)
    mean, std, source = _statistics(root, defaults, splits["train"], content, cache_root)
    name, synthetic = defaults.name, defaults.synthetic
    return Dataset(
        name, defaults.title, root, classes, ordered, splits, content.digest, mean, std,
        source, defaults.metric, defaults.epochs, defaults.batch_size, synthetic, content.origin,
        content.scale, content.bit_depth, content.identical,
    )  # fmt: skip


def _described(root: Path, classes: tuple[str, ...]) -> DatasetInfo:
    """What is taken for the entry of a folder that has none in the table."""
    name, synthetic = printable(root.resolve().name), (root / SYNTHETIC_MARK).is_file()
    title = f"{name} (synthetic, not clinical)" if synthetic else name
    return DatasetInfo(name, title, classes, None, None, synthetic=synthetic)


def _open_findings(root: Path, cache_root: Path, verify: bool, info: DatasetInfo | None = None) -> Dataset:
    """Opens a folder whose `labels.csv` says what its images show."""
    table = read_findings(root)
    if info is not None and table.names != info.classes:
        raise UserError(
            f"findings of {info.name} must be {', '.join(info.classes)}, got {', '.join(table.names)} in {root}; "
            "prepare the dataset again with --overwrite"
        )
    splits = {split: tuple(Sample(row.path, row.values) for row in table.split(split)) for split in SPLITS}
    content = _read_content(root, splits, table.names, False, stated_depth(root, info), cache_root, verify)
    origin = content.origin
    if origin is None and table.has_groups:
        digest = split_digest(Entry(row.path, row.split, str(row.values), row.group, "", "") for row in table.rows)
        origin = SplitOrigin("user", dict.fromkeys(SPLITS, "user"), "group", None, digest)
    about = info or _described(root, table.names)
    mean, std, source = _statistics(root, about, splits["train"], content, cache_root)
    return Dataset(
        about.name, about.title, root, table.names, False, splits, content.digest, mean, std,
        source, about.metric, about.epochs, about.batch_size, about.synthetic, origin,
        content.scale, content.bit_depth, content.identical, table,
    )  # fmt: skip


def _generate(info: DatasetInfo, root: Path) -> None:
    """Generates a dataset under a temporary name and renames it; of two that race, the second result is dropped."""
    assert info.generate is not None
    print(f"generating the {info.name} dataset in {root} (once, some seconds)", file=sys.stderr)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{info.name}-") as scratch:
        made = Path(scratch) / info.name
        made.mkdir()
        info.generate(made)
        try:
            made.rename(root)
        except OSError:
            if not root.is_dir():
                raise


def list_folders(parent: Path) -> list[str]:
    """Names of the folders in a folder, and of links that lead nowhere, in natural order; but for hidden and litter."""
    entries = (entry for entry in parent.iterdir() if not is_litter(entry.name))
    return sorted((entry.name for entry in entries if entry.is_dir() or link_fault(entry)), key=natural_key)


def list_files(folder: Path) -> list[Path]:
    """Sorted files below a folder, as `files_below` finds them."""
    return sorted(files_below(folder), key=Path.as_posix)


def _class_folders(root: Path) -> list[str]:
    """The class folders in natural order, the same in every split."""
    missing = [split for split in SPLITS if not (root / split).is_dir()]
    if missing:
        folders = list_folders(root)
        for split in missing:
            _refuse_fault(root / split)
        raise UserError(
            f"dataset folder must hold train, val and test, got {', '.join(folders) or 'no folder'} in {str(root)!r} "
            f"({', '.join(missing)} missing); {layout_advice(root, folders)}"
        )
    per_split = {split: list_folders(root / split) for split in SPLITS}
    everything = sorted(set().union(*per_split.values()), key=natural_key)
    for split, names in per_split.items():
        absent = [name for name in everything if name not in names]
        if absent:
            raise UserError(
                f"classes must be the same in every split, got no {', '.join(absent)} in {str(root / split)!r}; "
                "add the class folder with images there, or remove it from the other splits"
            )
    if len(everything) < 2:
        raise UserError(
            f"dataset must have at least 2 class folders in each split, got {everything!r} in {str(root)!r}"
        )
    return everything


def _list_splits(root: Path, classes: tuple[str, ...]) -> dict[str, tuple[Sample, ...]]:
    return {
        split: tuple(
            Sample(path, label) for label, name in enumerate(classes) for path in list_images(root, f"{split}/{name}")
        )
        for split in SPLITS
    }


def list_images(root: Path, folder: str) -> list[str]:
    """Sorted paths of a class folder's images, relative to the root.

    Raises:
        UserError: There are none, or the folder holds something else.
    """
    paths = []
    for path in list_files(root / folder):
        _refuse_fault(path)
        kind = irregular(path)
        if kind is not None:
            raise UserError(f"class folder must hold only regular files, got {kind} at {str(path)!r}; remove it")
        if not is_image(path):
            raise UserError(f"class folder must hold only images, got {str(path)!r}; remove it or convert it to PNG")
        name = path.relative_to(root).as_posix()
        if not is_text(name):
            raise UserError(f"name of an image must be UTF-8, got {str(path)!r}; rename it")
        paths.append(name)
    if not paths:
        raise UserError(
            f"class folder must hold images, got none in {str(root / folder)!r}; add some or remove the class"
        )
    return paths


def _refuse_fault(path: Path) -> None:
    if fault := link_fault(path):
        raise UserError(
            f"link in a dataset must lead to an image or a folder, got {str(path)!r}, which {fault}; mend or remove it"
        )


class _Content(NamedTuple):
    """What the files of a folder say together; as of `Dataset`."""

    digest: str
    scale: Scale | None
    bit_depth: int | None
    origin: SplitOrigin | None
    identical: Identical


def _read_content(
    root: Path,
    splits: dict[str, tuple[Sample, ...]],
    classes: tuple[str, ...],
    marked: bool,
    depth: int | None,
    cache_root: Path,
    verify: bool,
) -> _Content:
    """Hashes the images, and finds their scale at the depth that is stated; `marked` tells of a mark of grades."""
    labels = {sample.path: sample.label for samples in splits.values() for sample in samples}
    places = {sample.path: split for split, samples in splits.items() for sample in samples}
    hashes = content_hashes(root, labels, cache_root, verify)
    digest = _digest(splits, classes, marked, hashes)
    scale = find_scale(root, list(labels), depth, cache_root / "depths" / digest)
    if scale is not None:
        digest = hashlib.sha256(f"{digest} {scale.low} {scale.bits}".encode()).hexdigest()
    bit_depth = scale.bits if scale else prepared_depth(root)
    return _Content(digest, scale, bit_depth, read_origin(root, hashes), find_identical(labels, places, hashes))


def _digest(
    splits: dict[str, tuple[Sample, ...]], classes: tuple[str, ...], ordered: bool, hashes: Mapping[str, str]
) -> str:
    """SHA-256 over (split, class, path, content) of every image, class by class, and over the mark of grades.

    Of findings over their names and, in the place of the class, what is said of each.
    """
    total = hashlib.sha256(b"ordered\n" if ordered else b"")
    if any(isinstance(sample.label, tuple) for samples in splits.values() for sample in samples[:1]):
        total.update("\0".join(["findings", *classes]).encode() + b"\n")
    for split, samples in splits.items():
        for path, label in samples:
            said = classes[label] if isinstance(label, int) else str(label)
            total.update("\0".join([split, said, path, hashes[path]]).encode() + b"\n")
    return total.hexdigest()


def _statistics(
    root: Path, info: DatasetInfo, samples: tuple[Sample, ...], content: _Content, cache_root: Path
) -> tuple[Statistics, Statistics, str]:
    """Mean and standard deviation by the dataset's entry, or computed, and which of both."""
    if info.mean is not None and info.std is not None:
        return info.mean, info.std, "dataset"
    return *_normalization(root, samples, content.digest, content.scale, cache_root), "computed"


def _normalization(
    root: Path, samples: tuple[Sample, ...], digest: str, scale: Scale | None, cache_root: Path
) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation per channel over all pixels of the train images, resized to a small square."""
    cache = cache_root / "normalization" / f"{digest}-v{PIXEL_FORMAT}"
    stored = read_cached(cache)
    if not stored:
        print(f"computing the normalisation of {root} over {len(samples)} images (once)", file=sys.stderr)
        sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)  # integers: exact in any order
        for image in in_order(lambda sample: read_image(root / sample.path, NORMALIZATION_SIDE, scale), samples):
            pixels = image.reshape(3, -1).astype(np.int64)  # (3, H * W)
            sums += pixels.sum(axis=1)
            squares += (pixels * pixels).sum(axis=1)
        count = len(samples) * NORMALIZATION_SIDE**2
        mean = sums / count / 255
        std = np.sqrt(np.maximum(squares / count / 255**2 - mean**2, 0))
        if std.min() < 1 / 255:
            raise UserError(f"train images must not be of one colour only, got channel deviations {std.tolist()!r}")
        stored = {"mean": [round(float(x), 6) for x in mean], "std": [round(float(x), 6) for x in std]}
        write_cached(cache, stored)
    (red, green, blue), (red_std, green_std, blue_std) = stored["mean"], stored["std"]
    return (red, green, blue), (red_std, green_std, blue_std)
