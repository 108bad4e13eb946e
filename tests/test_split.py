"""bench.py split on five kinds of folders: groups never span splits, every class is everywhere, nothing is copied."""

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from own_folders import CLASSES, KINDS, PATIENTS, class_folders, each, given_test, noise, table
from prepared_trees import about, rows

import bench
from benchmarks.choices import SPLITS
from benchmarks.data.dataset import open_dataset
from benchmarks.errors import UserError
from benchmarks.prepare.splits import Item, assign, assign_folds


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def split(source: Path, *options: str) -> int:
    return bench.main(["split", str(source), *options])


def refused(capsys: pytest.CaptureFixture[str], source: Path, *options: str) -> str:
    """The one line of a split that is refused and leaves nothing behind."""
    capsys.readouterr()
    assert split(source, *options) == 2
    assert not Path("data/own-split").exists() and not list(Path().glob("data/.*"))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench.py: ")
    return line


def patient_of(row: dict[str, str]) -> int:
    """By the seed of the image, or the patient in its name: what the code under test does not know."""
    stem = Path(row["source"]).stem
    if "patient" in row["source"]:
        return int(row["source"].split("/")[1].removeprefix("patient"))
    return int(stem.split("_")[0]) if "_" in stem else int(stem.removeprefix("IMG")) // 2


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_folder_becomes_a_dataset_by_links(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options = KINDS[kind]
    source = make(folder)
    assert split(source, *options) == 0
    made, root = rows(folder / "data/own-split"), folder / "data/own-split"
    assert len(made) == len(each())
    of_patient = defaultdict(set)
    for row in made:
        of_patient[patient_of(row)].add((row["split"], row["group"]))
    assert len(of_patient) == 2 * PATIENTS and all(len(places) == 1 for places in of_patient.values())
    assert len({group for ((_, group),) in of_patient.values()}) == 2 * PATIENTS
    counts = Counter((row["split"], row["class"]) for row in made)
    assert set(counts) == {(part, name) for part in SPLITS for name in CLASSES}
    assert all(counts["test", name] in (4, 6) for name in CLASSES)  # of 24
    assert all((root / row["path"]).is_symlink() for row in made)
    dataset = open_dataset("own-split", folder / "data", folder / "cache")
    assert dataset.classes == CLASSES and dataset.split_origin is not None
    assert dataset.split_origin.digest == about(root)["split"]["digest"]
    said = capsys.readouterr()
    assert f"24 of {len(made)} images, 2 to 2 each; 0 hold several classes" in said.err
    assert "24 groups" in said.out and "none in two splits" in said.out
    if kind == "a test split":
        tested = {patient_of(row) for row in made if row["split"] == "test"}
        assert tested == {0, 1, PATIENTS, PATIENTS + 1} and "test  (user)" in said.out
    if kind == "DICOM":
        assert dataset.bit_depth == 12
    assert split(source, *options) == 0 and "already there" in capsys.readouterr().out
    assert bench.main(["check", "own-split", "--format", "json"]) == 0


def test_groups_are_shown_before_anything_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = class_folders(folder)
    assert split(source, "--group-pattern", r"_(\d)", "--dry-run") == 0
    said = capsys.readouterr()
    assert said.out == "" and not Path("data").exists()
    assert said.err.splitlines() == [
        r"groups by pattern _(\d) in names: 2 of 48 images, 24 to 24 each; 2 hold several classes",
        "  0: benign/0_0.png, benign/10_0.png, benign/11_0.png, ...",
        "  1: benign/0_1.png, benign/10_1.png, benign/11_1.png, ...",
        "  that is few: see whether it tells patients apart",
    ]
    assert split(source, "--image-level", "--dry-run") == 0
    assert "each image is its own group: where patients have several images" in capsys.readouterr().err


def test_folds_test_each_patient_once(folder: Path) -> None:
    assert split(class_folders(folder), "--group-pattern", r"(\d+)_", "--folds", "4") == 0
    tested: Counter[int] = Counter()
    for number in range(1, 5):
        made = rows(folder / f"data/own-split-fold{number}")
        places = defaultdict(set)
        for row in made:
            places[patient_of(row)].add(row["split"])
        assert all(len(splits) == 1 for splits in places.values()) and len(made) == len(each())
        tested.update(patient for patient, splits in places.items() if splits == {"test"})
        assert {row["split"] for row in made} == set(SPLITS)
    assert tested == Counter(range(2 * PATIENTS))


def test_folds_and_shares_by_a_naive_count() -> None:
    draw = random.Random(0)
    sizes = [(label, draw.randint(1, 4)) for label in (0, 1, 1, 2, 2, 2) for _ in range(40)]
    items = [
        Item(f"{group}-{number}", label, str(group), f"{group}-{number}", None)
        for group, (label, size) in enumerate(sizes)
        for number in range(size)
    ]
    total = Counter(item.label for item in items)
    folds = assign_folds(items, 5, 0.1, 3)
    for made in folds:
        counts = Counter((made.splits[item.key], item.label) for item in items)
        for label, number in total.items():
            assert counts["test", label] == pytest.approx(number / 5, abs=4)
            assert counts["val", label] == pytest.approx(number / 10, abs=4)
    assert [made.splits for made in assign_folds(items[::-1], 5, 0.1, 3)] == [made.splits for made in folds]
    assert all(sum(made.splits[item.key] == "test" for made in folds) == 1 for item in items)
    of_all = Counter(assign(items, {}, 0, {"train": 0.5, "val": 0.25, "test": 0.25}).splits.values())
    assert of_all["val"] == pytest.approx(len(items) / 4, abs=6)
    assert of_all["train"] == pytest.approx(len(items) / 2, abs=6)


def test_identical_images_of_two_patients_stay_together(folder: Path) -> None:
    source = class_folders(folder)
    for patient in range(3, PATIENTS):
        noise(999).save(source / f"benign/{patient}_0.png")
    assert split(source, "--group-pattern", r"(\d+)_") == 0
    made = [row for row in rows(folder / "data/own-split") if row["class"] == "benign"]
    assert len({row["split"] for row in made if patient_of(row) > 2}) == 1
    assert "9 images have an identical one" in about(folder / "data/own-split")["notes"][0]


def test_copies_are_files_and_settings_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = class_folders(folder)
    (source / "classes.txt").write_text("# ordered\nmalignant\nbenign\n")
    assert split(source, "--group-pattern", r"(\d+)_", "--copy", "--name", "mine") == 0
    first = rows(folder / "data/mine")
    assert not any((folder / "data/mine" / row["path"]).is_symlink() for row in first)
    dataset = open_dataset("mine", folder / "data", folder / "cache")
    assert dataset.classes == ("malignant", "benign") and dataset.ordered
    line = refused(capsys, source, "--group-pattern", r"(\d+)_", "--copy", "--name", "mine", "--seed", "1")
    assert "must not have been made with other settings or from other images; give --overwrite" in line
    assert rows(folder / "data/mine") == first
    (folder / "data/mine/.names-key").write_text("key")
    assert split(source, "--group-pattern", r"(\d+)_", "--name", "mine", "--seed", "1", "--overwrite") == 0
    assert rows(folder / "data/mine") != first and (folder / "data/mine/.names-key").read_text() == "key"


def test_a_class_that_stays_empty_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = class_folders(folder)
    (source / "rare").mkdir()
    for number in range(2):
        noise(500 + number).save(source / f"rare/{900 + number}_0.png")
    line = refused(capsys, source, "--group-pattern", r"(\d+)_")
    assert "got none in " in line and "/rare; a class needs at least 3 groups (by pattern" in line
    noise(502).save(source / "rare/902_0.png")
    line = refused(capsys, source, "--group-pattern", r"(\d+)_", "--folds", "4")
    assert "got none in test/rare; a class needs at least 4 groups for 4 folds" in line
    assert split(source, "--group-pattern", r"(\d+)_") == 0


def test_groups_that_cannot_be_told_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = class_folders(folder)
    noise(700).save(source / "benign/odd.png")
    line = refused(capsys, source, "--group-pattern", r"(\d+)_")
    assert r"got none by pattern (\d+)_ in names for 1 of 49: odd.png; change --group-pattern" in line
    assert "PatientID must be a keyword that each file holds" in refused(capsys, source, "--groups", "PatientID")
    assert "must be a regular expression such as" in refused(capsys, source, "--group-pattern", "(")
    assert refused(capsys, source, "--image-level", "--name", "covid").startswith("bench.py: --name must be that of a")
    assert "must leave images to train, got shares of 0.6 and 0.5" in refused(
        capsys, source, "--image-level", "--val", "0.6", "--test", "0.5"
    )
    with pytest.raises(SystemExit):
        split(source)
    assert "one of the arguments --groups --group-pattern --image-level is required" in capsys.readouterr().err


def test_a_given_test_split_that_leaks_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = given_test(folder)
    assert "--test must not be given where the test split is given" in refused(
        capsys, source, "--image-level", "--test", "0.2"
    )
    assert "--folds must be of images without a test split" in refused(capsys, source, "--image-level", "--folds", "2")
    (source / "test/benign/0_0.png").rename(source / "train/benign/0_0.png")
    line = refused(capsys, source, "--group-pattern", r"(\d+)_")
    assert "groups must lie in one split each, got 1 in the given train and test splits: 0" in line
    (source / "val").mkdir()
    line = refused(capsys, source, "--image-level")
    assert "must not be split yet, but for train and test alone, got test, train, val in" in line
    assert "it can be used as it is, or give a table" in line
    (source / "val").rename(source / "Valid")
    assert "if that is what was meant: mv " in refused(capsys, source, "--image-level")


def test_a_table_is_read_as_it_is_meant_or_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = table(folder)
    text = source.read_text()

    def wrong(old: str, new: str, *options: str) -> str:
        source.write_text(text.replace(old, new))
        return refused(capsys, source, "--groups", "patient", *options)

    assert "got none of these among image_id, what, patient" in wrong("Diagnosis", "What")
    assert "name it with --labels COLUMN" in wrong("Diagnosis", "What")
    assert "--labels must be a column of 'own.csv'" in wrong("", "", "--labels", "grade").replace(f"{folder}/", "")
    assert "got 1 of 48 without: img9999; give the folder that holds them with --images" in wrong("img0003", "img9999")
    assert "must list each image once" in wrong("img0003", "img0002")
    assert "label must be able to name a folder, got 'n/a' in column 'diagnosis', row 5" in wrong(
        "img0003;benign", "img0003;n/a"
    )
    assert "got none by patient for 2 of 48: IMG0002.PNG, IMG0003.PNG; write one into each row" in wrong(
        "benign;p1\n", "benign;\n"
    )
    source.write_text(text.replace("Diagnosis", "What"))
    assert split(source, "--groups", "patient", "--labels", "What") == 0


def test_images_that_cannot_be_read_and_folders_without_classes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no such file" in refused(capsys, folder / "nowhere", "--image-level")
    source = class_folders(folder)
    (source / "benign/0_0.png").write_bytes(b"\x89PNG broken")
    assert "got 1 that are not: " in refused(capsys, source, "--image-level")
    line = refused(capsys, source / "benign", "--image-level")
    assert "at least 2 classes, got none" in line and "give a table with a path and a label in each row" in line
    Path("data/own-split").mkdir(parents=True)
    noise(0).save(source / "benign/0_0.png")
    assert split(source, "--image-level") == 2
    assert "got a folder without a manifest; choose another --name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("train", "validation", "test"), "if that is what was meant: mv own/validation own/val"),
        (
            ("Train", "Valid", "TEST"),
            "if these are what was meant: mv own/Train own/train && mv own/Valid own/val && mv own/TEST own/test",
        ),
        (("train", "valid", "validation", "test"), "the layout is own/{train,val,test}/<class>/<images>"),
        (
            ("train", "test"),
            "to take val from train, and leave test as it is: python bench.py split own --group-pattern",
        ),
        (("benign", "malignant"), "to make them of class folders: python bench.py split own --group-pattern REGEX"),
        (("train",), "the layout is own/{train,val,test}/<class>/<images>"),
    ],
)
def test_a_folder_without_the_splits_is_told_what_mends_it(
    names: tuple[str, ...], advice: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        (folder / "own" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="dataset folder must hold train, val and test, got ") as refusal:
        open_dataset("own", folder, folder / "cache")
    assert advice in str(refusal.value)
    bench.main(["check", "own", "--wide"])
    said = capsys.readouterr()
    assert advice in said.out + said.err
