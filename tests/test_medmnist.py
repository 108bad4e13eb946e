"""bench.py prepare medmnist, on synthetic files of the published shapes: every image where its label and split say."""

import csv
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from prepared_trees import about, contents, prepare, rows

import bench
from benchmarks.data.dataset import open_dataset
from datasets.medmnist import SETS

COUNTS = {"train": 12, "val": 6, "test": 6}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(num_classes: int, side: int = 28, color: bool = False, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Arrays as MedMNIST has them: (N, H, W) or (N, H, W, 3) bytes, labels (N, 1)."""
    random = np.random.default_rng(seed)
    content: dict[str, npt.NDArray[Any]] = {}
    for split, count in COUNTS.items():
        number = max(count, num_classes)
        shape = (number, side, side, 3) if color else (number, side, side)
        content[f"{split}_images"] = random.integers(0, 256, shape, np.uint8)
        content[f"{split}_labels"] = (np.arange(number) % num_classes).astype(np.uint8)[:, None]
    return content


def write(name: str, content: dict[str, npt.NDArray[Any]], compressed: bool = True) -> Path:
    (np.savez_compressed if compressed else np.savez)(name, **content)  # type: ignore[arg-type]
    return Path(name)


@pytest.mark.parametrize(
    ("name", "side", "color"),
    [
        ("breastmnist", 28, False),
        ("breastmnist_64", 64, False),
        ("BloodMNIST_224", 224, True),
        ("octmnist_128", 128, False),
    ],
)
def test_each_image_goes_where_its_label_and_split_say(name: str, side: int, color: bool, folder: Path) -> None:
    classes = SETS[name.lower().split("_")[0]].classes
    content = made(len(classes), side, color)
    assert prepare("medmnist", write(f"{name}.npz", content), folder / "data") == 0
    listed = rows(folder / "data" / name)
    assert len(listed) == sum(len(content[f"{split}_labels"]) for split in COUNTS)
    for row in listed:
        split, number = row["source"].split("!/")[1].split("_images/")
        label = int(content[f"{split}_labels"][int(number), 0])
        assert (row["split"], row["class"]) == (split, classes[label])
        with Image.open(folder / "data" / name / row["path"]) as image:
            assert (np.asarray(image) == content[f"{split}_images"][int(number)]).all()
    dataset = open_dataset(name, folder / "data", folder / "cache")
    assert dataset.classes == classes and not dataset.ordered
    assert dataset.split_origin is not None and dataset.split_origin.kind == "official"


def test_grades_are_ordered_and_terms_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("medmnist", write("retinamnist_64.npz", made(5, 64, True)), folder / "data") == 0
    assert open_dataset("retinamnist_64", folder / "data", folder / "cache").ordered
    out = capsys.readouterr().out
    assert "licence: CC BY 4.0" in out and "cite: MedMNIST v2: Yang" in out and "DeepDRiD" in out
    assert about(folder / "data/retinamnist_64")["title"] == "RetinaMNIST (64×64)"
    assert bench.main(["check", "retinamnist_64", "--format", "json"]) == 0


def finding_tables(num_findings: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """A set with several findings an image, each there in half of 24 images of a split."""
    random = np.random.default_rng(seed)
    content: dict[str, npt.NDArray[Any]] = {}
    for split in COUNTS:
        content[f"{split}_images"] = random.integers(0, 256, (24, 28, 28), np.uint8)
        columns = [random.permutation(np.arange(24) % 2) for _ in range(num_findings)]
        content[f"{split}_labels"] = np.stack(columns, 1).astype(np.uint8)
    return content


@pytest.mark.parametrize(("name", "num_findings"), [("chestmnist", 14), ("own", 3)])
def test_findings_become_a_table(name: str, num_findings: int, folder: Path) -> None:
    content = finding_tables(num_findings)
    assert prepare("medmnist", write(f"{name}.npz", content), folder / "data") == 0
    with (folder / "data" / name / "labels.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    names = SETS[name].classes if name in SETS else ("0", "1", "2")
    assert len(listed) == 72 and set(listed[0]) == {"path", "split", "group", *names}
    for row in listed:
        split, number = Path(row["path"]).stem.split("_")
        assert row["split"] == split
        assert [int(row[column]) for column in names] == content[f"{split}_labels"][int(number)].tolist()
    dataset = open_dataset(name, folder / "data", folder / "cache")
    assert dataset.classes == names and dataset.findings


def test_another_table_of_findings_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(
        capsys, write("chestmnist.npz", finding_tables(3)), "train_labels must be integers of shape (24, 14), a row"
    )
    content = finding_tables(14)
    content["val_labels"][0, 0] = 2
    refused(capsys, write("chestmnist.npz", content), "val_labels must be 0 to 1, got 2")
    uneven = finding_tables(3) | {"test_labels": np.zeros((24, 2), np.uint8)}
    refused(capsys, write("own.npz", uneven), "test_labels must be integers of shape (24, 3), a row")


def test_published_numbers_of_classes() -> None:
    """Of Yang et al. 2023, table 1."""
    assert {name: len(known.classes) for name, known in SETS.items()} == {
        "pathmnist": 9, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5, "breastmnist": 2,
        "bloodmnist": 8, "chestmnist": 14, "tissuemnist": 8, "organamnist": 11, "organcmnist": 11, "organsmnist": 11,
    }  # fmt: skip
    assert [name for name, known in SETS.items() if known.ordered] == ["retinamnist"]
    assert [name for name, known in SETS.items() if known.licence != "CC BY 4.0"] == ["dermamnist"]


def test_a_set_of_unknown_name_has_numbers_for_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = made(3)
    content |= {f"{split}_labels": content[f"{split}_labels"][:, 0].astype(np.int64) for split in COUNTS}
    assert prepare("medmnist", write("own.npz", content, compressed=False), folder / "data") == 0
    assert {row["class"] for row in rows(folder / "data/own")} == {"0", "1", "2"}
    assert "note: own is no set whose classes are known" in capsys.readouterr().out


def test_again_it_is_there_and_another_file_of_that_name_is_not_taken_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("breastmnist.npz", made(2), compressed=False)
    assert prepare("medmnist", path, folder / "data") == 0
    before = contents(folder / "data/breastmnist")
    assert prepare("medmnist", path, folder / "data") == 0 and "nothing to do" in capsys.readouterr().out
    other = made(2, side=64, seed=1)
    write("breastmnist.npz", other)
    assert prepare("medmnist", path, folder / "data") == 2
    assert "same settings, got download" in capsys.readouterr().err.splitlines()[-1]
    assert contents(folder / "data/breastmnist") == before
    assert prepare("medmnist", path, folder / "data", "--overwrite") == 0
    with Image.open(folder / "data/breastmnist/test/malignant/test_000000.png") as image:
        assert (np.asarray(image) == other["test_images"][0]).all()


def replaced(**changed: Any) -> Callable[[dict[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]:
    return lambda content: {name: value for name, value in (content | changed).items() if value is not None}


IMAGES, LABELS = np.zeros((12, 28, 28), np.uint8), np.zeros((12, 1), np.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced(val_images=None, val_labels=None), "got no val_images, val_labels in"),
        (replaced(train_images=np.zeros((12, 28, 28, 28), np.uint8)), "got volumes of shape (28, 28, 28) in train"),
        (replaced(train_images=np.zeros((12, 1, 28, 28, 28), np.uint8)), "must be two-dimensional, got volumes"),
        (replaced(train_images=IMAGES.astype(np.float32)), "must be bytes (uint8) of shape (images, height, width)"),
        (replaced(train_images=IMAGES[0]), "got uint8 of shape (28, 28)"),
        (replaced(train_images=IMAGES[..., None]), "got uint8 of shape (12, 28, 28, 1)"),
        (replaced(train_images=np.zeros((12, 64, 64), np.uint8)), "images must have one shape in all splits, got"),
        (replaced(train_labels=LABELS[:5]), "train_labels must be integers of shape (12, 1) or (12,), a row for each"),
        (replaced(train_labels=LABELS.astype(np.float64)), "got float64 of shape (12, 1)"),
        (replaced(train_labels=np.zeros((12, 14), np.uint8)), "of shape (12, 1) or (12,), a row for each"),
        (replaced(train_labels=LABELS + 2), "train_labels must be 0 to 1, got 2"),
        (replaced(train_labels=LABELS.astype(np.int8) - 1), "train_labels must be 0 to 1, got -1"),
        (replaced(val_labels=np.zeros((6, 1), np.uint8)), "must have images in each split, got none in val/"),
    ],
)
def test_another_content_is_refused(
    change: Callable[..., dict[str, npt.NDArray[Any]]],
    words: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(capsys, write("breastmnist.npz", change(made(2))), words)


def refused(capsys: pytest.CaptureFixture[str], path: Path, *expected: str) -> None:
    """One line, and no dataset."""
    assert prepare("medmnist", path, Path("data")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench.py: ") and all(words in line for words in expected)
    assert not (Path("data") / path.stem).exists()


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_pickled_objects_are_never_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = made(2) | {"train_labels": np.array([Bomb()] * 12, dtype=object)}
    refused(capsys, write("breastmnist.npz", content), "pickled objects in train_labels")
    assert not Path("exploded").exists()


def test_what_is_no_such_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(capsys, Path("absent.npz"), "must be a file of MedMNIST, got 'absent.npz'")
    Path("text.npz").write_text("no archive")
    refused(capsys, Path("text.npz"), "must be a complete .npz file")
    whole = write("breastmnist.npz", made(2)).read_bytes()
    Path("half.npz").write_bytes(whole[: len(whole) // 2])
    refused(capsys, Path("half.npz"), "must be a complete .npz file")
    with zipfile.ZipFile("long.npz", "w") as archive, archive.open("train_images.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 28, 28)})
    refused(capsys, Path("long.npz"), "must be a complete .npz file", "train_images states")
    refused(capsys, write("demo.npz", made(2)), "must be none that is known")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 5}))
    refused(capsys, Path("breastmnist.npz"), "memory must hold train_labels of")
