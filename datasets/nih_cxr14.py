"""NIH ChestX-ray14: frontal chest radiographs with fourteen findings, mined from reports; official splits by patient.

From memory, not checked against the download: the two lists of the official split, and their lengths. Validation is
taken from the official training list, by patient, as nobody publishes one. What a report does not mention counts as
absent, as the publisher's table has it.
"""

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.match import image_id, match
from benchmarks.raw.tables import NotFoundError, one_table, read_table
from datasets.info import DatasetInfo, Found, RawSample, finding_label

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
NOTHING = "No Finding"
LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}


def find(files: RawFiles) -> Found:
    """Images of both official lists, with findings and patients from the table of entries."""
    table = one_table(files, "Data_Entry_2017.csv", ("image index",), ("finding labels",), ("patient id",))
    rows = {image_id(row["image index"]): row for row in read_table(table)}
    splits: dict[str, str] = {}
    counts = {}
    for name, split in LISTS.items():
        listed = _read_list(files, name)
        counts[name] = len(listed)
        both = splits.keys() & listed
        if both:
            raise UserError(
                f"lists of the official split must share no image, got {min(both)!r} in both; use the original"
            )
        splits |= dict.fromkeys(listed, split)
    lost = sorted(splits.keys() - rows.keys())
    if lost:
        raise UserError(
            f"images of the official split must be in {table.source!r}, got {len(lost)} that are not: {lost[0]!r}; use "
            "the original table"
        )
    matched = match(table.source, splits, files.images(r"\d{8}_\d{3}"))
    samples = [
        RawSample(file, _label(rows[name], table), rows[name]["patient id"], file.stem, splits[name])
        for name, file in matched.images.items()
    ]
    return Found(samples, counts | {"table": len(rows)}, matched.missing, matched.unlabelled, notes=matched.notes)


def _read_list(files: RawFiles, name: str) -> list[str]:
    file = next((file for file in files.files if file.name.lower() == name), None)
    if file is None:
        raise NotFoundError(f"{name} (the official split)")
    lines = file.read().decode("utf-8-sig", errors="replace").split()
    return [image_id(line) for line in lines]


def _label(row: dict[str, str], table: RawFile) -> str:
    names = [name.strip() for name in row["finding labels"].split("|")]
    unknown = [name for name in names if name not in (*FINDINGS, NOTHING)]
    if unknown:
        raise UserError(
            f"findings must be of the fourteen, got {unknown[0]!r} in {table.source!r}; use the original table"
        )
    return finding_label([name for name in FINDINGS if name in names])


DATASET = DatasetInfo(
    name="nih_cxr14",
    title="NIH ChestX-ray14",
    classes=FINDINGS,
    findings=True,
    mean=None,
    std=None,
    url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    download=("images_001.tar.gz to images_012.tar.gz, unpacked", "Data_Entry_2017.csv", *LISTS),
    licence="no restriction stated; cite, and name the NIH Clinical Center",
    citation="Wang et al., ChestX-ray8, CVPR 2017",
    group_key="patient",
    official=("train", "test"),
    expected={"total": 112120, "train_val_list.txt": 86524, "test_list.txt": 25596},
    signature=r"(^|/)\d{8}_\d{3}\.png|Data_Entry_2017|train_val_list\.txt",
    find=find,
)
