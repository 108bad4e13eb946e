"""bench.py check: shortcuts, near-duplicates and what else makes a number mean something else than it seems to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deep_images import dicom
from numpy.typing import NDArray
from own_folders import KINDS
from PIL import Image, ImageDraw, ImageEnhance
from test_check import Checked

import bench
from benchmarks.check.look import NEAR_BITS, look_at, near_pairs
from benchmarks.check.survey import survey
from datasets import DATASETS

Draw = Callable[[Image.Image, int, np.random.Generator], Image.Image]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tissue(rng: np.random.Generator, side: int = 64) -> Image.Image:
    """A smooth random field on a dark frame, unlike any other."""
    field = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((side - 16, side - 16), 3)
    whole = Image.new("RGB", (side, side))
    whole.paste(field, (8, 8))
    return Image.fromarray((np.asarray(whole) * 0.6 + rng.integers(0, 30, (side, side, 1))).astype(np.uint8))


def plain(image: Image.Image, label: int, rng: np.random.Generator) -> Image.Image:
    return image


def corner_mark(image: Image.Image, label: int, rng: np.random.Generator) -> Image.Image:
    if label:
        ImageDraw.Draw(image).text((1, 0), "R", (200, 200, 200))
    return image


def lesions(image: Image.Image, label: int, rng: np.random.Generator) -> Image.Image:
    for _ in range(6 * label):
        x, y = rng.integers(12, 44, 2)
        ImageDraw.Draw(image).ellipse((x, y, x + 8, y + 8), (250, 240, 120))
    return image


def other_size(image: Image.Image, label: int, rng: np.random.Generator) -> Image.Image:
    return image.resize((64, 60 if rng.random() < 0.9 else 64)) if label else image


def make(root: Path, draw: Draw, number: int = 40, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for split, count in (("train", number), ("val", 12), ("test", 12)):
        for label, name in enumerate(("healthy", "ill")):
            (root / split / name).mkdir(parents=True)
            for place in range(count):
                draw(tissue(rng), label, rng).save(root / split / name / f"{place}.png")
    return root


@pytest.mark.parametrize(
    ("draw", "level", "where", "words"),
    [
        (corner_mark, "warning", "edge", "the outermost eighth of the images, 16 px wide, tells "),
        (other_size, "warning", "file", "size and type of the files alone tell "),
        (lesions, "note", "whole", "this may be the disease, and is what a model must exceed"),
    ],
)
def test_a_shortcut_is_warned_of_and_lesions_are_noted(
    draw: Draw, level: str, where: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folder / "own", draw)
    checked = Checked(capsys, "own")
    assert checked.status == 0 and {kind for kind in checked.kinds() if kind[1] == "shortcut"} == {(level, "shortcut")}
    (detail,) = checked.found("shortcut", level).values()
    assert words in detail and set(checked.found("shortcut", level)) == {where}
    auc = float(detail.partition("AUC of ")[2][:4])
    assert auc >= 0.8


def test_without_a_shortcut_or_with_few_images_nothing_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folder / "own", plain)
    checked = Checked(capsys, "own")
    assert checked.kinds() == {("note", "groups")}
    assert "bench.py split with --groups or --group-pattern" in checked.found("groups", "note")["all"]
    make(folder / "few", corner_mark, number=29)
    assert Checked(capsys, "few").kinds() == {("note", "groups")}


def test_the_probe_keeps_patients_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Patients look alike in all of their images, and their classes are drawn by lot: nothing can be learnt."""
    rng = np.random.default_rng(0)
    for name in ("healthy", "ill"):
        (folder / "own" / name).mkdir(parents=True)
    for patient in range(70):
        look = tissue(rng)
        for number in range(4):
            shown = ImageEnhance.Brightness(look).enhance(0.9 + 0.05 * number)
            shown.save(folder / "own" / ("ill" if patient % 2 else "healthy") / f"p{patient}_{number}.png")
    assert bench.main(["split", "own", "--group-pattern", r"p(\d+)_"]) == 0
    assert not {kind for kind in Checked(capsys, "own-split").kinds() if kind[1] == "shortcut"}
    assert bench.main(["split", "own", "--image-level", "--name", "leaky"]) == 0
    leaky = Checked(capsys, "leaky")
    assert ("warning", "near duplicate") in leaky.kinds()  # and copies of a patient in other splits are seen
    assert len(leaky.found("near duplicate", "warning")) == 21
    assert "more images look almost the same as one of another split" in leaky.found("near duplicate", "warning")["all"]


