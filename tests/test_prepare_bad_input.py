"""What is wrong with a download is one clear line, and nothing half-made stays where a dataset is expected."""

import io
import shutil
import stat
import zipfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import raw_trees
from PIL import Image
from raw_trees import BUILDERS, picture, save, text, workbook

import bench
from benchmarks.prepare import files
from benchmarks.prepare.stage import Stage
from datasets import DATASETS


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Prepares `tmp_path/raw` and expects one line with all of some texts, and no dataset."""

    def check(name: str, *expected: str, options: tuple[str, ...] = ()) -> None:
        (tmp_path / "raw").mkdir(exist_ok=True)
        command = ["prepare", name, "--raw", str(tmp_path / "raw"), "--data-root", str(tmp_path / "data"), *options]
        assert bench.main(command) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("bench.py: ")
        for words in expected:
            assert words in line
        assert not (tmp_path / "data" / name).exists()

    return check


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
    "cmmd": ("D1-0003", "1 of 27 images missing: D1-0003 L;"),
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


def test_corrupt_images_are_named_and_the_others_are_kept(
    refuse: Callable[..., None], raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.covid(raw)
    whole = (raw / "COVID_IEEE/virus/person1_virus_5.jpeg").read_bytes()
    (raw / "COVID_IEEE/virus/person1_virus_5.jpeg").write_bytes(whole[:-200])
    (raw / "COVID_IEEE/covid/empty.png").write_bytes(b"")
    incomplete = ("--allow-incomplete",)
    counts = {"total": 26, "covid": 9, "normal": 8, "virus": 9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "covid", replace(DATASETS["covid"], expected=counts))
        refuse("covid", "images must be readable, got 2 that are not: ", "covid/empty.png", "run the same command")
    (raw / "COVID_IEEE/virus/person1_virus_5.jpeg").write_bytes(whole)
    command = ["prepare", "covid", "--raw", str(raw), "--data-root", str(raw.parent / "data"), *incomplete]
    assert bench.main(command) == 0
    assert "(1 converted now)" in capsys.readouterr().out
    assert '"reason": "unreadable"' in (raw.parent / "data/covid/manifest.json").read_text()


def test_a_bomb_of_an_image(refuse: Callable[..., None], raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw_trees.chncxr(raw)
    monkeypatch.setattr("benchmarks.prepare.raw._check_complete", lambda info, found: None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    refuse("chncxr", "images must be readable, got 13 that are not", "decompression bomb")


def zipped(raw: Path, member: str | zipfile.ZipInfo, data: bytes = b"x") -> Path:
    raw_trees.chncxr(raw)
    with zipfile.ZipFile(raw / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
    return raw / "bad.zip"


@pytest.mark.parametrize(
    "member", ["../climbs.png", "a/../../climbs.png", "/etc/climbs.png", "C:\\climbs", "..\\climbs"]
)
def test_an_archive_that_climbs_out(refuse: Callable[..., None], raw: Path, member: str) -> None:
    zipped(raw, member)
    refuse("chncxr", "archive must keep its members inside, got ", "in 'bad.zip'; download it from its source")


def test_an_archive_with_links(refuse: Callable[..., None], raw: Path) -> None:
    link = zipfile.ZipInfo("CHNCXR_0001_0.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped(raw, link, b"/etc/passwd")
    refuse("chncxr", "archive must hold no links, got 'CHNCXR_0001_0.png' in 'bad.zip'")


def test_an_archive_that_is_a_bomb(refuse: Callable[..., None], raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_RATIO_MATTERS_BYTES", 100_000)
    zipped(raw, "zeros.png", bytes(1_000_000))
    refuse("chncxr", "archive must not be a decompression bomb (", "bytes that become 1,000,000), got 'zeros.png'")


def test_an_encrypted_archive(refuse: Callable[..., None], raw: Path) -> None:
    path = zipped(raw, "secret.png")
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refuse("chncxr", "archive must not be encrypted, got 'secret.png' in 'bad.zip'")


def test_an_archive_cut_short(refuse: Callable[..., None], raw: Path) -> None:
    path = zipped(raw, "whole.png", b"x" * 1000)
    path.write_bytes(path.read_bytes()[:-30])
    refuse("chncxr", "archive must be a complete zip file, got 'bad.zip'", "download it again")


def test_a_member_that_is_damaged(refuse: Callable[..., None], raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    picture(1).save(buffer, "PNG")
    path = zipped(raw, zipfile.ZipInfo("CHNCXR_0009_0.png"), buffer.getvalue())
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAX"))
    monkeypatch.setattr("benchmarks.prepare.raw._check_complete", lambda info, found: None)
    refuse("chncxr", "1 that are not: bad.zip!/CHNCXR_0009_0.png (archive must be readable, got", "Bad CRC-32")


def test_two_different_images_of_one_name(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.chncxr(raw)
    save(picture(1, width=90), raw / "other" / "CHNCXR_0001_0.png")
    refuse("chncxr", "image CHNCXR_0001_0 must be there once, got", "remove one of them from")


def test_a_raw_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["prepare", "covid", "--raw", str(tmp_path / "no"), "--data-root", str(tmp_path)]) == 2
    assert "--raw must be the folder of the download, got" in capsys.readouterr().err
    assert bench.main(["prepare", "cov", "--raw", str(tmp_path)]) == 2
    assert "dataset must be one of messidor2, ddr, " in (line := capsys.readouterr().err)
    assert "did you mean covid?" in line and "demo" not in line


def test_a_full_disk(refuse: Callable[..., None], raw: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw_trees.chncxr(raw)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30, 2**20))
        refuse(
            "chncxr", "disk must have 0.1 GiB free in", "got 0.0 GiB; free some space", options=("--allow-incomplete",)
        )
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail_after(4))
        refuse(
            "chncxr",
            "cannot be converted: [Errno 28] No space left",
            "so far are kept",
            options=("--allow-incomplete",),
        )
    kept = (tmp_path / "data/.chncxr.partial/journal.jsonl").read_text().count("\n")
    assert 0 < kept < 13


def fail_after(count: int) -> Callable[[Path, bytes], int]:
    left = iter(range(count))
    write = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        return write(path, data)

    return write_bytes


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_trees.chncxr(raw)
    mine = save(picture(1), tmp_path / "data/chncxr/train/normal/1.png")
    for options in ([], ["--overwrite"]):
        command = ["prepare", "chncxr", "--raw", str(raw), "--data-root", str(tmp_path / "data"), *options]
        assert bench.main(command) == 2
        assert "must be absent or made by bench.py prepare, got a folder without a manifest" in capsys.readouterr().err
    assert mine.is_file()


def test_two_at_a_time_do_not_mix(refuse: Callable[..., None], raw: Path, tmp_path: Path) -> None:
    raw_trees.chncxr(raw)
    with Stage(tmp_path / "data/chncxr", {}):
        refuse("chncxr", "chncxr is being prepared by another process; wait for it", options=("--allow-incomplete",))
