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
from datasets.info import DatasetInfo, Found, RawSample, finding_label
from datasets.medmnist import SETS, SIZES, URL, MedMnist

_NO_PATIENTS = "the file names no patients: whether one has images in two splits cannot be seen"


def open_medmnist(path: Path) -> Opened:
    """The dataset of a file, which has the name of the file without suffix.

    Args:
        path: Such as `breastmnist_224.npz`. Its arrays are `{train,val,test}_images` of bytes, (N, H, W) grey or
            (N, H, W, 3) colour, and `{train,val,test}_labels` of integers: classes (N,) or (N, 1), or 0 and 1 for
            each of F findings, (N, F).

    Raises:
        UserError: It is no such file: volumes, missing arrays, wrong shapes or values.
    """
    if not path.is_file():
        raise MissingError(f"--raw must be a file of MedMNIST, got {str(path)!r}; {why_no_file(path)}")
    files = list_file(path)
    (file,) = files.files
    known = SETS.get(re.sub(r"_\d+$", "", path.stem.lower()))
    headers = read_headers(file)
    num_columns = (len(known.classes) if known.findings else 1) if known else _num_columns(headers)
    findings = num_columns > 1
    _check_arrays(path, headers, num_columns)
    tables = {split: read_array(file, f"{split}_labels") for split in SPLITS}  # (N, F); of classes (N,) or (N, 1)
    classes = known.classes if known else _numbers(tables, findings)
    _check_labels(path, tables, 2 if findings else len(classes))
    samples = [
        sample
        for split, table in tables.items()
        for sample in _samples(file, split, headers[f"{split}_images"], _texts(table, classes, findings))
    ]
    notes = [_NO_PATIENTS]
    if known is None:
        notes.append(f"{path.stem} is no set whose classes are known: they have their numbers as names, in order")
    height, width = headers["train_images"].shape[1:3]
    found = Found(samples, notes=notes)
    return Opened(files, _info(path, known, classes, findings, f"{height}×{width}", found))


def _info(
    path: Path, known: MedMnist | None, classes: tuple[str, ...], findings: bool, size: str, found: Found
) -> DatasetInfo:
    return DatasetInfo(
        path.stem,
        f"{known.title if known else path.stem} ({size})",
        classes,
        None,
        None,
        ordered=known is not None and known.ordered,
        findings=findings,
        url=URL,
        licence=known.licence if known else "not known: see where the file is from",
        citation=known.citation if known else "not known: see where the file is from",
        official=SPLITS,
        find=lambda _: found,
    )


def _num_columns(headers: dict[str, Header]) -> int:
    """Columns of the labels of a set that is not known."""
    labels = [headers[name].shape for split in SPLITS if (name := f"{split}_labels") in headers]
    return max((shape[1] for shape in labels if len(shape) == 2), default=1)


def _check_arrays(path: Path, headers: dict[str, Header], num_columns: int) -> None:
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    missing = [name for name in wanted if name not in headers]
    if missing:
        raise UserError(
            f"MedMNIST file must have the arrays {', '.join(wanted)}, got no {', '.join(missing)} in {str(path)!r}; "
            f"download it from {URL}"
        )
    for split in SPLITS:
        _check_images(path, f"{split}_images", headers[f"{split}_images"])
        _check_table(path, split, headers, num_columns)
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


def _check_table(path: Path, split: str, headers: dict[str, Header], num_columns: int) -> None:
    """Labels have a row for each image."""
    labels, number = headers[f"{split}_labels"], headers[f"{split}_images"].shape[0]
    shapes = [(number, num_columns), *([(number,)] if num_columns == 1 else [])]
    if labels.shape not in shapes or labels.dtype.kind not in "iu":
        raise UserError(
            f"{split}_labels must be integers of shape {' or '.join(map(str, shapes))}, a row for each of "
            f"{split}_images, got {labels.dtype} of shape {labels.shape} in {str(path)!r}; download it from {URL}"
        )


def _numbers(tables: dict[str, npt.NDArray[np.integer]], findings: bool) -> tuple[str, ...]:
    """Of classes by their labels, of findings by their columns."""
    number = tables["train"].shape[1] if findings else max(int(table.max()) for table in tables.values()) + 1
    return tuple(map(str, range(number)))


def _texts(table: npt.NDArray[np.integer], classes: tuple[str, ...], findings: bool) -> list[str]:
    """The label of each image as manifests write it."""
    if not findings:
        return [classes[label] for label in table.reshape(-1)]
    return [finding_label([name for name, there in zip(classes, row, strict=True) if there]) for row in table]


def _check_labels(path: Path, tables: dict[str, npt.NDArray[np.integer]], num_values: int) -> None:
    for split, values in tables.items():
        wrong = values[(values < 0) | (values >= num_values)]
        if len(wrong):
            raise UserError(
                f"{split}_labels must be 0 to {num_values - 1}, got {int(wrong[0])} in {str(path)!r}; download it "
                f"from {URL}"
            )


def _samples(file: RawFile, split: str, images: Header, labels: list[str]) -> list[RawSample]:
    held = held_images(file, f"{split}_images", images)
    stems = [f"{split}_{row:06}" for row in range(len(held))]
    return [
        RawSample(image, label, f"image-{stem}", stem, split)
        for image, label, stem in zip(held, labels, stems, strict=True)
    ]