def test_near_pairs_are_those_of_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (700, 256), dtype=np.uint8)
    for place in range(0, 600, 3):
        bits[place + 1] = bits[place]
        bits[place + 1, rng.permutation(256)[: place % 20]] ^= 1
    hashes: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64)
    naive = {
        (one, other, int((bits[one] != bits[other]).sum()))
        for one in range(700)
        for other in range(one + 1, 700)
        if (bits[one] != bits[other]).sum() <= NEAR_BITS
    }
    assert set(near_pairs(hashes)) == naive and len(naive) > 90


def test_a_copy_in_other_bytes_is_near_and_another_image_is_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(folder / "own", plain, number=6)
    image = Image.open(root / "train/ill/0.png")
    image.save(root / "test/ill/copy.jpg", quality=60)
    image.resize((40, 40)).save(root / "train/healthy/small.png")
    found = Checked(capsys, "own").found("near duplicate", "warning")
    assert set(found) == {"train/ill/0.png", "train/healthy/small.png"}
    assert "looks almost the same as test/ill/copy.jpg (" in found["train/ill/0.png"]


def test_distances_of_the_demo_are_as_the_docs_say(folder: Path) -> None:
    """Different images of one anatomy are far apart, and an image that was edited slightly is not far from itself."""
    generate = DATASETS["demo"].generate
    assert generate is not None
    (folder / "demo").mkdir()
    generate(folder / "demo")
    paths = sorted((folder / "demo/val").rglob("*.jpg"))
    images = [Image.open(path).convert("RGB") for path in paths]
    hashes = np.stack([look_at(image, path).bits for image, path in zip(images, paths, strict=True)])
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=-1)[np.triu_indices(len(hashes), 1)]
    assert apart.min() > 3 * NEAR_BITS
    for image, path, known in zip(images, paths, hashes, strict=True):
        for edited in (image.resize((image.width // 4,) * 2), ImageEnhance.Brightness(image).enhance(1.2)):
            assert np.bitwise_count(look_at(edited, path).bits ^ known).sum() <= NEAR_BITS


def test_small_images_few_units_and_scanners_are_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(folder / "own", plain, number=6)
    for place in range(3, 12):
        (root / f"test/ill/{place}.png").unlink()
    exif = Image.Exif()
    exif[271], exif[272] = "Zeiss", "Visucam"
    for place in range(6):
        image = Image.open(root / f"train/ill/{place}.png")
        image.resize((500, 300)).save(root / f"train/ill/{place}.jpg", exif=exif)
        (root / f"train/ill/{place}.png").unlink()
    checked = Checked(capsys, "own --res 32 224 512")
    sizes = checked.found("size", "note")
    assert set(sizes) == {"224 px", "512 px"}
    assert "45 of 51 images have a side of less than 224 px and are enlarged" in sizes["224 px"]
    assert "(30 healthy, 15 ill)" in sizes["224 px"] and "(30 healthy, 21 ill)" in sizes["512 px"]
    assert checked.found("few", "note") == {
        "test": "there are few images: 3 of ill; under 10 of a class, intervals of AUC are rough: add some"
    }
    (detail,) = checked.found("scanner", "note").values()
    assert (
        "files name 1 scanners or cameras: Zeiss Visucam (0 healthy, 6 ill); none named (30 healthy, 15 ill)" in detail
    )


def test_a_dicom_file_names_its_scanner(folder: Path) -> None:
    root = folder / "own"
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
            data = dicom(pixels, Manufacturer="GE", ManufacturerModelName="Senographe")
            (root / split / name / "1.dcm").write_bytes(data)
    assert {file.look.device for file in survey(root, None).files if file.look} == {"GE Senographe"}


@pytest.mark.parametrize("kind", KINDS)
def test_five_kinds_of_folders_are_split_and_checked(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, options = KINDS[kind]
    assert bench.main(["split", str(build(folder)), *options]) == 0
    checked = Checked(capsys, "own-split")
    assert checked.kinds() == {("note", "few")}  # patients are known, and few
    number = 2 if kind == "a test split" else 3
    few = f"there are few patients or other groups: {number} of benign, {number} of malignant; under 10"
    assert checked.found("few", "note")["test"].startswith(few)
