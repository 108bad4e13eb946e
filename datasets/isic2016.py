"""ISIC 2016 task 3: dermoscopy, benign or malignant, with its official test split; validation is carved from training.

Neither lesions nor patients are published.
"""

import re

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.match import image_id, match
from benchmarks.raw.tables import NotFoundError, candidates, read_rows
from datasets.info import DatasetInfo, Found, RawSample

LABELS = {"benign": "benign", "malignant": "malignant"}
LABELS |= {"0": "benign", "1": "malignant", "0.0": "benign", "1.0": "malignant"}  # the test table is in numbers


def find(files: RawFiles) -> Found:
    """Images by name, labels from the two tables without a header."""
    tables = {split: _table(files, split) for split in ("train", "test")}
    images = files.images(r"ISIC_\d{7}", (file for file in files.files if "part3b" not in file.source.lower()))
    if not images:
        raise NotFoundError("images like ISIC_0000000.jpg")
    labels: dict[str, tuple[str, str]] = {}
    for split, (table, rows) in tables.items():
        for name, value in rows:
            image = image_id(name)
            if image in labels:
                raise UserError(
                    f"image {image} must be listed once, got it again in {table.source!r}; use the originals"
                )
            labels[image] = (split, LABELS[value.lower()])
    matched = match("the ground truth", labels, images)
    samples = [
        RawSample(file, labels[name][1], f"image-{name}", file.stem, labels[name][0])
        for name, file in matched.images.items()
    ]
    notes = ["lesions and patients are not published", *matched.notes]
    return Found(samples, {}, matched.missing, matched.unlabelled, notes=notes)


def _table(files: RawFiles, split: str) -> tuple[RawFile, list[list[str]]]:
    """The headerless table of a split, recognised by its rows."""
    part3b = False
    for file in candidates(files):
        if "part3b" in file.name.lower():
            part3b = True
            continue
        if not re.search(split, file.name, re.IGNORECASE) or file.name.lower().endswith(".xlsx"):
            continue
        rows = read_rows(file)
        if not rows or not re.fullmatch(r"ISIC_\d{7}(\.jpe?g)?", rows[0][0], re.IGNORECASE) or len(rows[0]) != 2:
            continue
        bad = next((row for row in rows if len(row) != 2 or row[1].lower() not in LABELS), None)
        if bad:
            raise UserError(
                f"rows of {file.source!r} must be an image and one of {', '.join(LABELS)}, got {','.join(bad)!r}; "
                "use the original table"
            )
        return file, rows
    beside = " (Part3B is another task: Part3 is needed)" if part3b else ""
    name = {"train": "Training", "test": "Test"}[split]
    raise NotFoundError(f"ISBI2016_ISIC_Part3_{name}_GroundTruth.csv{beside}")


DATASET = DatasetInfo(
    name="isic2016",
    title="ISIC 2016",
    classes=("benign", "malignant"),
    mean=(0.7244, 0.6187, 0.5665),
    std=(0.1638, 0.1709, 0.1911),
    url="https://challenge.isic-archive.com/data/#2016",
    download=(
        "ISBI2016_ISIC_Part3_{Training,Test}_Data.zip",
        "ISBI2016_ISIC_Part3_{Training,Test}_GroundTruth.csv",
    ),
    licence="CC-0",
    citation="Gutman et al. 2016 (arXiv 1605.01397)",
    official=("train", "test"),
    expected={"train": 900, "train/benign": 727, "train/malignant": 173}
    | {"test": 379, "test/benign": 304, "test/malignant": 75},
    signature=r"ISBI2016_ISIC|ISIC_00(0\d|1[01])\d{4}\.jpg",
    find=find,
)
