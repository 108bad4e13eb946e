"""CheXpert: chest radiographs with fourteen observations, mined from reports; uncertain ones are kept as such.

From memory, not checked against the download: the layout of both forms (full and small), and the numbers of rows. The
official validation images, read by radiologists, are the test split here, as those of the competition came later and
apart; validation is taken from the training images, by patient. What a report does not mention counts as absent, as in
the authors' baselines; what it leaves uncertain is -1, and a run says by --uncertain what that is in training.
"""

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.tables import NotFoundError, find_tables, read_table
from datasets.info import DatasetInfo, Found, RawSample, finding_label

OBSERVATIONS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
TABLES = {"train.csv": "train", "valid.csv": "test"}
MEANT = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}


def find(files: RawFiles) -> Found:
    """Images of both tables; a patient is a folder."""
    tables = {file.name.lower(): file for file in find_tables(files, ("path",), ("pleural effusion",))}
    absent = [name for name in TABLES if name not in tables]
    if absent:
        raise NotFoundError(f"{', '.join(absent)} (with the columns Path and those of the observations)")
    images = {_key("/".join((*file.folders, file.name))): file for file in files.files if file.folders[-3:-2]}
    samples: list[RawSample] = []
    missing: list[str] = []
    counts = {}
    for name, split in TABLES.items():
        rows = read_table(tables[name])
        counts[name] = len(rows)
        for row in rows:
            key = _key(row["path"])
            if key not in images:
                missing.append(key)
                continue
            _, patient, study, view = key.split("/")
            stem = "_".join((patient, study, view.partition(".")[0]))
            samples.append(RawSample(images[key], _label(row, tables[name]), patient, stem, split))
    if not samples:
        raise NotFoundError("images as train/patient00001/study1/view1_frontal.jpg")
    return Found(samples, counts, missing)


def _key(path: str) -> str:
    """`train/patient00001/study1/view1_frontal.jpg`, whatever stands before it."""
    return "/".join(path.replace("\\", "/").lower().split("/")[-4:])


def _label(row: dict[str, str], table: RawFile) -> str:
    said = {}
    for name in OBSERVATIONS:
        text = row.get(name.lower(), "")
        if text not in MEANT:
            raise UserError(
                f"observations must be 1, 0, -1 or nothing, got {text!r} in {table.source!r}; use the original"
            )
        said[name] = MEANT[text]
    return finding_label(
        [name for name, value in said.items() if value == 1], [name for name, value in said.items() if value == -1]
    )


DATASET = DatasetInfo(
    name="chexpert",
    title="CheXpert",
    classes=OBSERVATIONS,
    findings=True,
    mean=None,
    std=None,
    url="https://stanfordmlgroup.github.io/competitions/chexpert/",
    download=("CheXpert-v1.0-small.zip, or the whole CheXpert-v1.0 (a form and terms of Stanford)",),
    licence="Stanford University Dataset Research Use Agreement: no redistribution",
    citation="Irvin et al., CheXpert, AAAI 2019, arXiv 1901.07031",
    group_key="patient",
    official=("train", "test"),
    expected={"total": 223648, "train.csv": 223414, "valid.csv": 234},
    signature=r"CheXpert-v1\.0|patient\d{5}/study\d+/view\d",
    find=find,
)
