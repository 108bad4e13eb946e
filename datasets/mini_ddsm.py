"""Mini-DDSM: mammograms; the label belongs to the case, so the healthy breast of a cancer case is labelled Cancer.

The complete version (v2) holds every image twice, as 8-bit JPEG and as 16-bit PNG: the JPEG are read where they exist.
Folder numbers are shared by cases of different classes; letter and number in the file name make the case.
"""

import re

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.match import image_id, match
from benchmarks.raw.tables import NotFoundError, candidates, read_table
from datasets.info import DatasetInfo, Found, RawSample

CLASSES = ("Normal", "Benign", "Cancer")
IMAGE = r"([A-D]_\d{4})_1\.(LEFT|RIGHT)_(CC|MLO)"  # in full: masks are `..._Mask`, `..._MASK2` and `Mask_...`
SHEET = "DataWMask.xlsx"
BESIDE = "Data-MoreThanTwoMasks"


def find(files: RawFiles) -> Found:
    """Images by name, class by folder, both compared with the workbook where it is there."""
    ours = [file for file in files.files if BESIDE not in file.folders]
    images = files.images(IMAGE, (file for file in ours if file.name.lower().endswith((".jpg", ".jpeg"))))
    images = images or files.images(IMAGE, (file for file in ours if file.name.lower().endswith(".png")))
    if not images:
        raise NotFoundError("images like MINI-DDSM-Complete-JPEG-8/Cancer/0001/C_0001_1.LEFT_CC.jpg")
    samples = [RawSample(file, _class_folder(file), _case(file), file.stem) for file in images.values()]
    counts = {"cases": len({sample.group for sample in samples})}
    listed = _listed(files)
    if not listed:
        notes = [f"{SHEET} is missing: nothing lists which images there should be"]
        return Found(samples, counts, notes=notes)
    table = f"{SHEET}, sheet Data"
    matched = match(table, listed, images)
    for name, file in matched.images.items():
        if _class_folder(file) != listed[name]:
            raise UserError(f"status of {name} must be that of its folder, got {listed[name]!r} for {file.source!r}")
    return Found(
        [sample for sample in samples if sample.stem.lower() in matched.images],
        counts,
        matched.missing,
        matched.unlabelled,
        notes=matched.notes,
    )


def _class_folder(file: RawFile) -> str:
    names = [folder for folder in file.folders if folder in CLASSES]
    if not names:
        raise UserError(
            f"images must lie in a folder {', '.join(CLASSES)}, got {file.source!r}; keep the tree as it is"
        )
    return names[-1]


def _case(file: RawFile) -> str:
    match_ = re.fullmatch(IMAGE, file.stem, re.IGNORECASE)
    assert match_ is not None
    return match_[1].upper()


def _listed(files: RawFiles) -> dict[str, str]:
    """Class of each image in the workbook; csv exports of it count too. Empty where there is none."""
    for table in candidates(files):
        if BESIDE in table.name or BESIDE in table.folders or table.name.lower().endswith(".txt"):
            continue
        rows = read_table(table, "Data")
        if rows and {"filename", "status"} <= set(rows[0]):
            return {image_id(row["filename"]): row["status"] for row in rows}
    return {}


DATASET = DatasetInfo(
    name="mini_ddsm",
    title="Mini-DDSM",
    classes=CLASSES,
    mean=(0.20267, 0.20267, 0.20267),  # published for the grey channel alone
    std=(0.22467, 0.22467, 0.22467),
    url="https://www.kaggle.com/datasets/cheddad/miniddsm2",
    download=("miniddsm2.zip: 'The Complete Mini-DDSM' (v2; see also https://ardisdataset.github.io/MiniDDSM/)",),
    licence="none stated: cite, do not redistribute",
    citation="Lekamlage et al. 2020 (arXiv 2010.00494); DDSM: Heath et al. 2001",
    group_key="case",
    expected={"total": 7808, "Normal": 2408, "Benign": 2684, "Cancer": 2716, "cases": 1952},
    signature=r"[A-D]_\d{4}_1\.(LEFT|RIGHT)_(CC|MLO)|MINI-DDSM",
    mistaken={"CBIS-DDSM": r"(Calc|Mass)-(Training|Test)_P_\d{5}|(^|/)CBIS-DDSM/"},
    find=find,
)
