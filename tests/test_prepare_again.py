"""bench.py prepare twice, with other settings, with more images, after a kill; and what it never touches."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import raw_trees
from bench_process import BENCH, finish
from prepared_trees import about, contents, prepare
from raw_trees import EXPECTED, picture, save

from benchmarks.data.dataset import open_dataset
from datasets import DATASETS


def test_raw_files_are_never_touched(tmp_path: Path) -> None:
    raw_trees.chncxr(tmp_path / "raw")
    before = contents(tmp_path / "raw")
    assert prepare("chncxr", tmp_path / "raw", tmp_path / "copied", "--allow-incomplete") == 0
    for path in (tmp_path / "copied").rglob("*.png"):
        path.write_bytes(b"edited in place")
    assert contents(tmp_path / "raw") == before
    assert prepare("chncxr", tmp_path / "raw", tmp_path / "linked", "--allow-incomplete", "--link") == 0
    linked = next((tmp_path / "linked").rglob("CHNCXR_0003_0.png"))
    assert linked.stat().st_nlink == 2


def test_other_settings_need_overwrite_and_convert_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.chncxr(tmp_path / "raw")
    first = ["chncxr", tmp_path / "raw", tmp_path / "data", "--allow-incomplete"]
    assert prepare(*first) == 0  # type: ignore[arg-type]
    old = contents(tmp_path / "data/chncxr")
    assert prepare(*first, "--seed", "5") == 2  # type: ignore[arg-type]
    assert "prepared with the same settings, got seed 0 instead of 5; give --overwrite" in capsys.readouterr().err
    assert contents(tmp_path / "data/chncxr") == old
    assert prepare(*first, "--seed", "5", "--overwrite") == 0  # type: ignore[arg-type]
    assert "(0 converted now)" in capsys.readouterr().out
    new = contents(tmp_path / "data/chncxr")
    assert new.keys() != old.keys()
    assert sorted(new.values())[:-1] != [] and {Path(path).name for path in new} == {Path(path).name for path in old}
    assert prepare(*first, "--seed", "5", "--max-side", "30", "--overwrite") == 0  # type: ignore[arg-type]
    assert "(13 converted now)" in capsys.readouterr().out
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data/chncxr"]


def test_what_was_missing_is_added_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_trees.chncxr(tmp_path / "raw")
    late = next((tmp_path / "raw").rglob("CXR_png/CHNCXR_0329_1.png"))
    late.rename(tmp_path / "late.png")
    command = ["chncxr", tmp_path / "raw", tmp_path / "data", "--allow-incomplete"]
    assert prepare(*command) == 0  # type: ignore[arg-type]
    (tmp_path / "late.png").rename(late)
    assert prepare(*command) == 0  # type: ignore[arg-type]
    assert "13 images in" in (out := capsys.readouterr().out)
    assert "(1 converted now)" in out
    next((tmp_path / "data").rglob("CHNCXR_0330_1.png")).unlink()
    assert prepare(*command) == 0  # type: ignore[arg-type]
    assert "(1 converted now)" in capsys.readouterr().out


def test_an_edited_image_is_converted_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_trees.chncxr(tmp_path / "raw")
    command = ["chncxr", tmp_path / "raw", tmp_path / "data", "--allow-incomplete"]
    assert prepare(*command) == 0  # type: ignore[arg-type]
    path = next((tmp_path / "data").rglob("CHNCXR_0330_1.png"))
    whole, status = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-1] + b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` leaves it
    assert prepare(*command, "--overwrite") == 0  # type: ignore[arg-type]
    assert "(1 converted now)" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_counts_are_asserted_where_the_download_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.messidor2(tmp_path / "raw")
    assert prepare("messidor2", tmp_path / "raw", tmp_path / "data") == 2
    assert "counts of messidor2 must be as published, got total 59 instead of 1,744, 0 13" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    counts = {"total": 59, **EXPECTED["messidor2"][0], "images listed": 60, "images in pairs": 60}
    monkeypatch.setitem(DATASETS, "messidor2", replace(DATASETS["messidor2"], expected=counts))
    assert prepare("messidor2", tmp_path / "raw", tmp_path / "data") == 0
    assert about(tmp_path / "data/messidor2")["complete"] is True


@pytest.mark.process
def test_the_same_command_finishes_what_a_kill_left(tmp_path: Path) -> None:
    for number in range(1, 31):
        for label, offset in ((0, 0), (1, 326)):
            stem = f"CHNCXR_{number + offset:04}_{label}"
            save(picture(number + 500 * label, "P", 700, 700), tmp_path / "raw" / f"{stem}.png")
    command = ["prepare", "chncxr", "--raw", "raw", "--allow-incomplete", "--max-side", "400"]
    partial = tmp_path / "data" / ".chncxr.partial"
    journal = partial / "journal.jsonl"
    for wanted in (3, 20):
        process = subprocess.Popen(
            [sys.executable, BENCH, *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= wanted):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "data" / "chncxr").exists()
    kept = {path.name: path.stat().st_ino for path in (partial / "converted").glob("[!.]*")}
    noted = {json.loads(line)["name"] for line in journal.read_text().splitlines() if line.endswith("}")}
    done = finish(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert not partial.exists()
    finished = {path.name: path.stat().st_ino for path in (tmp_path / "data/chncxr").glob("*/*/*")}
    assert all(finished[name] == kept[name] for name in noted)
    assert finish(tmp_path, *command, "--data-root", "undisturbed").returncode == 0
    assert contents(tmp_path / "data/chncxr") == contents(tmp_path / "undisturbed/chncxr")


@pytest.mark.parametrize("overwritten", [False, True])
def test_an_end_at_any_rename_leaves_what_the_same_command_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwritten: bool
) -> None:
    raw_trees.chncxr(tmp_path / "raw")
    command = ["chncxr", tmp_path / "raw", tmp_path / "data", "--allow-incomplete", "--seed", "1", "--overwrite"]
    assert prepare(*command) == 0  # type: ignore[arg-type]
    expected = contents(tmp_path / "data/chncxr")
    rename = Path.rename
    for last in (0, 1, 12, 13, 14):  # 13 images go to their places, then the old dataset goes, then the new one comes
        shutil.rmtree(tmp_path / "data")
        if overwritten:
            assert prepare("chncxr", tmp_path / "raw", tmp_path / "data", "--allow-incomplete") == 0
        left = iter(range(last))

        def stop(path: Path, place: Path, left: Iterator[int] = left) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return rename(path, place)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", stop)
            ended = prepare(*command)  # type: ignore[arg-type]
        assert ended == (0 if last == 14 and not overwritten else 130)
        assert prepare(*command) == 0  # type: ignore[arg-type]
        assert contents(tmp_path / "data/chncxr") == expected
        assert list((tmp_path / "data").iterdir()) == [tmp_path / "data/chncxr"]


def test_file_names_that_are_no_text_or_clash_once_cleaned(tmp_path: Path) -> None:
    lenient = ("--allow-incomplete", "--skip-unreadable")
    raw_trees.covid(tmp_path / "raw")
    home = tmp_path / "raw/COVID_IEEE/covid"
    for number, name in enumerate(
        (b"\xff\xfe.png", b"a b.png", b"a(b.png", b"A b.png", b"a b.jpeg", "肺炎.png".encode())
    ):
        save(picture(9000 + number), home / os.fsdecode(name), "PNG")
    save(picture(1), home / os.fsdecode(b"empty\xff.png")).write_bytes(b"")
    assert prepare("covid", tmp_path / "raw", tmp_path / "data", *lenient) == 0
    assert sum(about(tmp_path / "data/covid")["counts"][split]["covid"] for split in ("train", "val", "test")) == 14
    assert open_dataset("covid", tmp_path / "data", tmp_path / "cache").split_origin is not None
    assert prepare("covid", tmp_path / "raw", tmp_path / "data", *lenient) == 0


def test_published_counts_add_up() -> None:
    for info in DATASETS.values():
        expected = info.expected
        for whole in ("total", *info.official):
            prefix = "" if whole == "total" else f"{whole}/"
            parts = [expected[prefix + name] for name in info.classes if prefix + name in expected]
            if whole in expected and parts:
                assert sum(parts) == expected[whole]


def test_published_counts_of_classes() -> None:
    assert DATASETS["ddr"].expected_counts == {"0": 6266, "1": 630, "2": 4477, "3": 236, "4": 913}
    assert DATASETS["isic2016"].expected_counts == {"benign": 1031, "malignant": 248}
    assert DATASETS["isic2018"].expected_counts is None  # those of the validation split are not published


def test_a_whole_download_needs_no_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1, 663):
        save(picture(number, "L", 12, 12), tmp_path / "raw" / f"CHNCXR_{number:04}_{int(number > 326)}.png")
    assert prepare("chncxr", tmp_path / "raw", tmp_path / "data") == 0
    out = capsys.readouterr().out
    assert "662 images in" in out and "note" not in out
    assert "train (ours): normal 228, tuberculosis 235" in out
    assert "val   (ours): normal 33, tuberculosis 34" in out
