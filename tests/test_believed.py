"""What is kept between runs is believed only while it is what was written: a run after any edit is the run before."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_process import TINY, records
from inside import finish_inside
from PIL import Image
from tiny_images import make_images

import bench
from benchmarks.data import hashes
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.storage.files import read_sealed, seal

RUN = ("--methods", "linear", *TINY, "--epochs", "2", "--preload", "off")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    make_images(folder / "images")
    assert finish_inside(folder, *RUN).returncode == 0
    return folder


def run_again(before: Path, cache: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The record of the same run on another cache, and what was said on stderr."""
    ended = finish_inside(before, *RUN, "--cache", str(cache), "--results", str(cache.parent / "results"), *options)
    assert ended.returncode == 0, ended.stderr
    return records(cache.parent / "results")["linear"], ended.stderr


def told(record: dict[str, Any]) -> list[Any]:
    """What a run has found out, but for the time that it took."""
    measured, names = record["measurements"], ("epoch", "loss", "val_auc")
    history = [[epoch[name] for name in names] for epoch in measured["history"]]
    scores = [measured[name] for name in ("val", "test", "predicted_memory", "parameters")]
    return [record["run_id"], history, *scores, record["run"]["dataset"]]


def invert_half(store: Path) -> None:
    images = np.load(store, mmap_mode="r+")
    images[: len(images) // 2] = 255 - images[: len(images) // 2]


def zero(store: Path) -> None:
    np.load(store, mmap_mode="r+")[:] = 0


def edit(folder: Path, pattern: str, other: str) -> Path:
    """Replaces what matches in the only file of a folder, which stays as readable as it was."""
    (path,) = folder.iterdir()
    before = path.read_text()
    path.write_text(re.sub(pattern, other, before))
    assert path.read_text() != before
    return path


@pytest.mark.slow
def test_a_run_on_edited_caches_is_the_run_before(before: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(before / ".cache", cache)
    normalization = edit(cache / "normalization", r'"mean": \[[^]]*\]', '"mean": [0.01, 0.9, 0.3]')
    prediction = edit(cache / "predictions", r'"allocated": \d+', '"allocated": 7')
    stores = sorted(cache.glob("images/*.npy"))
    for store, damage in zip(stores, (zero, invert_half, zero), strict=True):
        damage(store)
    record, said = run_again(before, cache)
    assert told(record) == told(records(before / "results")["linear"])
    anew = "is made anew: its content must have the digest in its first line, got another"
    assert f"note: normalization/{normalization.name} {anew}\n" in said  # read when the suite is planned
    assert sorted(record["run"]["notes"]) == [
        *(f"image store {store.name} is damaged: the damaged images are made anew" for store in stores),
        f"predictions/{prediction.name} {anew}",
    ]
    for path in (*stores, normalization, prediction):
        assert path.read_bytes() == (before / ".cache" / path.parent.name / path.name).read_bytes()


def open_at(root: Path, cache: str = "cache", verify: bool = False) -> Dataset:
    return open_dataset(str(root), root.parent, root.parent / cache, verify)


@pytest.mark.parametrize("folder", ["hashes", "depths", "normalization"])
def test_what_a_dataset_is_opened_with_is_made_anew(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_images(tmp_path / "images")
    dataset = open_at(root)
    (path,) = (tmp_path / "cache" / folder).iterdir()
    whole = path.read_bytes()
    edit(path.parent, r"[0-9a-f]{64}\"|null|0\.\d", {"hashes": "0" * 64 + '"', "depths": "[0, 9]"}.get(folder, "0.1"))
    assert open_at(root) == dataset and path.read_bytes() == whole
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert note.startswith(f"note: {folder}/{path.name} is made anew: its content must have the digest")


@pytest.mark.parametrize("put", [shutil.copy2, os.replace], ids=["cp -p", "rsync"])
def test_a_copy_that_keeps_size_and_time_makes_another_dataset(
    tmp_path: Path, put: Callable[[Path, Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    root, other = make_images(tmp_path / "images"), tmp_path / "other.png"
    path = root / "test/dark/1.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(other)
    size = max(file.stat().st_size for file in (path, other))
    for file in (path, other):
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    first, status = open_at(root), path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    put(other, path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    checked = check_full(root, capsys)
    assert checked == (1, {"test/dark/1.png": ("problem", f"{CHANGED}, though with the same size and {ADVICE}")})
    again = open_at(root)
    assert again.digest == open_at(root, "new").digest != first.digest
    assert check_full(root, capsys) == (0, {})


CHANGED = "has another content than when it was last hashed"
ADVICE = "time of modification; put the right file there, or take this one with run --verify-data"


def check_full(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """Status of `bench.py check --full`, and what it finds of contents, by path."""
    capsys.readouterr()
    cache = str(root.parent / "cache")
    status = bench.main(["check", str(root), "--full", "--cache", cache, "--format", "json"])
    found = json.loads(capsys.readouterr().out)["findings"]
    return status, {row["where"]: (row["level"], row["detail"]) for row in found if row["check"] == "content"}


def test_check_says_what_else_differs_and_leaves_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_images(tmp_path / "images")
    assert check_full(root, capsys) == (0, {}) and not (tmp_path / "cache/hashes").exists()
    open_at(root)
    shutil.copy(root / "val/dark/0.png", root / "val/dark/9.png")
    (root / "val/dark/0.png").unlink()
    Image.new("RGB", (48, 40), "red").save(root / "val/dark/1.png")
    for _ in range(2):
        assert check_full(root, capsys)[1] == {
            "val/dark/0.png": ("note", "was hashed before and is gone"),
            "val/dark/1.png": ("note", CHANGED),
        }


def forget_one(cache: Path) -> str:
    """Has a file known by another content than it has, as one whose disk has changed it is."""
    (path,) = cache.glob("hashes/*")
    known = json.loads(read_sealed(path))
    name = "val/dark/1.png"
    known[name][-1] = "0" * 64
    path.write_bytes(seal(path, json.dumps(known).encode()))
    return name


def test_files_are_hashed_again_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_images(tmp_path / "images")
    fresh = open_at(root)
    name = forget_one(tmp_path / "cache")
    assert open_at(root).digest != fresh.digest
    capsys.readouterr()
    assert open_at(root, verify=True) == fresh
    assert capsys.readouterr().err == (
        f"note: 1 of the files of images differ from what was known of them: {name} {CHANGED}, though with the same "
        "size and time of modification\n"
    )
    assert open_at(root, verify=True) == open_at(root) == fresh
    assert "note" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_hashes_again_before_it_trains(before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the cache cannot be written, so that what the planning of the suite found is not known to the run."""
    shutil.copytree(before / ".cache", tmp_path / "cache")
    name = forget_one(tmp_path / "cache")
    monkeypatch.setattr(hashes, "write_cached", lambda *_: None)
    record, said = run_again(before, tmp_path / "cache", "--verify-data")
    assert told(record) == told(records(before / "results")["linear"])
    (note,) = record["run"]["notes"]
    assert note.startswith(f"1 of the files of images differ from what was known of them: {name} {CHANGED}")
    assert f"note: {note}\n" in said
