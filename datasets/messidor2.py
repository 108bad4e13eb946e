"""Messidor-2: fundus photographs, five grades of diabetic retinopathy (0 none to 4 proliferative).

Two eyes of one patient make an exam, and only `messidor-2.csv` says which two: file names that share a date or a prefix
are those of other patients. Four images are ungradable and left out; their fellow eyes stay.
"""

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFiles
from benchmarks.raw.match import image_id, match
from benchmarks.raw.tables import NotFoundError, Row, find_tables, one_table, read_table
from datasets.info import DatasetInfo, Found, RawSample

IMAGE = r"\d{8}_\d{5}_\d{4}_PP|IM\d{6}"
ID_COLUMNS = ("image_id", "id_code")
GRADE_COLUMNS = ("adjudicated_dr_grade", "diagnosis")
PAIRS_URL = "https://www.adcis.net/en/third-party/messidor2/ ('Pairs left eye / right eye')"


def find(files: RawFiles) -> Found:
    """Images by name, grades by image, exams by pair."""
    table = one_table(files, "the grades messidor_data.csv", ID_COLUMNS, GRADE_COLUMNS)
    images = files.images(IMAGE)
    if not images:
        raise NotFoundError("images like 20051020_43808_0100_PP.png or IM004832.JPG")
    grades = {_id(row, ID_COLUMNS): _grade(row, table.source) for row in read_table(table)}
    matched = match(table.source, [_id(row, ID_COLUMNS) for row in read_table(table)], images)
    exams = _exams(files)
    samples = [
        RawSample(file, grades[name], exams.get(name, f"image-{name}"), file.stem)
        for name, file in matched.images.items()
        if grades[name]
    ]
    excluded = {file.source: "ungradable" for name, file in matched.images.items() if not grades[name]}
    unpaired = [name for name in matched.images if name not in exams]
    notes = matched.notes
    if any(file.stem.upper().startswith("IM") and file.name.lower().endswith(".png") for file in images.values()):
        notes.append("images named IM... are PNG, not the original JPEG: this is a preprocessed mirror")
    return Found(
        samples,
        {"images listed": len(grades)} | ({"images in pairs": len(exams)} if exams else {}),
        [name for name in matched.missing if grades[name]],
        matched.unlabelled,
        excluded,
        notes,
        ungrouped=_ungrouped(exams, unpaired),
    )


def _id(row: Row, columns: tuple[str, ...]) -> str:
    return image_id(next(row[column] for column in columns if column in row))


def _grade(row: Row, table: str) -> str:
    """The grade, written as an integer or as a float; empty where the image is ungradable."""
    text = next(row[column] for column in GRADE_COLUMNS if column in row)
    gradable = row.get("adjudicated_gradable", "1")
    if not text or gradable in ("0", "0.0"):
        return ""
    try:
        grade = float(text)
    except ValueError:
        grade = -1.0
    if grade not in (0, 1, 2, 3, 4):
        raise UserError(f"grade must be 0 to 4 or empty, got {text!r} in {table!r}; use the original table")
    return str(int(grade))


def _exams(files: RawFiles) -> dict[str, str]:
    """The exam of each image, from the table of pairs."""
    tables = find_tables(files, ("left",), ("right",))
    exams: dict[str, str] = {}
    for row in read_table(tables[0]) if tables else []:
        names = [image_id(row[side]) for side in ("left", "right") if row[side]]
        for name in names:
            if name in exams:
                raise UserError(f"pairs must list each image once, got {name!r} twice in {tables[0].source!r}")
            exams[name] = f"exam-{names[0]}"
    return exams


def _ungrouped(exams: dict[str, str], unpaired: list[str]) -> str:
    if not exams:
        return f"messidor-2.csv, which pairs the eyes of a patient, is missing: download it from {PAIRS_URL}"
    if unpaired:
        return f"messidor-2.csv pairs all images but {len(unpaired)}: {', '.join(unpaired[:5])}; download it again"
    return ""


DATASET = DatasetInfo(
    name="messidor2",
    title="Messidor-2",
    classes=("0", "1", "2", "3", "4"),
    ordered=True,
    mean=(0.4844, 0.2238, 0.0758),
    std=(0.2939, 0.1472, 0.0635),
    url="https://www.adcis.net/en/third-party/messidor2/",
    download=(
        "IMAGES.zip.001 to .004 (form, then a code by e-mail)",
        "messidor-2.csv ('Pairs left eye / right eye', same page)",
        "messidor_data.csv from https://www.kaggle.com/datasets/google-brain/messidor2-dr-grades",
    ),
    parts={"IMAGES.zip": 4},
    licence="research and education only, no redistribution",
    citation="Decencière et al. 2014; Abràmoff et al. 2013; grades: Krause et al. 2018",
    group_key="exam",
    expected={"total": 1744, "0": 1017, "1": 270, "2": 347, "3": 75, "4": 35}
    | {"images listed": 1748, "images in pairs": 1748},
    mistaken={"EyePACS": r"(^|/)\d+_(left|right)\.jpe?g", "APTOS 2019": r"(^|/)[0-9a-f]{12}\.png"},
    signature=r"\d{8}_\d{5}_\d{4}_PP\.(png|tif)|IM\d{6}\.jpg|messidor[-_]",
    find=find,
)
