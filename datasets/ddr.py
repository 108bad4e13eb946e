"""DDR (OIA-DDR): fundus photographs, five grades of diabetic retinopathy, with its official splits.

Ungradable images (grade 5) are left out, as in the papers. Patients are not published, so the official splits cannot be
promised to keep patients apart.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.match import image_id, match
from benchmarks.raw.tables import NotFoundError, find_tables
from datasets.info import DatasetInfo, Found, RawSample

HOME = "DR_grading"  # the other tasks of the archive have files of the same names
SPLITS = {"train": "train", "valid": "val", "test": "test"}
UNGRADABLE = "5"


def find(files: RawFiles) -> Found:
    """Images and grades of each split, from the lists in the folder DR_grading."""
    lists = {file.name.lower().removesuffix(".txt"): file for file in files.files if _is_list(file)}
    absent = [f"{HOME}/{name}.txt" for name in SPLITS if name not in lists]
    if absent and find_tables(files, ("id_code",), ("diagnosis",)):
        raise UserError(
            "DDR must be the original with train.txt, valid.txt and test.txt, got a table id_code,diagnosis: that "
            "mirror has lost the official split; see bench.py prepare ddr -h"
        )
    if absent:
        raise NotFoundError(", ".join(absent))
    samples: list[RawSample] = []
    missing: list[str] = []
    unlabelled: list[str] = []
    excluded: dict[str, str] = {}
    notes = ["patients are not published: the official splits may share some"]
    counts = {}
    for name, split in SPLITS.items():
        grades = dict(_read_grades(lists[name]))
        counts[f"{name}.txt"] = len(grades)
        images = files.images(".+", (file for file in files.files if file.folders[-2:] == (HOME, name)))
        if not images:
            raise NotFoundError(f"images in {HOME}/{name}/")
        matched = match(lists[name].source, grades, images)
        for image, file in matched.images.items():
            if grades[image] == UNGRADABLE:
                excluded[file.source] = "ungradable"
            else:
                samples.append(RawSample(file, grades[image], f"image-{image}", file.stem, split))
        missing += [f"{name}/{image}" for image in matched.missing if grades[image] != UNGRADABLE]
        unlabelled += matched.unlabelled
        notes += matched.notes
    return Found(samples, counts, missing, unlabelled, excluded, notes)


def _is_list(file: RawFile) -> bool:
    name = PurePosixPath(file.name.lower())
    return name.suffix == ".txt" and name.stem in SPLITS and file.folders[-1:] == (HOME,)


def _read_grades(file: RawFile) -> Iterator[tuple[str, str]]:
    """Image id and grade of each line `007-0004-000.jpg 0`."""
    seen = set()
    for number, line in enumerate(file.read().decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, grade = line.strip().rpartition(" ")
        image = image_id(name.strip())
        if not name or grade not in ("0", "1", "2", "3", "4", "5") or image in seen:
            rule = "list each image once" if image in seen else "be '<image> <grade 0 to 5>'"
            raise UserError(f"line {number} of {file.source!r} must {rule}, got {line!r}; use the original list")
        seen.add(image)
        yield image, grade


DATASET = DatasetInfo(
    name="ddr",
    title="DDR",
    classes=("0", "1", "2", "3", "4"),
    ordered=True,
    mean=(0.4237, 0.2609, 0.1284),
    std=(0.2948, 0.2017, 0.1367),
    url="https://github.com/nkicsl/DDR-dataset",
    download=("DDR-dataset.zip.001 to .010 (Baidu or Google Drive, links in the README there)",),
    parts={"DDR-dataset.zip": 10},
    licence="repository MIT, unclear whether for the images: do not redistribute",
    citation="Li et al. 2019, Diagnostic assessment of deep learning algorithms for diabetic retinopathy screening",
    official=("train", "val", "test"),
    expected={"total": 12522, "0": 6266, "1": 630, "2": 4477, "3": 236, "4": 913, "train": 6260}
    | {"train.txt": 6835, "valid.txt": 2733, "test.txt": 4105},
    signature=r"\d{3}-\d{4}-\d{3}\.jpg|(^|/)DR_grading/|DDR-dataset",
    find=find,
)
