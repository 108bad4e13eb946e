"""The image store and the decoder: exact pixels, unusual files, damaged files, damaged stores."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import images as images_module
from benchmarks.data import Dataset, open_dataset
from benchmarks.decode import read_image
from benchmarks.images import open_image_store


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "noise" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return open_dataset(str(tmp_path / "noise"), tmp_path, tmp_path / "cache")


def test_the_store_holds_each_image_in_order(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = open_image_store(dataset, "train", 16, tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert store.shape == (6, 3, 16, 16)
    assert store.dtype == np.uint8
    assert not store.flags.writeable
    assert seen == [(number, 6) for number in range(1, 7)]
    for image, sample in zip(store, dataset.splits["train"], strict=True):
        expected = Image.open(dataset.root / sample.path).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image, np.asarray(expected).transpose(2, 0, 1))


def test_the_store_is_built_once(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(open_image_store(dataset, "val", 16, tmp_path / "cache"))

    def refuse(*args: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(images_module, "read_image", refuse)
    np.testing.assert_array_equal(open_image_store(dataset, "val", 16, tmp_path / "cache"), first)
    with pytest.raises(AssertionError, match="decoded again"):
        open_image_store(dataset, "val", 8, tmp_path / "cache")


def test_changed_images_make_a_new_store(dataset: Dataset, tmp_path: Path) -> None:
    open_image_store(dataset, "val", 16, tmp_path / "cache")
    Image.new("RGB", (24, 32), (200, 0, 0)).save(dataset.root / dataset.splits["val"][0].path)
    changed = open_dataset(str(dataset.root), tmp_path, tmp_path / "cache")
    assert (open_image_store(changed, "val", 16, tmp_path / "cache")[0, 0] == 200).all()


def test_a_store_cut_short_is_built_again(dataset: Dataset, tmp_path: Path) -> None:
    expected = np.array(open_image_store(dataset, "val", 16, tmp_path / "cache"))
    (file,) = (tmp_path / "cache" / "images").iterdir()
    os.truncate(file, file.stat().st_size // 2)
    np.testing.assert_array_equal(open_image_store(dataset, "val", 16, tmp_path / "cache"), expected)


@pytest.mark.parametrize("damage", ["truncated", "junk"])
def test_an_unreadable_image_is_named_and_leaves_no_store(dataset: Dataset, tmp_path: Path, damage: str) -> None:
    bad = dataset.root / dataset.splits["test"][4].path
    bad.write_bytes(bad.read_bytes()[:700] if damage == "truncated" else b"this is no image")
    with pytest.raises(
        ValueError, match=r"image must be readable, got '.*test/b/1\.png': .*; replace or remove the file"
    ):
        open_image_store(dataset, "test", 16, tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"image must be readable, got '.*half\.jpg': .*truncated"):
        read_image(path, 16)


def test_a_full_disk_is_said_before_writing(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(RuntimeError, match=r"image store needs 0\.1 GiB free in '.*images', got 0\.0 GiB"):
        open_image_store(dataset, "train", 16, tmp_path / "cache")


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # white above black
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = read_image(tmp_path / "turned.png", 16)
    assert (image[:, :, 8:] == 255).all() and (image[:, :, :8] == 0).all()


@pytest.mark.parametrize(("highest", "expected"), [(65535, 128), (4095, 128), (255, 128)])
def test_deep_grey_images_are_rescaled_not_clipped(tmp_path: Path, highest: int, expected: int) -> None:
    values = np.full((8, 8), highest // 2 + 1, np.uint16)
    values[0, 0] = highest
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png", 8)
    assert abs(int(image[0, 6, 6]) - expected) <= 1
    assert image.shape == (3, 8, 8)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif': floating-point pixels have no defined range"):
        read_image(tmp_path / "float.tif", 8)


def test_palette_images_show_their_colours(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png", 8)[:, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_black(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 200, 100, 50])
        image.save(tmp_path / "clear.png", transparency=1)
    else:
        Image.new(mode, (8, 8), (255, 255, 255, 0)[-len(mode) :]).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", 8).max() == 0


def test_a_large_jpeg_decoded_at_a_fraction_stays_close(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 6, 512), np.linspace(0, 6, 512))
    pixels = np.stack([np.sin(x) * 100 + 128, np.cos(y) * 100 + 128, np.sin(x + y) * 100 + 128], axis=2).astype(
        np.uint8
    )
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95, subsampling=0)
    expected = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    difference = read_image(tmp_path / "large.jpg", 64).astype(int) - np.asarray(expected).transpose(2, 0, 1)
    assert np.abs(difference).max() <= 4
