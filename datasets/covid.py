"""COVID CXR Image Dataset (Research): chest X-rays with COVID-19, without findings, and with viral pneumonia.

More than a hundred images have no extension that image folders usually accept (.jfif, or none): every file in a class
folder is taken as an image. Patients are not published; two of the sources number theirs in the file names.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.tables import NotFoundError
from datasets.info import DatasetInfo, Found, RawSample

CLASSES = ("covid", "normal", "virus")
PATIENT = re.compile(r"(?P<person>person\d+)_|(?:NORMAL2-)?IM-(?P<number>\d{4})-", re.IGNORECASE)


def find(files: RawFiles) -> Found:
    """Every file in the three class folders, wherever these lie beside each other."""
    parent = _parent_of_classes(files)
    chosen: dict[tuple[str, str], RawFile] = {}
    for file in files.files:
        inside = PurePosixPath(*file.folders)
        if len(inside.parts) and inside.parts[-1].lower() in CLASSES and str(inside.parent) == parent:
            chosen.setdefault((inside.parts[-1].lower(), file.name), file)
    stems = Counter((label, _clean(file.stem).lower()) for (label, _), file in chosen.items())
    samples, unknown = [], 0
    for (label, name), file in chosen.items():
        stem = _clean(file.stem)
        if stems[label, stem.lower()] > 1:  # one name with two extensions
            stem += f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:6]}"
        patient = _patient(name)
        unknown += patient is None
        samples.append(RawSample(file, label, patient or f"image-{label}-{stem}", f"{label}_{stem}"))
    notes = [f"{unknown} of {len(samples)} images have no patient in their name: each is its own group"]
    return Found(samples, notes=notes if unknown else [])


def _parent_of_classes(files: RawFiles) -> str:
    """The folder whose sub-folders with files are exactly the three classes."""
    children: dict[str, set[str]] = defaultdict(set)
    for file in files.files:
        inside = PurePosixPath(*file.folders)
        for folder in (inside, *inside.parents):
            if folder.name:
                children[str(folder.parent)].add(folder.name.lower())
    holders = {parent: names for parent, names in children.items() if names.issuperset(CLASSES)}
    exact = [parent for parent, names in holders.items() if names == set(CLASSES)]
    if exact:
        return min(exact, key=lambda parent: (len(parent), parent))
    if holders:
        parent, names = min(holders.items())
        raise UserError(
            f"class folders must be exactly {', '.join(CLASSES)}, got {', '.join(sorted(names))} in {parent!r}; "
            "this is another upload: take the one named by bench.py prepare covid -h"
        )
    raise NotFoundError("folders covid, normal and virus beside each other (COVID_IEEE)")


def _patient(name: str) -> str | None:
    found = PATIENT.match(name)
    if found is None:
        return None
    return found["person"].lower() if found["person"] else f"IM-{found['number']}"


def _clean(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem)


DATASET = DatasetInfo(
    name="covid",
    title="COVID",
    classes=CLASSES,
    mean=(0.4983, 0.4986, 0.4989),
    std=(0.2426, 0.2426, 0.2426),
    url="https://www.kaggle.com/datasets/sid321axn/covid-cxr-image-dataset-research",
    download=("archive.zip ('Download', Kaggle login)",),
    licence="not stated: do not redistribute",
    citation="COVID CXR Image Dataset (Research), Kaggle, sid321axn",
    group_key="patient where named, else image",
    expected={"total": 1823, "covid": 536, "normal": 668, "virus": 619},
    signature=r"(^|/)COVID_IEEE/|(^|/)virus/person\d+_virus",
    find=find,
)
