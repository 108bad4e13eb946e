"""The image store and the decoder: exact pixels, unusual files, damaged files, damaged stores."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_images import all_of

from benchmarks.data import image_store as images_module
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.data.image_store import open_image_stores
from benchmarks.images import decode as decode_module
from benchmarks.images.decode import (
    Pixels,
    decoding_side,
    in_order,
    inspect_image,
    read_image,
    read_thumbnail,
    read_views,
)
from benchmarks.images.depth import Scale
from benchmarks.storage.locks import held_lock

ROOT = Path(__file__).resolve().parent.parent


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


def formula(dataset: Dataset, split: str, side: int) -> list[np.ndarray]:
    """Each image of a split as PIL resizes it."""
    images = [Image.open(dataset.root / sample.path) for sample in dataset.splits[split]]
    return [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1) for image in images]


def count_decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    files: list[Path] = []

    def counted(path: Path, sides: Iterable[int], decoded_for: int, scale: Scale | None) -> list[Pixels]:
        files.append(path)
        return read_views(path, sides, decoded_for, scale)

    monkeypatch.setattr(images_module, "read_views", counted)
    return files


def test_the_stores_hold_each_image_in_order_decoded_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    decoded = count_decodings(monkeypatch)
    stores = open_image_stores(dataset, "train", {16, 8}, tmp_path / "cache", lambda *state: seen.append(state))
    assert set(stores) == {16, 8}
    for side, store in stores.items():
        assert store.shape == (6, 3, side, side)
        assert all_of(store).dtype == np.uint8
        np.testing.assert_array_equal(all_of(store), formula(dataset, "train", side))
    assert seen == [(number, 6) for number in range(1, 7)]
    assert sorted(decoded) == [dataset.root / sample.path for sample in dataset.splits["train"]]


def test_only_what_is_missing_is_built(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    open_image_stores(dataset, "val", [16], cache)
    (file,) = (cache / "images").glob("*.npy")
    written = file.stat().st_mtime_ns
    both = open_image_stores(dataset, "val", [16, 8], cache)
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(all_of(both[8]), formula(dataset, "val", 8))
    decoded = count_decodings(monkeypatch)
    np.testing.assert_array_equal(all_of(open_image_stores(dataset, "val", [8], cache)[8]), all_of(both[8]))
    assert decoded == []


def test_changed_images_make_a_new_store(dataset: Dataset, tmp_path: Path) -> None:
    open_image_stores(dataset, "val", [16], tmp_path / "cache")
    Image.new("RGB", (24, 32), (200, 0, 0)).save(dataset.root / dataset.splits["val"][0].path)
    changed = open_dataset(str(dataset.root), tmp_path, tmp_path / "cache")
    assert (open_image_stores(changed, "val", [16], tmp_path / "cache")[16][np.array([0])][:, 0] == 200).all()


def test_a_store_cut_short_is_built_again(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_image_stores(dataset, "val", [16], tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "images").glob("*.npy")
    os.truncate(file, file.stat().st_size // 2)
    again = open_image_stores(dataset, "val", [16], tmp_path / "cache")[16]
    np.testing.assert_array_equal(all_of(again), formula(dataset, "val", 16))
    said = f"note: image store {file.name} is damaged, or of another version of this program: it is made anew\n"
    assert capsys.readouterr().err.endswith(said)


def damage(file: Path, kind: str) -> None:
    content = np.memmap(file, mode="r+")
    pixels = np.load(file, mmap_mode="r+")
    if kind == "one bit":
        pixels[4, 1, 2, 3] ^= 1
    elif kind == "two exchanged":
        pixels[[0, 3]] = pixels[[3, 0]]
    elif kind == "a checksum":
        content[-1] ^= 1
    else:
        content[pixels.offset :] = 0


@pytest.mark.parametrize("kind", ["one bit", "two exchanged", "a checksum", "zeros"])
@pytest.mark.parametrize("full", [False, True])
def test_a_damaged_image_is_made_anew_with_a_note(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    kind: str, full: bool,
) -> None:  # fmt: skip
    open_image_stores(dataset, "val", [16], tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "images").glob("*.npy")
    whole = file.read_bytes()
    damage(file, kind)
    assert file.read_bytes() != whole
    if full:
        monkeypatch.setattr(os, "pwrite", lambda *_: exec("raise OSError(28, 'No space left on device')"))
    for again in (False, True):
        store = open_image_stores(dataset, "val", [16], tmp_path / "cache")[16]
        capsys.readouterr()
        for _ in range(2):
            np.testing.assert_array_equal(all_of(store), formula(dataset, "val", 16))
        note = f"note: image store {file.name} is damaged: the damaged images are made anew\n"
        assert capsys.readouterr().err == (note if full or not again else "")
    assert (file.read_bytes() == whole) is not full


def test_only_damaged_images_are_decoded(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_image_stores(dataset, "val", [16], tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "images").glob("*.npy")
    damage(file, "one bit")
    decoded = count_decodings(monkeypatch)
    store = open_image_stores(dataset, "val", [16], tmp_path / "cache")[16]
    for indices in ([5, 0], [4], [1, 4, 2]):
        np.testing.assert_array_equal(store[np.array(indices)], np.stack(formula(dataset, "val", 16))[indices])
    assert decoded == [dataset.root / dataset.splits["val"][4].path]


def test_a_store_in_the_place_of_another_is_not_believed(dataset: Dataset, tmp_path: Path) -> None:
    for split in ("val", "test"):
        open_image_stores(dataset, split, [16], tmp_path / "cache")
    test, val = sorted((tmp_path / "cache" / "images").glob("*.npy"))
    shutil.copy(test, val)
    store = open_image_stores(dataset, "val", [16], tmp_path / "cache")[16]
    np.testing.assert_array_equal(all_of(store), formula(dataset, "val", 16))


CHILD = """
import os, sys, time
from pathlib import Path
from benchmarks.data import image_store as images
from benchmarks.data.dataset import open_dataset
from benchmarks.images.decode import read_views
root, cache, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
decoded = []
def slow(*arguments):
    decoded.append(arguments)
    if len(decoded) == last:
        os.kill(os.getpid(), 9)
    time.sleep(0.05)
    return read_views(*arguments)
