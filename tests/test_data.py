"""Datasets as folders: listing, digest, normalisation, and one clear line for each kind of bad input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.data.dataset import Dataset, Sample, open_dataset
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
    for cache in (tmp_path / "cache").rglob("*.json"):
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
    with pytest.raises(ValueError, match=r"got train, valid in '.*' \(val, test missing\); the layout is .*<class>"):
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
        assert all(0 < value < 1 for value in (*info.mean, *info.std))
        assert info.synthetic == (info.generate is not None)
        assert info.licence
