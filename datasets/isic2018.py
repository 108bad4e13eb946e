"""ISIC 2018 task 3: dermoscopy, seven kinds of skin lesion, with its official splits.

ISIC_0035068 of the test split is not scored by the challenge (and missing from one of the two sources): left out.
Training images and labels may also come from HAM10000 (Harvard Dataverse), whose table names lesions and classes.
"""

import re
from collections.abc import Iterator

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.match import image_id, match
from benchmarks.raw.tables import NotFoundError, find_tables, read_table
from datasets.info import DatasetInfo, Found, RawSample

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
NOT_SCORED = "isic_0035068"
SPLITS = {"train": "training|ham10000", "val": "validation", "test": "test"}


def find(files: RawFiles) -> Found:
    """Images by name; labels one-hot or, in HAM10000's tables, by diagnosis."""
    labels, tables = _labels(files)
    images = files.images(r"ISIC_\d{7}")
    if not images:
        raise NotFoundError("images like ISIC_0024306.jpg")
    matched = match("the ground truth", [name for name in labels if name != NOT_SCORED], images)
    lesions = _lesions(files)
    samples = []
    for name, file in matched.images.items():
        split, label = labels[name]
        samples.append(RawSample(file, label, lesions.get(name, f"image-{name}"), file.stem, split))
    absent = [split for split in SPLITS if split not in tables]
    if absent:
        raise NotFoundError(f"ground truth of {', '.join(absent)} (ISIC2018_Task3_*_GroundTruth.csv)")
    excluded = {images[NOT_SCORED].source: "not scored by the challenge"} if NOT_SCORED in images else {}
    unlabelled = [source for source in matched.unlabelled if source not in excluded]
    notes = matched.notes + ([] if lesions else [f"{LESIONS} is missing: each image is its own group"])
    ungrouped = (
        "" if lesions else f"lesions of the training images are not known: download {LESIONS} from the same page"
    )
    return Found(samples, {}, matched.missing, unlabelled, excluded, notes, ungrouped=ungrouped)


def _labels(files: RawFiles) -> tuple[dict[str, tuple[str, str]], set[str]]:
    """Split and class of each image, and the splits that have a table."""
    one_hot = find_tables(files, ("image",), *((name.lower(),) for name in CLASSES))
    by_name = find_tables(files, ("image_id",), ("dx",))
    if not one_hot and not by_name:
        raise NotFoundError("ground truth (a table with the columns image,MEL,NV,BCC,AKIEC,BKL,DF,VASC)")
    labels: dict[str, tuple[str, str]] = {}
    splits = set()
    for table in (*one_hot, *by_name):
        split = _split_of(table)
        splits.add(split)
        for name, label in _read_labels(table):
            if labels.setdefault(name, (split, label)) != (split, label):
                raise UserError(
                    f"image {name} must have one label and one split, got {labels[name]} and {(split, label)} in "
                    f"{table.source!r}; remove the wrong table"
                )
    return labels, splits


def _split_of(table: RawFile) -> str:
    for text in (table.name, table.source):
        named = [split for split, pattern in SPLITS.items() if re.search(pattern, text, re.IGNORECASE)]
        if len(named) == 1:
            return named[0]
    raise UserError(
        f"name of a ground truth must say Training, Validation or Test, got {table.source!r}; "
        "give it back its original name"
    )


def _read_labels(table: RawFile) -> Iterator[tuple[str, str]]:
    for row in read_table(table):
        if "dx" in row:
            label = row["dx"].upper()
            if label not in CLASSES:
                raise UserError(f"dx must be one of {', '.join(CLASSES)}, got {row['dx']!r} in {table.source!r}")
            yield image_id(row["image_id"]), label
            continue
        hot = [name for name in CLASSES if row[name.lower()] in ("1", "1.0")]
        if len(hot) != 1:
            raise UserError(f"each row must mark one class, got {hot!r} for {row['image']!r} in {table.source!r}")
        yield image_id(row["image"]), hot[0]


def _lesions(files: RawFiles) -> dict[str, str]:
    return {
        image_id(row.get("image") or row.get("image_id", "")): row["lesion_id"]
        for table in find_tables(files, ("image", "image_id"), ("lesion_id",))
        for row in read_table(table)
    }


LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"

DATASET = DatasetInfo(
    name="isic2018",
    title="ISIC 2018",
    classes=CLASSES,
    mean=(0.7636, 0.5466, 0.5707),
    std=(0.1404, 0.1519, 0.1692),
    url="https://challenge.isic-archive.com/data/#2018",
    download=(
        "ISIC2018_Task3_{Training,Validation,Test}_Input.zip",
        "ISIC2018_Task3_{Training,Validation,Test}_GroundTruth.zip",
        LESIONS,
    ),
    licence="CC BY-NC 4.0, (c) ViDIR Group, Medical University of Vienna",
    citation="Codella et al. 2019 (arXiv 1902.03368); Tschandl et al. 2018 (arXiv 1803.10417)",
    group_key="lesion",
    official=("train", "val", "test"),
    expected={"train": 10015, "val": 193, "test": 1511}
    | {"train/MEL": 1113, "train/NV": 6705, "train/BCC": 514, "train/AKIEC": 327, "train/BKL": 1099}
    | {"train/DF": 115, "train/VASC": 142}
    | {"test/MEL": 171, "test/NV": 908, "test/BCC": 93, "test/AKIEC": 43, "test/BKL": 217, "test/DF": 44}
    | {"test/VASC": 35},
    signature=r"ISIC2018_Task3|HAM10000|ISIC_00(2[4-9]|3[0-6])\d{4}\.jpg",
    find=find,
)
