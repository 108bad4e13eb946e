"""Datasets as prepared folders: `<root>/{train,val,test}/<class>/<images>`, checked, listed and digested.

Files beside the class folders and beside the split folders (manifests, licences) are left alone. Class folders may have
sub-folders. Hidden files and the well-known litter in `LITTER` are passed over; any other file must be an image.
"""

import difflib
import hashlib
import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.choices import LITTER, SPLITS
from benchmarks.data.classes import class_order, natural_key
from benchmarks.data.manifest import SplitOrigin, read_origin
from benchmarks.errors import MissingError, UserError
from benchmarks.images.decode import PIXEL_FORMAT, in_order, is_image, num_workers, read_image
from benchmarks.storage.files import irregular, parse_json, read_regular, write_disposable
from datasets import DATASETS
from datasets.info import DatasetInfo

SYNTHETIC_MARK = "NOT_CLINICAL_DATA.txt"
NORMALIZATION_SIDE = 224


class Sample(NamedTuple):
    """One image: its path relative to the dataset's root, with forward slashes, and the index of its class."""

    path: str
    label: int


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset on disk.

    Attributes:
        name: Name in the table of datasets, or the folder's name.
        title: Name in tables and plots; says so where the images are synthetic.
        root: The folder that holds the splits.
        classes: Folder names in class order.
        ordered: Whether the classes are grades, in their order.
        splits: `train`, `val` and `test`, each sorted by class and path.
        digest: Hex SHA-256 over split, class, path and content of every image, in the order of the classes, and over a
            mark of grades in `classes.txt`; the same on every machine.
        mean: Normalisation mean per RGB channel, of pixels in [0, 1].
        std: Normalisation standard deviation per RGB channel.
        normalization_source: `dataset` (stated in the dataset's file) or `computed` (over the train split).
        metric: Headline metric.
        epochs: Default number of epochs.
        batch_size: Default images a step.
        synthetic: Whether the images are generated; never clinical data.
        split_origin: Who made the splits, by the folder's manifest; None where there is none.
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

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images per split and class."""
        counted = {split: Counter(sample.label for sample in samples) for split, samples in self.splits.items()}
        return {split: {name: labels[i] for i, name in enumerate(self.classes)} for split, labels in counted.items()}


def open_dataset(name_or_path: str, data_root: Path, cache_root: Path) -> Dataset:
    """Opens a dataset of the table by its name, or any folder of the layout by its path.

    The demo is generated at first use. For a folder by its path the classes are its folder names, in the order that
    its `classes.txt` says or in natural order, and the normalisation is computed once over the train split and kept in
    the cache.

    Args:
        name_or_path: A name in `datasets.DATASETS`, the path of a folder, or the name of a folder in `data_root`.
        data_root: Where the prepared folders lie.
        cache_root: Content hashes and computed normalisations are kept here.

    Raises:
        UserError: Unknown name, or a folder whose layout, classes, files or `classes.txt` are wrong.
        MissingError: A dataset of the table that has not been prepared.
    """
    info, root = find_root(name_or_path, data_root)
    if info is None:
        return _open_folder(root, cache_root)
    folders = _class_folders(root)
    if set(folders) != set(info.classes):
        raise UserError(f"classes of {info.name} must be {', '.join(info.classes)}, got {', '.join(folders)} in {root}")
    classes, ordered = class_order(root, folders, info)
    splits = _list_splits(root, classes)
    digest = _digest(root, splits, classes, False, cache_root)  # the entry's mark is as fixed as its name
    return Dataset(
        info.name, info.title, root, classes, ordered, splits, digest, info.mean, info.std,
        "dataset", info.metric, info.epochs, info.batch_size, info.synthetic, _split_origin(root, splits),
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
        raise MissingError(
            f"dataset {info.name} must be prepared in {str(root)!r}, got no such folder; download it from {info.url}, "
            f"then: python bench.py prepare {info.name} --raw DIR"
        )
    return info, root


def _find_folder(name_or_path: str, data_root: Path) -> Path:
    for folder in (Path(name_or_path).expanduser(), data_root / name_or_path):
        if folder.is_dir():
            return folder
    near = difflib.get_close_matches(name_or_path, DATASETS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "there is no such folder"
    raise UserError(f"dataset must be one of {', '.join(DATASETS)} or a folder, got {name_or_path!r}; {hint}")


def _open_folder(root: Path, cache_root: Path) -> Dataset:
    classes, ordered = class_order(root, _class_folders(root))
    splits = _list_splits(root, classes)
    digest = _digest(root, splits, classes, ordered, cache_root)
    mean, std = _normalization(root, splits["train"], digest, cache_root)
    name = root.resolve().name
    synthetic = (root / SYNTHETIC_MARK).is_file()
    defaults = DatasetInfo(name, f"{name} (synthetic, not clinical)" if synthetic else name, classes, mean, std)
    return Dataset(
        name, defaults.title, root, classes, ordered, splits, digest, mean, std,
        "computed", defaults.metric, defaults.epochs, defaults.batch_size, synthetic, _split_origin(root, splits),
    )  # fmt: skip


def _split_origin(root: Path, splits: dict[str, tuple[Sample, ...]]) -> SplitOrigin | None:
    return read_origin(root, (sample.path for samples in splits.values() for sample in samples))


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
    """Names of the folders in a folder in natural order, but for hidden ones and litter."""
    names = [entry.name for entry in parent.iterdir() if entry.is_dir() and not _is_litter(entry)]
    return sorted(names, key=natural_key)


def list_files(folder: Path) -> list[Path]:
    """Sorted files below a folder, but for hidden ones and litter."""
    files = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if not any(_is_litter(part) for part in (inside, *inside.parents)) and not path.is_dir():
            files.append(path)
    return sorted(files, key=Path.as_posix)


def _is_litter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in LITTER


def _class_folders(root: Path) -> list[str]:
    """The class folders in natural order, the same in every split."""
    missing = [split for split in SPLITS if not (root / split).is_dir()]
    if missing:
        found = ", ".join(list_folders(root)) or "no folder"
        raise UserError(
            f"dataset folder must hold train, val and test, got {found} in {str(root)!r} "
            f"({', '.join(missing)} missing); the layout is {root}/{{train,val,test}}/<class>/<images>"
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
            Sample(path, label) for label, name in enumerate(classes) for path in _list_images(root, f"{split}/{name}")
        )
        for split in SPLITS
    }


def _list_images(root: Path, folder: str) -> list[str]:
    """Sorted paths of a class folder's images, relative to the root."""
    paths = []
    for path in list_files(root / folder):
        kind = irregular(path)
        if kind is not None:
            raise UserError(f"class folder must hold only regular files, got {kind} at {str(path)!r}; remove it")
        if not is_image(path):
            raise UserError(f"class folder must hold only images, got {str(path)!r}; remove it or convert it to PNG")
        name = path.relative_to(root).as_posix()
        if not _is_text(name):
            raise UserError(f"name of an image must be UTF-8, got {str(path)!r}; rename it")
        paths.append(name)
    if not paths:
        raise UserError(
            f"class folder must hold images, got none in {str(root / folder)!r}; add some or remove the class"
        )
    return paths


def _is_text(name: str) -> bool:
    """Whether a file's name can be stored; one in another encoding is read with surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _digest(
    root: Path, splits: dict[str, tuple[Sample, ...]], classes: tuple[str, ...], ordered: bool, cache_root: Path
) -> str:
    """SHA-256 over (split, class, path, content) of every image, class by class, and over the mark of grades."""
    hashes = _content_hashes(root, [sample.path for samples in splits.values() for sample in samples], cache_root)
    total = hashlib.sha256(b"ordered\n" if ordered else b"")
    for split, samples in splits.items():
        for path, label in samples:
            total.update("\0".join([split, classes[label], path, hashes[path]]).encode() + b"\n")
    return total.hexdigest()


def _content_hashes(root: Path, paths: list[str], cache_root: Path) -> dict[str, str]:
    """SHA-256 of each file; those whose size and modification time are known are not read again."""
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    cache = cache_root / "hashes" / f"{root.resolve().name}-{key}.json"
    known = _read_json(cache)

    def entry(path: str) -> list[Any]:
        stat = (root / path).stat()
        old = known.get(path)
        if isinstance(old, list) and len(old) == 3 and old[:2] == [stat.st_size, stat.st_mtime_ns]:
            return old
        with (root / path).open("rb") as file:
            return [stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]

    with ThreadPoolExecutor(num_workers()) as pool:
        entries = dict(zip(paths, pool.map(entry, paths), strict=True))
    if entries != known:
        write_disposable(cache, json.dumps(entries).encode())
    return {path: str(values[2]) for path, values in entries.items()}


def _normalization(
    root: Path, samples: tuple[Sample, ...], digest: str, cache_root: Path
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel over all pixels of the train images, resized to a small square."""
    cache = cache_root / "normalization" / f"{digest}-v{PIXEL_FORMAT}.json"
    stored = _read_json(cache)
    if not all(_is_triple(stored.get(name)) for name in ("mean", "std")):
        print(f"computing the normalisation of {root} over {len(samples)} images (once)", file=sys.stderr)
        sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)  # integers: exact in any order
        for image in in_order(lambda sample: read_image(root / sample.path, NORMALIZATION_SIDE), samples):
            pixels = image.reshape(3, -1).astype(np.int64)  # (3, H * W)
            sums += pixels.sum(axis=1)
            squares += (pixels * pixels).sum(axis=1)
        count = len(samples) * NORMALIZATION_SIDE**2
        mean = sums / count / 255
        std = np.sqrt(np.maximum(squares / count / 255**2 - mean**2, 0))
        if std.min() < 1 / 255:
            raise UserError(f"train images must not be of one colour only, got channel deviations {std.tolist()!r}")
        stored = {"mean": [round(float(x), 6) for x in mean], "std": [round(float(x), 6) for x in std]}
        write_disposable(cache, json.dumps(stored).encode())
    (red, green, blue), (red_std, green_std, blue_std) = stored["mean"], stored["std"]
    return (red, green, blue), (red_std, green_std, blue_std)


def _is_triple(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(isinstance(value, float) for value in values)


def _read_json(path: Path) -> dict[str, Any]:
    """A cache file's content; empty where there is none or it is damaged, so that it is made again."""
    try:
        content = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
