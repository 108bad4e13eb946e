"""Datasets as folders: listing, digest, normalisation, and one clear line for each kind of bad input."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.data.classes import natural_key
from benchmarks.data.dataset import Dataset, Sample, open_dataset
from benchmarks.errors import UserError
from datasets import DATASETS


def make_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), images_per_class: int = 2) -> Path:
    """A small dataset of plain images, each of its own grey value."""
    value = 10
    for split in ("train", "val", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(images_per_class):
                Image.new("RGB", (20, 16), (value, 2 * value, value)).save(root / split / name / f"{number}.png")
                value += 3
    return root


def open_at(root: Path) -> Dataset:
    return open_dataset(str(root), root.parent / "data", root.parent / "cache")


def test_a_folder_is_listed_in_order_with_its_classes(tmp_path: Path) -> None:
    dataset = open_at(make_folder(tmp_path / "pets"))
    assert (dataset.name, dataset.title, dataset.classes) == ("pets", "pets", ("cat", "dog"))
    assert dataset.splits["val"] == (
        Sample("val/cat/0.png", 0),
        Sample("val/cat/1.png", 0),
        Sample("val/dog/0.png", 1),
        Sample("val/dog/1.png", 1),
    )
    assert dataset.counts() == {split: {"cat": 2, "dog": 2} for split in ("train", "val", "test")}
    assert (dataset.normalization_source, dataset.synthetic) == ("computed", False)


def test_classes_are_in_natural_order_and_no_grades_unless_declared(tmp_path: Path) -> None:
    numbers = tuple(map(str, range(12)))
    root = make_folder(tmp_path / "pain", numbers, images_per_class=1)
    plain = open_at(root)
    assert (plain.classes, plain.ordered) == (numbers, False)
    assert {sample.path.split("/")[1]: sample.label for sample in plain.splits["test"]} == {
        name: int(name) for name in numbers
    }
    (root / "classes.txt").write_text("# ordered\n" + "\n".join(numbers))
    graded = open_at(root)
    assert (graded.classes, graded.ordered, graded.splits) == (numbers, True, plain.splits)
    assert graded.digest != plain.digest
    (root / "classes.txt").write_text("\n".join(numbers))
    assert open_at(root) == plain  # nothing new is said


def test_declared_classes_have_the_order_of_their_lines(tmp_path: Path) -> None:
    grades = ("none", "mild", "moderate", "severe")
    root = make_folder(tmp_path / "grades", grades)
    plain = open_at(root)
    assert (plain.classes, plain.ordered) == (tuple(sorted(grades)), False)
    digests = {plain.digest}
    for text in ("# ordered\r\nnone\r\n mild \r\n\r\nmoderate\r\nsevere\r\n", "\ufeffnone\nmild\nmoderate\nsevere"):
        (root / "classes.txt").write_bytes(text.encode())
        dataset = open_at(root)
        assert (dataset.classes, dataset.ordered) == (grades, "ordered" in text)
        assert {sample.path.split("/")[1]: sample.label for sample in dataset.splits["val"]} == {
            name: label for label, name in enumerate(grades)
        }
        assert dataset.mean == plain.mean
        digests.add(dataset.digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "classes.txt must name each class folder once, a line each, got no name in"),
        (b"# ordered\n", "classes.txt must name each class folder once, a line each, got no name in"),
        (b"cat\ndog\ncat\n", "classes.txt must name each class folder once, a line each, got 'cat' twice in"),
        (b"cat\nfox\n", "classes.txt must name the class folders cat, dog, got cat, fox in"),
        (b"cat\n", "classes.txt must name the class folders cat, dog, got cat in"),
        (b"# grades\ncat\ndog\n", "classes.txt must name the class folders cat, dog, got # grades, cat, dog in"),
        (b"cat\n\xff\n", "classes.txt must be a text file in UTF-8, got"),
    ],
)
def test_a_wrong_list_of_classes_is_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    root = make_folder(tmp_path / "pets")
    (root / "classes.txt").write_bytes(text)
    with pytest.raises(UserError) as caught:
        open_at(root)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_dataset_of_the_table_is_ordered_as_its_file_says(tmp_path: Path) -> None:
    grades = DATASETS["messidor2"].classes
    root = make_folder(tmp_path / "data" / "messidor2", grades)

    def opened() -> Dataset:
        return open_dataset("messidor2", tmp_path / "data", tmp_path / "cache")

    before = opened()
    assert (before.classes, before.ordered) == (grades, True)
    (root / "classes.txt").write_text("# ordered\n0\n1\n2\n3\n4\n")
    assert opened() == before  # ids of runs stay
    (root / "classes.txt").write_text("# ordered\n4\n3\n2\n1\n0\n")
    with pytest.raises(UserError, match=r"classes.txt must say of messidor2 .* got 4, 3, 2, 1, 0, ordered in"):
        opened()


def test_grades_are_said_to_be() -> None:
    assert {name for name, info in DATASETS.items() if info.ordered} == {"messidor2", "ddr"}


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "9", "10", "11"],
        ["grade 2", "grade 10", "grade 10b", "grades"],
        ["0", "0.25", "0.5", "1", "2"],
        ["-", "1", ":", "A", "a", "a-b", "a1", "a9", "a10", "ab"],
        ["01", "1", "02", "2", "010"],
        ["9" * 30, "1" + "0" * 30],
    ],
)
def test_natural_order(names: list[str]) -> None:
    backwards = [*reversed(names)]
    assert sorted(backwards, key=natural_key) == names


@given(st.lists(st.text(alphabet="abAB-_ 0123456789.", max_size=8)))
def test_without_numbers_of_several_digits_the_order_is_that_of_plain_text(names: list[str]) -> None:
    short = [name for name in names if not re.search(r"\d[\d.]", name)]
    assert sorted(short, key=natural_key) == sorted(short)


def test_a_folder_in_the_data_root_opens_by_its_name(tmp_path: Path) -> None:
    make_folder(tmp_path / "data" / "pets")
    assert open_dataset("pets", tmp_path / "data", tmp_path / "cache").name == "pets"


def test_computed_normalisation_equals_the_pixels_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "pets")
    dataset = open_at(root)
    train = [np.asarray(Image.open(root / sample.path), dtype=float) / 255 for sample in dataset.splits["train"]]
    assert dataset.mean == pytest.approx(np.mean(train, axis=(0, 1, 2)), abs=1e-6)
    assert dataset.std == pytest.approx(np.std(train, axis=(0, 1, 2)), abs=1e-6)
    assert "computing the normalisation" in capsys.readouterr().err
    assert open_at(root) == dataset
    assert capsys.readouterr().err == ""


def test_the_digest_is_that_of_the_contents_not_of_the_place(tmp_path: Path) -> None:
    first = open_at(make_folder(tmp_path / "here" / "pets"))
    second = open_at(make_folder(tmp_path / "there" / "pets"))
    assert first.digest == second.digest


@pytest.mark.parametrize("change", ["content", "name", "class", "split"])
def test_the_digest_changes_with_every_change(tmp_path: Path, change: str) -> None:
    root = make_folder(tmp_path / "pets")
    before = open_at(root).digest
    image = root / "train/cat/0.png"
    if change == "content":
        Image.new("RGB", (20, 16), (99, 0, 0)).save(image)
    else:
        place = {"name": "train/cat/9.png", "class": "train/dog/9.png", "split": "val/cat/9.png"}[change]
        image.rename(root / place)
    assert open_at(root).digest != before


def test_known_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "pets")
    first = open_at(root)

    def refuse(*args: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    assert open_at(root) == first


def test_a_damaged_hash_cache_is_made_again(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    first = open_at(root)
    caches = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.parent.name for path in caches} == {"hashes", "depths", "normalization"}
    for cache in caches:
        cache.write_text('{"half')
    assert open_at(root) == first


def test_litter_is_passed_over_and_images_without_suffix_are_found(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    before = open_at(root)
    folder = root / "train/cat"
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "LICENSE.txt", "._0.png"):
        (folder / name).write_bytes(b"litter")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes(b"litter")
    (root / "train/.hidden").mkdir()
    (root / "manifest.csv").write_text("beside the splits")
    assert open_at(root) == before
    (folder / "0.png").rename(folder / "scan")
    (folder / "patient7").mkdir()
    (folder / "1.png").rename(folder / "patient7" / "1.PNG")
    assert [sample.path for sample in open_at(root).splits["train"][:2]] == [
        "train/cat/patient7/1.PNG",
        "train/cat/scan",
    ]


def test_any_other_file_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    (root / "val/dog/notes.csv").write_text("a,b")
    with pytest.raises(
        ValueError, match=r"class folder must hold only images, got '.*notes\.csv'; remove it or convert"
    ):
        open_at(root)


def test_missing_splits_are_named_with_the_layout(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    (root / "val").rename(root / "valid")
    (root / "test").rename(root / ".test")
    told = r"got train, valid in '.*' \(val, test missing\); .*: mv .*/valid .*/val; test must be added, each with"
    with pytest.raises(ValueError, match=told):
        open_at(root)


def test_an_empty_folder_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    with pytest.raises(ValueError, match=r"got no folder in .* \(train, val, test missing\)"):
        open_at(tmp_path / "pets")


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    for image in (root / "test/dog").iterdir():
        image.unlink()
    (root / "test/dog/Thumbs.db").write_bytes(b"litter")
    with pytest.raises(ValueError, match=r"class folder must hold images, got none in '.*dog'"):
        open_at(root)


def test_classes_that_differ_between_splits_are_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    (root / "val/dog").rename(root / "val/wolf")
    with pytest.raises(ValueError, match=r"classes must be the same in every split, got no wolf in '.*train'"):
        open_at(root)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have at least 2 class folders in each split, got \['cat'\]"):
        open_at(make_folder(tmp_path / "pets", classes=("cat",)))


def test_images_of_one_colour_have_no_normalisation(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    for image in (root / "train").rglob("*.png"):
        Image.new("RGB", (20, 16), (5, 5, 5)).save(image)
    with pytest.raises(ValueError, match="train images must not be of one colour only"):
        open_at(root)


@pytest.mark.parametrize(
    ("name", "hint"), [("mesidor2", "did you mean 'messidor2'"), ("no/such/folder", "there is no such folder")]
)
def test_an_unknown_name_lists_the_choices_and_the_nearest(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(
        ValueError, match=rf"dataset must be one of messidor2, .*demo or a folder, got '{name}'; {hint}"
    ):
        open_dataset(name, tmp_path, tmp_path / "cache")


def test_an_unprepared_dataset_says_how_to_prepare_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"download it from https://challenge.*, then: .*bench\.py prepare isic2018 --raw DIR"
    ):
        open_dataset("isic2018", tmp_path, tmp_path / "cache")


def test_a_dataset_of_the_table_keeps_its_own_class_order(tmp_path: Path) -> None:
    make_folder(tmp_path / "mini_ddsm", classes=("Benign", "Cancer", "Normal"), images_per_class=1)
    dataset = open_dataset("mini_ddsm", tmp_path, tmp_path / "cache")
    assert dataset.classes == ("Normal", "Benign", "Cancer")
    assert [sample.path.split("/")[1] for sample in dataset.splits["train"]] == ["Normal", "Benign", "Cancer"]
    assert dataset.normalization_source == "dataset"
    assert dataset.mean == DATASETS["mini_ddsm"].mean


def test_a_dataset_of_the_table_with_other_classes_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "covid", classes=("covid", "normal"))
    with pytest.raises(ValueError, match="classes of covid must be covid, normal, virus, got covid, normal in"):
        open_dataset("covid", tmp_path, tmp_path / "cache")


def test_the_table_is_sound() -> None:
    for name, info in DATASETS.items():
        assert name == info.name
        assert len(set(info.classes)) == len(info.classes) >= 2
        assert all(0 < value < 1 for value in (*(info.mean or ()), *(info.std or ())))
        assert info.synthetic == (info.generate is not None)
        assert info.licence
