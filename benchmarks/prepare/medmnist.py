"""A MedMNIST file: arrays `train_images`, `train_labels` and so on of a two-dimensional set, with official splits."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.choices import SPLITS
from benchmarks.errors import MissingError, UserError
from benchmarks.prepare.request import Opened
from benchmarks.raw.arrays import Header, held_images, read_array, read_headers
from benchmarks.raw.files import RawFile
from benchmarks.raw.held import list_file
from benchmarks.storage.files import why_no_file
from datasets.info import DatasetInfo, Found, RawSample
from datasets.medmnist import SETS, SIZES, URL, MedMnist

_NO_PATIENTS = "the file names no patients: whether one has images in two splits cannot be seen"


def open_medmnist(path: Path) -> Opened:
    """The dataset of a file, which has the name of the file without suffix.

    Args:
        path: Such as `breastmnist_224.npz`. Its arrays are `{train,val,test}_images` of bytes, (N, H, W) grey or
            (N, H, W, 3) colour, and `{train,val,test}_labels` of integers, (N,) or (N, 1).

    Raises:
        UserError: It is no such file: volumes, several findings an image, missing arrays, wrong shapes or values.
    """
    if not path.is_file():
        raise MissingError(f"--raw must be a file of MedMNIST, got {str(path)!r}; {why_no_file(path)}")
    files = list_file(path)
    (file,) = files.files
    known = SETS.get(re.sub(r"_\d+$", "", path.stem.lower()))
    headers = read_headers(file)
    _check_arrays(path, headers)
    labels = {split: read_array(file, f"{split}_labels").reshape(-1) for split in SPLITS}  # (N,)
    classes = known.classes if known else _numbers(labels)
    _check_labels(path, labels, len(classes))
    samples = [
        sample
        for split in SPLITS
        for sample in _samples(file, split, headers[f"{split}_images"], [classes[label] for label in labels[split]])
    ]
    notes = [_NO_PATIENTS]
    if known is None:
        notes.append(f"{path.stem} is no set whose classes are known: they have their numbers as names, in order")
    height, width = headers["train_images"].shape[1:3]
    return Opened(files, _info(path, known, classes, f"{height}×{width}", Found(samples, notes=notes)))


def _info(path: Path, known: MedMnist | None, classes: tuple[str, ...], size: str, found: Found) -> DatasetInfo:
    return DatasetInfo(
        path.stem,
        f"{known.title if known else path.stem} ({size})",
        classes,
        None,
        None,
        ordered=known is not None and known.ordered,
        url=URL,
        licence=known.licence if known else "not known: see where the file is from",
        citation=known.citation if known else "not known: see where the file is from",
        official=SPLITS,
        find=lambda _: found,
    )


def _check_arrays(path: Path, headers: dict[str, Header]) -> None:
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    missing = [name for name in wanted if name not in headers]
    if missing:
        raise UserError(
            f"MedMNIST file must have the arrays {', '.join(wanted)}, got no {', '.join(missing)} in {str(path)!r}; "
            f"download it from {URL}"
        )
    for split in SPLITS:
        _check_images(path, f"{split}_images", headers[f"{split}_images"])
        _check_table(path, split, headers)
    shapes = {headers[f"{split}_images"].shape[1:] for split in SPLITS}
    if len(shapes) > 1:
        got = " and ".join(map(str, sorted(shapes)))
        raise UserError(f"images must have one shape in all splits, got {got} in {str(path)!r}; download it again")


def _check_images(path: Path, name: str, images: Header) -> None:
    shape, color = images.shape, len(images.shape) == 4 and images.shape[-1] == 3
    if len(shape) == 5 or (len(shape) == 4 and not color and min(shape[1:]) > 4):
        raise UserError(
            f"MedMNIST set must be two-dimensional, got volumes of shape {shape[1:]} in {name} of {str(path)!r}; take "
            f"one of {', '.join(SETS)}"
        )
    if (len(shape) != 3 and not color) or 0 in shape or images.dtype != np.uint8:
        raise UserError(
            f"{name} must be bytes (uint8) of shape (images, height, width) or (images, height, width, 3), got "
            f"{images.dtype} of shape {shape} in {str(path)!r}; download it from {URL}, in a size of "
            f"{', '.join(map(str, SIZES))}"
        )


def _check_table(path: Path, split: str, headers: dict[str, Header]) -> None:
    """Labels have one column, and a row for each image."""
    labels, number = headers[f"{split}_labels"], headers[f"{split}_images"].shape[0]
    if len(labels.shape) == 2 and labels.shape[1] > 1:
        raise UserError(
            f"MedMNIST set must have one class an image, got {labels.shape[1]} findings an image in {split}_labels of "
            f"{str(path)!r}, of which an image may have several: they cannot be class folders; take another set"
        )
    if labels.shape not in ((number,), (number, 1)) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{split}_labels must be {number:,} integers, one for each of {split}_images, got {labels.dtype} of shape "
            f"{labels.shape} in {str(path)!r}; download it from {URL}"
        )


def _numbers(labels: dict[str, npt.NDArray[np.integer]]) -> tuple[str, ...]:
    return tuple(map(str, range(max(int(values.max()) for values in labels.values()) + 1)))


def _check_labels(path: Path, labels: dict[str, npt.NDArray[np.integer]], num_classes: int) -> None:
    for split, values in labels.items():
        wrong = values[(values < 0) | (values >= num_classes)]
        if len(wrong):
            raise UserError(
                f"{split}_labels must be 0 to {num_classes - 1}, got {int(wrong[0])} in {str(path)!r}; download it "
                f"from {URL}"
            )


def _samples(file: RawFile, split: str, images: Header, labels: list[str]) -> list[RawSample]:
    held = held_images(file, f"{split}_images", images)
    stems = [f"{split}_{row:06}" for row in range(len(held))]
    return [
        RawSample(image, label, f"image-{stem}", stem, split)
        for image, label, stem in zip(held, labels, stems, strict=True)
    ]
