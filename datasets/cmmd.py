"""CMMD: mammograms, benign or malignant; DICOM. The label belongs to the breast, not to the patient.

Only breasts with a row in the spreadsheet are labelled; the other breast of a patient with four images and one row is
left out. Patient, side and view come from the DICOM headers: file names repeat in every folder.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from benchmarks.errors import UserError
from benchmarks.images.decode import num_workers
from benchmarks.images.dicom import read_tags
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.tables import NotFoundError, one_table, read_table
from datasets.info import DatasetInfo, Found, RawSample

CLASSES = ("Benign", "Malignant")
TAGS = ("PatientID", "ImageLaterality", "Laterality", "ViewPosition", "SOPInstanceUID")
BOTH = ("CC", "MLO")
VIEWS = {"399162004": "CC", "399368009": "MLO", "R-10242": "CC", "R-10226": "MLO"}  # SNOMED CT, and its older codes


class Breast(NamedTuple):
    """One row of the spreadsheet: patient and side (`L` or `R`)."""

    patient: str
    side: str


def find(files: RawFiles) -> Found:
    """Images by header, labels by patient and side."""
    table = one_table(files, "CMMD_clinicaldata_revision.xlsx", ("id1",), ("leftright",), ("classification",))
    labels = _labels(table)
    breasts, unreadable = _headers([file for file in files.files if file.name.lower().endswith(".dcm")])
    if not breasts and not unreadable:
        raise NotFoundError("DICOM images (*.dcm)")
    patients = {breast.patient for breast in labels}
    seen = {breast.patient for breast, _ in breasts.values()}
    if seen and not patients & seen:
        raise UserError(
            f"patients of {table.source!r} must be those of the images, got {', '.join(sorted(patients)[:5])} there, "
            f"but images of {', '.join(sorted(seen)[:5])}; one of the two is of another dataset"
        )
    samples, excluded, unlabelled = [], {}, []
    numbers: Counter[str] = Counter()
    views: dict[Breast, list[str]] = defaultdict(list)
    for file, (breast, view) in breasts.items():
        if breast in labels:
            stem = f"{breast.patient}_{breast.side}_{view}"
            numbers[stem] += 1
            stem += f"_{numbers[stem]}" if numbers[stem] > 1 else ""
            samples.append(RawSample(file, labels[breast], breast.patient, stem))
            views[breast].append(view)
        elif breast.patient in patients:
            excluded[file.source] = "breast without a label"
        else:
            unlabelled.append(file.source)
    absent = [(breast, view) for breast in labels for view in _absent(views[breast])]
    missing = _not_unreadable(absent, unreadable)
    counts = {"DICOM images": len(breasts), "labelled breasts": len(labels)}
    return Found(samples, counts, missing, unlabelled, excluded, unreadable=unreadable)


def _not_unreadable(absent: list[tuple[Breast, str]], unreadable: Iterable[str]) -> list[str]:
    """Views that are not there at all: of those of a patient, as many as cannot be read are."""
    hidden = Counter(_patient_in(source) for source in unreadable)
    missing = []
    for breast, view in absent:
        if hidden[breast.patient] > 0:
            hidden[breast.patient] -= 1
        else:
            missing.append(f"{breast.patient} {breast.side} {view}")
    return missing


def _absent(views: list[str]) -> list[str]:
    """The views of a breast that are not there; each has the two of `BOTH`, whatever a header may call them."""
    return [view for view in BOTH if view not in views][: max(0, len(BOTH) - len(views))]


def _labels(table: RawFile) -> dict[Breast, str]:
    labels: dict[Breast, str] = {}
    for row in read_table(table):
        breast, label = Breast(row["id1"].upper(), row["leftright"].upper()), row["classification"].capitalize()
        if label not in CLASSES or breast.side not in ("L", "R") or breast in labels:
            raise UserError(
                f"rows must be one patient and side with {' or '.join(CLASSES)}, got {breast.patient!r}, "
                f"{breast.side!r}, {row['classification']!r} in {table.source!r}; use the original spreadsheet"
            )
        labels[breast] = label
    return labels


def _headers(images: list[RawFile]) -> tuple[dict[RawFile, tuple[Breast, str]], dict[str, str]]:
    """Breast and view of each image, and what is wrong with those that cannot be read.

    One that is there twice (unpacked beside its archive) counts once.
    """
    with ThreadPoolExecutor(num_workers()) as pool:
        read = dict(zip(images, pool.map(_read_header, images), strict=True))
    headers = {file: header for file, header in read.items() if not isinstance(header, str)}
    unreadable = {file.source: header for file, header in read.items() if isinstance(header, str)}
    unlike: dict[str, RawFile] = {}
    for file, (_, _, uid) in headers.items():
        known = unlike.setdefault(uid or file.source, file)
        if known.member and not file.member:
            unlike[uid] = file
    return {file: headers[file][:2] for file in unlike.values()}, unreadable


def _patient_in(source: str) -> str:
    """The patient whose folder an image lies in; empty where it is not told."""
    found = re.search(r"(?:^|/)(D[12]-\d{4})(?:/|$)", source, re.IGNORECASE)
    return found[1].upper() if found else ""


def _read_header(file: RawFile) -> tuple[Breast, str, str] | str:
    """Breast, view, and unique id of an image; or what is wrong with it."""
    try:
        with file.open() as opened:
            tags = read_tags(opened, file.source, TAGS)
    except UserError as error:
        return str(error)
    patient = tags["PatientID"] or _patient_in(file.source)
    side = (tags["ImageLaterality"] or tags["Laterality"]).upper()
    if not patient or side not in ("L", "R"):
        raise UserError(
            f"DICOM header must name patient and side (L or R), got {patient!r} and {side!r} in {file.source!r}; "
            "download it again"
        )
    view = VIEWS.get(tags["ViewCode"], tags["ViewPosition"].upper() or "view")
    return Breast(patient.upper(), side), re.sub(r"[^A-Za-z0-9]+", "-", view), tags["SOPInstanceUID"]


DATASET = DatasetInfo(
    name="cmmd",
    title="CMMD",
    classes=CLASSES,
    mean=(0.16735, 0.16735, 0.16735),  # published for the grey channel alone
    std=(0.18017, 0.18017, 0.18017),
    url="https://www.cancerimagingarchive.net/collection/cmmd/",
    download=(
        "the images (.tcia manifest, opened with the NBIA Data Retriever; 22 GB)",
        "CMMD_clinicaldata_revision.xlsx (or saved as csv)",
    ),
    licence="CC BY 4.0",
    citation="Cui et al. 2021, The Chinese Mammography Database (doi 10.7937/tcia.eqde4b16)",
    group_key="patient",
    expected={"total": 3744, "Benign": 1112, "Malignant": 2632, "DICOM images": 5202, "labelled breasts": 1872},
    signature=r"(^|/)D[12]-\d{4}/|CMMD_clinicaldata|(^|/)CMMD/",
    find=find,
)
