"""Damaged images, dangerous archives and a full disk are one clear line, and leave no half-made dataset."""

import copy
import functools
import io
import os
import shutil
import stat
import zipfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import raw_trees
from prepared_trees import refused
from raw_trees import picture, save

import bench
from benchmarks.images import decode
from benchmarks.prepare.stage import Stage
from benchmarks.raw import files
from benchmarks.storage import locks
from datasets import DATASETS


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    return functools.partial(refused, tmp_path, capsys)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def test_corrupt_images_are_named_and_the_others_are_kept(
    refuse: Callable[..., None], raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.covid(raw)
    whole = (raw / "COVID_IEEE/virus/person1_virus_5.jpeg").read_bytes()
    (raw / "COVID_IEEE/virus/person1_virus_5.jpeg").write_bytes(whole[:-200])
    (raw / "COVID_IEEE/covid/empty.png").write_bytes(b"")
    incomplete = ("--allow-incomplete", "--skip-unreadable")
    counts = {"total": 26, "covid": 9, "normal": 8, "virus": 9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "covid", replace(DATASETS["covid"], expected=counts))
        refuse("covid", "images must be readable, got 2 that are not: ", "covid/empty.png", "run the same command")
    (raw / "COVID_IEEE/virus/person1_virus_5.jpeg").write_bytes(whole)
    command = ["prepare", "covid", "--raw", str(raw), "--data-root", str(raw.parent / "data"), *incomplete]
    assert bench.main(command) == 0
    said = capsys.readouterr().out
    assert "(1 converted now)" in said
    assert "left out, unreadable: 1 (COVID_IEEE/covid/empty.png (image must be readable, got " in said
    assert (
        '"reason": "unreadable: image must be readable, got ' in (raw.parent / "data/covid/manifest.json").read_text()
    )
    assert bench.main([*command[:-1], "--overwrite"]) == 2  # to be incomplete is no leave to lose images
    assert "or leave them out with --skip-unreadable" in capsys.readouterr().err


def test_a_bomb_of_an_image(refuse: Callable[..., None], raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw_trees.chncxr(raw)
    monkeypatch.setattr("benchmarks.prepare.build.check_listed", lambda info, found: None)
    monkeypatch.setattr("benchmarks.prepare.build.check_counts", lambda info, found: None)
    monkeypatch.setattr(decode, "MAX_PIXELS", 2000)
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


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_an_archive_with_devices(refuse: Callable[..., None], raw: Path, kind: int) -> None:
    device = zipfile.ZipInfo("CHNCXR_0001_0.png")
    device.external_attr = (kind | 0o666) << 16
    zipped(raw, device)
    refuse("chncxr", "archive must hold no devices, got 'CHNCXR_0001_0.png' in 'bad.zip'")


def test_an_archive_whose_members_share_their_bytes(
    refuse: Callable[..., None], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each member is in proportion; the directory names the same bytes a hundred times."""
    monkeypatch.setattr(files, "_RATIO_MATTERS_BYTES", 100_000)
    zipped(raw, "seed.png")
    data = np.random.default_rng(0).integers(0, 64, 90_000, np.uint8).tobytes()
    with zipfile.ZipFile(raw / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", data)
        for number in range(1, 1000):
            twin = copy.copy(archive.filelist[0])
            twin.filename = f"{number}.png"
            archive.filelist.append(twin)
    refuse("chncxr", "archive must not be a decompression bomb (", "bytes that become 90,000,000), got 'bad.zip'")


def test_an_archive_with_a_nameless_member(refuse: Callable[..., None], raw: Path) -> None:
    path = zipped(raw, "x.png")
    path.write_bytes(path.read_bytes().replace(b"x.png", b"\0.png"))  # zipfile ends names at the first NUL
    refuse("chncxr", "archive must keep its members inside, got '' in 'bad.zip'")


@pytest.mark.parametrize("where", ["local header", "content"])
@pytest.mark.parametrize("name", ["chncxr", "cmmd"])
def test_a_member_that_is_no_deflate_stream(
    refuse: Callable[..., None], raw: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    member = {"chncxr": "CHNCXR_0009_0.png", "cmmd": "1-1.dcm"}[name]
    raw_trees.BUILDERS[name](raw)
    with zipfile.ZipFile(raw / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, bytes(range(256)) * 9)
    data = bytearray((raw / "bad.zip").read_bytes())
    start = 0 if where == "local header" else 30 + len(member)
    data[start : start + 4] = b"\xff" * 4
    (raw / "bad.zip").write_bytes(data)
    monkeypatch.setattr("benchmarks.prepare.build.check_listed", lambda info, found: None)
    monkeypatch.setattr("benchmarks.prepare.build.check_counts", lambda info, found: None)
    refuse(name, f"got 'bad.zip!/{member}': ", "download it again")


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
    monkeypatch.setattr("benchmarks.prepare.build.check_listed", lambda info, found: None)
    monkeypatch.setattr("benchmarks.prepare.build.check_counts", lambda info, found: None)
    refuse("chncxr", "1 that are not: bad.zip!/CHNCXR_0009_0.png (archive must be readable, got", "Bad CRC-32")


def test_two_different_images_of_one_name(refuse: Callable[..., None], raw: Path) -> None:
    raw_trees.chncxr(raw)
    save(picture(1, width=80), raw / "another" / "CHNCXR_0009_0.png")
    save(picture(1, width=90), raw / "other" / "CHNCXR_0009_0.png")
    refuse("chncxr", "image CHNCXR_0009_0 must be there once, got", "remove one of them from")


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


def test_the_lock_of_a_dead_machine_needs_no_removal_by_hand(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.5)
    raw_trees.chncxr(raw)
    lock = tmp_path / "data/.chncxr.lease"
    lock.parent.mkdir()
    lock.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=a\nduration=0.5\n")
    with Stage(tmp_path / "data/chncxr", {}) as stage:
        assert (stage.lock.holder() or "").startswith(f"process {os.getpid()} on ")
    said = "chncxr was being prepared by process 1 on elsewhere: looking for up to 60 s whether it still is"
    assert said in capsys.readouterr().err


def test_two_at_a_time_do_not_mix(refuse: Callable[..., None], raw: Path, tmp_path: Path) -> None:
    raw_trees.chncxr(raw)
    with Stage(tmp_path / "data/chncxr", {}) as stage:
        holder = f"chncxr is being prepared by process {os.getpid()} on "
        refuse("chncxr", holder, "; wait for it, or end it (its lock is ", options=("--allow-incomplete",))
        stage.lock.lost.set()
        with pytest.raises(RuntimeError, match=holder):
            stage.publish()
    assert not stage.lock.path.exists()
