"""A download that is another, incomplete, or labelled wrongly is one clear line, and leaves no dataset."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import raw_trees
from prepared_trees import refused
from raw_trees import BUILDERS, picture, save, text, workbook

import bench
from datasets import DATASETS


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    return functools.partial(refused, tmp_path, capsys)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_found(refuse: Callable[..., None], raw: Path, name: str) -> None:
    text(raw / "notes.md", ["nothing"])
    info = DATASETS[name]
    refuse(name, f"raw folder of {name} must hold ", "not found among 1 files below", info.url, info.download[0])


@pytest.mark.parametrize("name", BUILDERS)
def test_another_dataset_is_named(refuse: Callable[..., None], raw: Path, name: str) -> None:
    for other in BUILDERS:
        if other != name:
            BUILDERS[other](raw)
            refuse(name, f"it looks like {other}: bench.py prepare {other} --raw {raw}")
            shutil.rmtree(raw)


MISSING = {
    "messidor2": ("IM004041.JPG", "1 of 59 images missing: im004041;"),
    "ddr": ("DR_grading/train/007-0000-000.jpg", "1 of 26 images missing: train/007-0000-000;"),
    "isic2016": ("ISBI2016_ISIC_Part3_Training_Data/ISIC_0000007.jpg", "1 of 32 images missing: isic_0000007;"),
    "isic2018": ("ISIC_0024307.jpg", "1 of 42 images missing: isic_0024307;"),
    "mini_ddsm": ("JPEG-8/Cancer/0001/C_0001_1.LEFT_CC.jpg", "1 of 48 images missing: c_0001_1.left_cc;"),
    "cmmd": ("D1-0003", "2 of 28 images missing: D1-0003 L CC, D1-0003 L MLO;"),
    "chncxr": (
        "CXR_png/CHNCXR_0002_0.png",
        "650 of 662 images missing: CHNCXR_0002_0, CHNCXR_0007_0, CHNCXR_0008_0, CHNCXR_0009_0, CHNCXR_0010_0, ...;",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_an_incomplete_download_says_what_is_missing(refuse: Callable[..., None], raw: Path, name: str) -> None:
    BUILDERS[name](raw)
    gone, message = MISSING[name]
    for path in [path for path in raw.rglob("*") if path.as_posix().endswith(gone)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    refuse(name, f"{name} must be complete, got {message}", "--allow-incomplete")


def test_an_incomplete_copy_of_covid_shows_in_its_counts(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.covid(raw)
    refuse("covid", "counts of covid must be as published, got total 25 instead of 1,823, covid 8 instead of 536")


def test_eyepacs_labels_are_not_those_of_messidor2(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.messidor2(raw)
    text(raw / "messidor_data.csv", ["image,level", "10_left,0"])
    refuse("messidor2", "must hold the grades messidor_data.csv", "'messidor_data.csv' with image,level")
    text(raw / "messidor_data.csv", ["id_code,diagnosis", "10_left,0", "10_right,0"])
    refuse(
        "messidor2", "must be names of the images, got 10_left, 10_right there, but images 20051020_43815", "another"
    )


def test_grades_out_of_range(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.messidor2(raw)
    text(raw / "messidor_data.csv", ["id_code,diagnosis", "IM004041.jpg,5"])
    refuse("messidor2", "grade must be 0 to 4 or empty, got '5' in 'messidor_data.csv'")


def test_images_without_a_label_are_named(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.messidor2(raw)
    save(picture(1), raw / "IMAGES" / "IM009999.JPG", "JPEG")
    refuse("messidor2", "must all be in its label table, got 1 that are not: IMAGES/IM009999.JPG; take")


def test_without_the_pairs_messidor2_needs_the_users_word(
    refuse: Callable[..., None], raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.messidor2(raw)
    pairs = (raw / "messidor-2.csv").read_text()
    (raw / "messidor-2.csv").write_text("\n".join(pairs.splitlines()[:-4]))
    incomplete = ("--allow-incomplete",)
    refuse("messidor2", "pairs all images but 4: im004057, im004058, im004059, im004060; download", options=incomplete)
    (raw / "messidor-2.csv").unlink()
    refuse("messidor2", "must be split by exam: messidor-2.csv, which pairs", "third-party", options=incomplete)
    command = ["prepare", "messidor2", "--raw", str(raw), "--data-root", str(raw.parent / "data"), "--image-level"]
    assert bench.main([*command, *incomplete]) == 0
    assert "59 groups (image)" in capsys.readouterr().out


def test_an_image_listed_twice(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.messidor2(raw)
    pairs = (raw / "messidor-2.csv").read_text()
    (raw / "messidor-2.csv").write_text(pairs + "IM004041.JPG;IM004041.JPG\n")
    refuse("messidor2", "pairs must list each image once, got 'im004041' twice in 'messidor-2.csv'")
    grades = (raw / "messidor_data.csv").read_text()
    (raw / "messidor-2.csv").write_text(pairs)
    (raw / "messidor_data.csv").write_text(grades + "IM004041.JPG,0,0,1\n")
    refuse("messidor2", "label table must list each image once, got 'im004041' twice in 'messidor_data.csv'")


def test_a_split_archive_must_be_joined(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.messidor2(raw)
    shutil.rmtree(raw / "IMAGES")
    for number in (1, 2, 4):
        (raw / f"IMAGES.zip.00{number}").write_bytes(b"part")
    archive = raw / "IMAGES.zip"
    refuse(
        "messidor2",
        "must hold images like 20051020_43808_0100_PP.png",
        "parts 003 of 'IMAGES.zip' are missing: download them",
        f"join the parts first: cat {archive}.0* > {archive}",
    )


def test_other_archives_must_be_unpacked(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.messidor2(raw)
    shutil.rmtree(raw / "IMAGES")
    (raw / "IMAGES.7z").write_bytes(b"7z")
    refuse("messidor2", "unpack 'IMAGES.7z' first: zip archives alone are read in place")


def test_mirrors_that_lost_something(refuse: Callable[..., None], raw: Path) -> None:
    text(raw / "DR_grading.csv", ["id_code,diagnosis", "007-0004-000.jpg,0"])
    refuse("ddr", "DDR must be the original with train.txt, valid.txt and test.txt, got a table id_code,diagnosis")
    shutil.rmtree(raw)
    for name in ("covid", "normal", "virus", "bacteria"):
        save(picture(1), raw / "COVID_IEEE" / "train" / name / "1.png")
    refuse("covid", "class folders must be exactly covid, normal, virus, got bacteria, covid, normal, virus in")
    shutil.rmtree(raw)
    raw_trees.isic2016(raw)
    (raw / "ISBI2016_ISIC_Part3_Training_GroundTruth.csv").unlink()
    refuse("isic2016", "must hold ISBI2016_ISIC_Part3_Training_GroundTruth.csv (Part3B is another task")


@pytest.mark.parametrize(
    ("name", "table", "lines", "message"),
    [
        ("ddr", "DDR-dataset/DR_grading/train.txt", ["007-0000-000.jpg 7"], "must be '<image> <grade 0 to 5>', got '0"),
        ("ddr", "DDR-dataset/DR_grading/train.txt", ["a.jpg 1", "a.jpg 1"], "line 2 of 'DDR-dataset/DR_grading/train."),
        (
            "ddr",
            "DDR-dataset/DR_grading/train.txt",
            ["a.jpg 1"],
            "must be names of the images, got a there, but images",
        ),
        (
            "isic2016",
            "ISBI2016_ISIC_Part3_Test_GroundTruth.csv",
            ["ISIC_0000003,0", "ISIC_0000010,maybe"],
            "must be an image and one of benign, malignant, 0, 1, 0.0, 1.0, got 'ISIC_0000010,maybe'; use",
        ),
        (
            "isic2016",
            "ISBI2016_ISIC_Part3_Test_GroundTruth.csv",
            ["ISIC_0000000,0"],
            "image isic_0000000 must be listed once, got it again in 'ISBI2016_ISIC_Part3_Test_GroundTruth.csv'",
        ),
        (
            "isic2018",
            "ISIC2018_Task3_Test_Copy.csv",
            ["image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "ISIC_0034600,1,1,0,0,0,0,0"],
            "each row must mark one class, got ['MEL', 'NV'] for 'ISIC_0034600' in 'ISIC2018_Task3_Test_Copy.csv'",
        ),
        (
            "isic2018",
            "labels.csv",
            ["image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "ISIC_0034600,1,0,0,0,0,0,0"],
            "name of a ground truth must say Training, Validation or Test, got 'labels.csv'",
        ),
        (
            "isic2018",
            "ISIC2018_Task3_Test_Copy.csv",
            ["image_id,dx", "ISIC_0024307,mel"],
            "must have one label and one split, got",
        ),
        ("isic2018", "HAM10000_metadata", ["lesion_id\timage_id\tdx", "h\tISIC_1\tno"], "dx must be one of MEL, NV"),
        (
            "cmmd",
            "CMMD_clinicaldata_revision.csv",
            ["ID1;LeftRight;classification", "D1-0001;L;unknown"],
            "must be one table with the columns id1, leftright, classification, got 'CMMD_clinicaldata_revision.csv' ",
        ),
    ],
)
def test_wrong_label_files(
    refuse: Callable[..., None], raw: Path, name: str, table: str, lines: list[str], message: str
) -> None:
    BUILDERS[name](raw)
    text(raw / table, lines)
    refuse(name, message)


def test_a_spreadsheet_of_others_and_one_that_is_damaged(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.cmmd(raw)
    sheet = raw / "CMMD_clinicaldata_revision.xlsx"
    header = ["ID1", "LeftRight", "classification"]
    workbook(sheet, "Sheet1", [header, ["D9-0001", "L", "Benign"]])
    refuse("cmmd", "patients of 'CMMD_clinicaldata_revision.xlsx' must be those of the images, got D9-0001 there, but")
    workbook(sheet, "Sheet1", [header, ["D1-0001", "L", "Unsure"]])
    refuse("cmmd", "rows must be one patient and side with Benign or Malignant, got 'D1-0001', 'L', 'Unsure'")
    sheet.write_bytes(sheet.read_bytes()[:200])
    refuse("cmmd", "must hold CMMD_clinicaldata_revision.xlsx (a table with the columns id1, leftright, classificat")


def test_a_spreadsheet_saved_as_csv_serves_too(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_trees.cmmd(raw)
    (raw / "CMMD_clinicaldata_revision.xlsx").unlink()
    rows = [f"D{1 + n % 2}-{n + 1:04};L;45;2;mass;{('Benign', 'Malignant')[n % 2]};" for n in range(12)]
    text(raw / "clinical.csv", ["\ufeffID1;LeftRight;Age;number;abnormality;classification;subtype", *rows])
    command = ["prepare", "cmmd", "--raw", str(raw), "--data-root", str(raw.parent / "data"), "--allow-incomplete"]
    assert bench.main(command) == 0
    assert "24 images in" in capsys.readouterr().out


def test_a_dicom_header_without_a_side(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.cmmd(raw)
    raw_trees.write_dicom(raw / "1-9.dcm", 1, "", "", "CC", 0)
    refuse("cmmd", "DICOM header must name patient and side (L or R), got '' and '' in '1-9.dcm'")
    (raw / "1-9.dcm").write_bytes(b"not DICOM at all")
    refuse("cmmd", "DICOM must be readable, got '1-9.dcm'", "download it again")


def test_folder_and_workbook_of_mini_ddsm_must_agree(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.mini_ddsm(raw)
    cancer, normal = (raw / "MINI-DDSM-Complete-JPEG-8" / name / "0001" for name in ("Cancer", "Normal"))
    (cancer / "C_0001_1.LEFT_CC.jpg").rename(normal / "C_0001_1.LEFT_CC.jpg")
    refuse("mini_ddsm", "status of c_0001_1.left_cc must be that of its folder, got 'Cancer' for 'MINI-DDSM")
    (normal / "C_0001_1.LEFT_CC.jpg").rename(raw / "C_0001_1.LEFT_CC.jpg")
    refuse("mini_ddsm", "images must lie in a folder Normal, Benign, Cancer, got 'C_0001_1.LEFT_CC.jpg'")


def test_messidor2_without_its_pairs_asks_for_them_and_blames_no_count(
    refuse: Callable[..., None], raw: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_trees.messidor2(raw)
    counts = {"total": 59, **raw_trees.EXPECTED["messidor2"][0], "images listed": 60, "images in pairs": 60}
    monkeypatch.setitem(DATASETS, "messidor2", replace(DATASETS["messidor2"], expected=counts))
    (raw / "messidor-2.csv").unlink()
    refuse(
        "messidor2", "messidor2 must be split by exam: messidor-2.csv, which pairs the eyes of a patient, is missing"
    )
    command = ["prepare", "messidor2", "--raw", str(raw), "--data-root", str(raw.parent / "data")]
    assert bench.main([*command, "--image-level"]) == 0  # all else is there
    assert "counts" not in capsys.readouterr().out


def test_cmmd_counts_images_that_are_gone_not_breasts(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.cmmd(raw)
    home = raw / "manifest-1616439774456/CMMD"
    gone = [sorted((home / "D1-0003").rglob("*.dcm"))[0], sorted((home / "D2-0002").rglob("*.dcm"))[1]]
    gone += [*(home / "D1-0005").rglob("*.dcm"), sorted((home / "D1-0007").rglob("*.dcm"))[0]]
    assert len(gone) == 5
    for path in gone:
        path.unlink()
    refuse(
        "cmmd", "cmmd must be complete, got 5 of 28 images missing: ", "D2-0002 L MLO", "D1-0005 L CC, D1-0005 L MLO"
    )


def test_a_montgomery_folder_given_as_chncxr_is_named(refuse: Callable[..., None], raw: Path) -> None:
    save(picture(1, "L"), raw / "MontgomerySet" / "CXR_png" / "MCUCXR_0001_0.png")
    refuse(
        "chncxr", "it looks like the Montgomery set ('MontgomerySet/CXR_png/MCUCXR_0001_0.png'), which is another set"
    )


@pytest.mark.parametrize(
    ("name", "file", "other"),
    [
        ("messidor2", "train/10_left.jpeg", "EyePACS"),
        ("messidor2", "train_images/000c1434d8d7.png", "APTOS 2019"),
        ("mini_ddsm", "Mass-Training_P_00001_LEFT_CC/1-1.dcm", "CBIS-DDSM"),
    ],
)
def test_sets_that_are_taken_for_another_are_named(
    refuse: Callable[..., None], raw: Path, name: str, file: str, other: str
) -> None:
    save(picture(1), raw / file, "PNG")
    refuse(name, f"it looks like {other} ('{file}'), which is another set")


def test_an_emptied_class_of_an_official_split_gets_no_advice_about_groups(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.ddr(raw)
    table = raw / "DDR-dataset/DR_grading/test.txt"
    text(table, [line for line in table.read_text().splitlines() if not line.endswith(" 3")])
    command = ["prepare", "ddr", "--raw", str(raw), "--data-root", str(raw.parent / "data"), "--allow-incomplete"]
    assert bench.main(command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "got none in test/3; of an official split all must be there: finish the download (https" in line
    assert "groups" not in line


def test_chncxr_takes_its_own_folder_where_a_copy_in_other_bytes_stands_elsewhere(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.chncxr(raw)
    (own,) = raw.rglob("CXR_png/CHNCXR_0003_0.png")
    for place in ("a", "z"):
        save(picture(9, width=90), raw / place / own.name)
    command = ["prepare", "chncxr", "--raw", str(raw), "--data-root", str(raw.parent / "data"), "--allow-incomplete"]
    assert bench.main(command) == 0
    (made,) = (raw.parent / "data").rglob(own.name)
    assert made.read_bytes() == own.read_bytes()


def test_allow_incomplete_names_what_was_left_out_and_why(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_trees.messidor2(raw)
    (raw / "IMAGES" / "IM004041.JPG").unlink()
    save(picture(1), raw / "IMAGES" / "IM009999.JPG", "JPEG")
    command = ["prepare", "messidor2", "--raw", str(raw), "--data-root", str(raw.parent / "data"), "--allow-incomplete"]
    assert bench.main(command) == 0
    said = capsys.readouterr().out
    assert "  left out, missing: 1 (im004041)\n" in said
    assert "  left out, not labelled: 1 (IMAGES/IM009999.JPG)\n" in said
    assert "  left out, ungradable: 1 (IMAGES/" in said
    raw_trees.chncxr(raw.parent / "more")
    command[1], command[3] = "chncxr", str(raw.parent / "more")
    assert bench.main(command) == 0
    assert "  left out, missing: 649 (CHNCXR_0007_0, " in (said := capsys.readouterr().out)
    assert ", ... all in manifest.json)" in said


def test_a_header_that_cannot_be_read_is_an_image_that_cannot(
    refuse: Callable[..., None], raw: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_trees.cmmd(raw)
    counts = {"total": 28, "Benign": 16, "Malignant": 12, "DICOM images": 32, "labelled breasts": 14}
    monkeypatch.setitem(DATASETS, "cmmd", replace(DATASETS["cmmd"], expected=counts))
    path = sorted((raw / "manifest-1616439774456/CMMD/D1-0003").rglob("*.dcm"))[0]
    path.write_bytes(path.read_bytes()[:90])
    refuse("cmmd", "images must be readable, got 1 that are not: manifest", "leave them out with --skip-unreadable")
    command = ["prepare", "cmmd", "--raw", str(raw), "--data-root", str(raw.parent / "data"), "--skip-unreadable"]
    assert bench.main(command) == 0
    said = capsys.readouterr().out
    assert "27 images in" in said and "left out, unreadable: 1 (manifest" in said