images.read_views = slow
dataset = open_dataset(str(root), root.parent, cache)
print("ready", flush=True)
sys.stdin.readline()
images.open_image_stores(dataset, "train", [16, 8], cache, on_wait=lambda: print("waiting", flush=True))
print(len(decoded))
"""


def start_child(dataset: Dataset, cache: Path, last: int) -> "subprocess.Popen[str]":
    """A process that builds the stores of `train` as soon as it is told to, and is killed at its `last` image."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    arguments = [str(dataset.root), str(cache), str(last)]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload]
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.process
def test_of_two_processes_one_builds(dataset: Dataset, tmp_path: Path) -> None:
    children = [start_child(dataset, tmp_path / "cache", 0) for _ in range(2)]
    for child in children:
        assert child.stdin is not None
        print("go", file=child.stdin, flush=True)
    said = [child.communicate() for child in children]
    assert sorted(int(out.split()[-1]) for out, _ in said) == [0, 6]


@pytest.mark.process
def test_who_waits_says_so(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "images"
    folder.mkdir(parents=True)
    child = start_child(dataset, tmp_path / "cache", 0)
    assert child.stdin is not None and child.stdout is not None
    with held_lock(folder / f".noise-{dataset.digest[:16]}-train.lease", pytest.fail):
        print("go", file=child.stdin, flush=True)
        assert child.stdout.readline() == "waiting\n"
    assert child.communicate() == ("6\n", "")


@pytest.mark.process
def test_a_killed_build_is_done_again(dataset: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    child = start_child(dataset, cache, 4)
    child.communicate("go\n")
    assert child.returncode == -signal.SIGKILL
    left = {path.name.rpartition(".")[2] for path in (cache / "images").iterdir()}
    assert left == {"lease", "building"}
    stores = open_image_stores(dataset, "train", [16, 8], cache)
    np.testing.assert_array_equal(all_of(stores[16]), formula(dataset, "train", 16))
    np.testing.assert_array_equal(all_of(stores[8]), formula(dataset, "train", 8))
    assert len(list((cache / "images").iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "junk"])
def test_an_unreadable_image_is_named_and_leaves_no_store(dataset: Dataset, tmp_path: Path, damage: str) -> None:
    bad = dataset.root / dataset.splits["test"][4].path
    bad.write_bytes(bad.read_bytes()[:700] if damage == "truncated" else b"this is no image")
    with pytest.raises(
        ValueError, match=r"image must be readable, got '.*test/b/1\.png': .*; replace or remove the file"
    ):
        open_image_stores(dataset, "test", [16], tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "images").iterdir()] == []


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"image must be readable, got '.*half\.jpg': .*truncated"):
        read_image(path, 16)


@pytest.mark.parametrize("reserves", [True, False], ids=["reserved", "written"])
def test_a_full_disk_is_said(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserves: bool) -> None:
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # no file can become larger, as on a full disk
    try:
        with pytest.raises(
            RuntimeError, match=r"image store needs 0\.0 GiB free in '.*images', got .* GiB \(.*\); free some space"
        ):
            open_image_stores(dataset, "train", [16], tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.suffix for path in (tmp_path / "cache" / "images").iterdir()] == []


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # white above black
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = read_image(tmp_path / "turned.png", 16)
    assert (image[:, :, 8:] == 255).all() and (image[:, :, :8] == 0).all()


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


def photograph(width: int, height: int) -> Image.Image:
    """Grey noise with a photograph's contrast and spectrum: amplitude falls with 1 / frequency."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / width)
    noise = np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape)), (height, width))
    pixels = (120 + 50 * noise / noise.std()).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def test_a_large_jpeg_is_decoded_at_a_fraction_and_stays_close(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    photograph(2240, 1488).save(path, quality=90)

    def resized(fraction: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
        image = Image.open(path)
        image.draft("RGB", (2240 // fraction, 1488 // fraction))
        assert image.size == (2240 // fraction, 1488 // fraction)
        return np.asarray(image.resize((512, 512), resampling)).transpose(2, 0, 1).astype(int)

    image, exact = read_image(path, 512).astype(int), resized(1)
    np.testing.assert_array_equal(image, resized(2))
    difference = np.abs(image - exact)
    assert 0 < difference.mean() < 2 and np.quantile(difference, 0.99) <= 6
    for other in (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR):
        assert difference.mean() < np.abs(resized(1, other) - exact).mean()
    np.testing.assert_array_equal(read_views(path, [512], decoding_side([768, 512]))[0], exact)


def test_small_views_do_not_depend_on_what_else_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    photograph(1600, 1500).save(path, quality=90)
    alone = read_image(path, 128)
    np.testing.assert_array_equal(read_views(path, [512, 128], decoding_side([512, 128]))[1], alone)


def test_an_image_is_described_as_it_is_shown(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).convert("RGB").save(tmp_path / "upright.bmp")
    Image.fromarray(pixels).save(tmp_path / "other.png")
    turned, upright, other = (inspect_image(tmp_path / name) for name in ("turned.png", "upright.bmp", "other.png"))
    assert (turned.width, turned.height, turned.mode, upright.mode) == (10, 20, "L", "RGB")
    assert turned.pixels == upright.pixels != other.pixels
    assert read_thumbnail(tmp_path / "turned.png", 10).size == (5, 10)


def test_results_come_in_order_and_few_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "num_workers", lambda: 2)
    given: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(40):
            given.append(number)
            yield number

    for position, result in enumerate(in_order(lambda number: number * number, numbers())):
        assert result == position * position
        assert len(given) <= position + 6
    assert position == 39
