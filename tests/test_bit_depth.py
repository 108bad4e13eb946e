"""One bit depth for all of a dataset, in run, check and prepare; folders of 16-bit colour and of one's own DICOM."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deep_images import CLASSES, COUNTS, dicom, folder, marked, noise, png16, several
from PIL import Image
from prepared_trees import about, prepare, rows
from raw_trees import mini_ddsm
from tiny_images import NOTED, all_of, make_images

import bench
from benchmarks.data import bit_depth
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.data.hashes import path_key
from benchmarks.data.image_store import open_image_stores
from benchmarks.errors import UserError
from benchmarks.images.decode import read_extent
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.plan import make_plan
from benchmarks.suite.run import Run
from benchmarks.training.clock import Clock
from datasets import DATASETS

SIDE = 16


def open_at(root: Path) -> Dataset:
    return open_dataset(str(root), root.parent / "data", root.parent / "cache")


def away_from_the_mark(root: Path, high: int) -> tuple[Any, Any]:
    """The training store without the corner of the mark, and the same of the noise alone by the formula."""
    dataset = open_at(root)
    store = open_image_stores(dataset, "train", [SIDE], root.parent / "cache")[SIDE]
    expected = []
    for number in range(1, 1 + len(CLASSES) * COUNTS["train"]):
        grey = Image.fromarray(np.round(noise(number) / high * 255).astype(np.uint8))
        expected.append(np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return all_of(store)[:, 0, 4:, 4:], np.stack(expected)[:, 4:, 4:]


def checked(root: Path, capsys: pytest.CaptureFixture[str], name: str = "") -> tuple[int, dict[str, Any]]:
    """Status and tables of bench.py check."""
    capsys.readouterr()
    status = bench.main(["check", name or str(root), "--cache", str(root.parent / "cache"), "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def depth_findings(tables: dict[str, Any], level: str = "problem") -> dict[str, str]:
    found = (row for row in tables["findings"] if (row["check"], row["level"]) == ("depth", level))
    return {row["where"]: row["detail"] for row in found}


def build_marked(name: str, number: int) -> bytes:
    return png16(marked(name, number))


def test_a_burned_in_mark_in_one_class_changes_no_brightness(tmp_path: Path) -> None:
    """Scaled by its own brightest pixel, each marked image would be a sixteenth as bright as a clean one."""
    root = folder(tmp_path / "xray", build_marked)
    assert open_at(root).scale == (0, 14)
    np.testing.assert_array_equal(*away_from_the_mark(root, 2**14 - 1))
    (root / "bit_depth.txt").write_text("12\n")
    np.testing.assert_array_equal(*away_from_the_mark(root, 2**12 - 1))


def test_one_file_with_a_hot_pixel_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    def hot(name: str, number: int) -> bytes:
        values = noise(number)
        if number == 1:
            values[0, 0] = 60_000
        return png16(values)

    root = folder(tmp_path / "xray", hot)
    (root / "bit_depth.txt").write_text("12")
    dataset = open_at(root)
    store = open_image_stores(dataset, "train", [32], tmp_path / "cache")[32]
    expected = np.round(noise(2) / 4095 * 255).astype(np.uint8)
    view = Image.fromarray(expected).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(all_of(store)[1], np.broadcast_to(np.asarray(view), (3, 32, 32)))


def test_check_names_values_beyond_a_stated_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "xray", build_marked)
    status, tables = checked(root, capsys)
    (note,) = depth_findings(tables, "note").values()
    assert status == 0 and not depth_findings(tables)
    assert "has the highest value, 4400, so that the depth of all is 14 bits (enough would be 12 for 8 images, " in note
    (root / "bit_depth.txt").write_text("12")
    status, tables = checked(root, capsys)
    beyond = depth_findings(tables)
    assert status == 1 and set(beyond) == {
        f"{split}/marked/{index}.png" for split, count in COUNTS.items() for index in range(count)
    }
    assert "4400, beyond the 0..4095 of 12 bits: clipped; mend it" in beyond["test/marked/0.png"]
    assert not depth_findings(tables, "note")


def test_check_names_a_mixture_of_depths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "mixed", lambda _, number: png16(noise(number)))
    Image.fromarray(noise(99, 8).astype(np.uint8)).save(root / "val/clean/eight.png")
    (root / "val/clean/window.dcm").write_bytes(dicom(noise(98), WindowCenter="2048", WindowWidth="4096"))
    (root / "val/clean/colour.png").write_bytes(png16(noise(97, 12, 3)))
    status, tables = checked(root, capsys)
    modes = "16 I;16, 1 RGB;16, 1 L, 1 MONOCHROME2;12 windowed"
    detail = depth_findings(tables)["all"]
    assert status == 1 and detail.startswith("8-bit files and deeper ones are mixed (16 I;16, ")
    assert sorted(detail.split("(")[1].split(")")[0].split(", ")) == sorted(modes.split(", "))
    assert depth_findings(tables, "note")["all"].startswith("grey and colour files are mixed (")


def test_a_depth_enters_the_digest_only_where_it_is_of_use(tmp_path: Path) -> None:
    eight = make_images(tmp_path / "eight")
    plain = open_at(eight)
    (eight / "bit_depth.txt").write_text("12")
    assert open_at(eight) == plain and plain.scale is None
    root = folder(tmp_path / "deep", lambda _, number: png16(noise(number)))
    found = open_at(root)
    (root / "bit_depth.txt").write_text("12")
    assert open_at(root) == found and found.scale == (0, 12)
    (root / "bit_depth.txt").write_text("14")
    assert open_at(root).digest != found.digest


def test_the_depth_is_found_once_over_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counted(file: Any, name: str) -> Any:
        looked.append(name)
        return read_extent(file, name)

    monkeypatch.setattr(bit_depth, "read_extent", counted)
    root = folder(tmp_path / "deep", lambda _, number: png16(noise(number, 10)))
    (root / "test/clean/1.png").write_bytes(png16(noise(77, 13)))  # the brightest is none of training
    assert open_at(root).scale == (0, 14)
    assert len(looked) == len(set(looked)) == 2 * sum(COUNTS.values())
    assert open_at(root).scale == (0, 14) and len(looked) == 2 * sum(COUNTS.values())
    (kept,) = (tmp_path / "cache/depths").iterdir()
    for damage in ('{"extent": [0]}', '{"extent": ["a", 1]}', "{", "[]"):
        kept.write_text(damage)
        assert open_at(root).scale == (0, 14)
    assert len(looked) == 5 * 2 * sum(COUNTS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "twelve",
            r"bit_depth\.txt must be a number of bits from 8 to 16, got 'twelve' in '.*'; mend it, or remove it",
        ),
        ("", r"bit_depth\.txt must be a number of bits from 8 to 16, got ''"),
        ("32", r"bit_depth\.txt must be a number of bits from 8 to 16, got '32'"),
        ("\xff", r"bit_depth\.txt must be a text file in UTF-8, got "),
    ],
)
def test_a_wrong_statement_is_refused_by_run_and_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    root = folder(tmp_path / "deep", lambda _, number: png16(noise(number)))
    (root / "bit_depth.txt").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        open_at(root)
    status, tables = checked(root, capsys)
    assert status == 1 and depth_findings(tables)["bit_depth.txt"].startswith("bit_depth.txt must be ")


def test_the_depth_of_a_table_entry_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(DATASETS["covid"], classes=CLASSES, bit_depth=16)
    monkeypatch.setitem(DATASETS, "covid", entry)
    root = folder(tmp_path / "data/covid", lambda _, number: png16(noise(number)))
    assert open_dataset("covid", tmp_path / "data", tmp_path / "cache").scale == (0, 16)
    (root / "bit_depth.txt").write_text("12")
    with pytest.raises(UserError, match=r"bit_depth\.txt must be 16, as the dataset's file says, got 12 in .*; remove"):
        open_dataset("covid", tmp_path / "data", tmp_path / "cache")


def test_values_of_more_than_16_bits_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "deep", lambda _, number: png16(noise(number)))
    values = noise(1).astype(np.int32)
    values[0, 0] = 70_000
    Image.fromarray(values).save(root / "test/clean/wide.tif")
    with pytest.raises(UserError, match=r"values must span at most 16 bits, got \d+\.\.70000; save the images with"):
        open_at(root)
    status, tables = checked(root, capsys)
    assert status == 1 and "values must span at most 16 bits" in depth_findings(tables)["bit_depth.txt"]
    assert "beyond the 0..65535 of 16 bits" in depth_findings(tables)["test/clean/wide.tif"]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "DICOM"])
def test_several_pictures_in_a_file_are_refused_by_run_check_and_prepare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    root, said = make_images(tmp_path / "images"), "it must hold one picture, got 3 "
    (root / "val/dark/several").write_bytes(several(kind))
    status, tables = checked(root, capsys)
    (finding,) = (row for row in tables["findings"] if row["check"] not in NOTED)
    assert status == 1 and finding["where"] == "val/dark/several" and said in finding["detail"]
    with pytest.raises(UserError, match=rf"got '.*val/dark/several': .*{said}"):
        open_at(root)
    mini_ddsm(tmp_path / "raw")
    image = next((tmp_path / "raw/MINI-DDSM-Complete-JPEG-8/Normal/0001").glob("*.jpg"))
    image.write_bytes(several(kind))
    entry = dataclasses.replace(DATASETS["mini_ddsm"], expected={"total": 48})
    monkeypatch.setitem(DATASETS, "mini_ddsm", entry)
    assert prepare("mini_ddsm", tmp_path / "raw", tmp_path / "data") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench.py: ") and said in line


def deep_download(folder: Path) -> None:
    """Mini-DDSM's 16-bit PNG alone, of 12-bit values; one image has a mark of 4400, one a broken pixel."""
    mini_ddsm(folder)
    for path in folder.rglob("*.jpg"):
        path.unlink()
    images = sorted((folder / "MINI-DDSM-Complete-PNG-16").rglob("*.png"))
    for number, path in enumerate(images):
        values = noise(number)
        values[0, 0] = 4400 if number == 3 else values[0, 0]
        path.write_bytes(png16(values))


@pytest.mark.parametrize(("options", "bits"), [("", 14), ("--bit-depth 12", 12)])
def test_prepare_scales_all_images_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, bits: int
) -> None:
    deep_download(tmp_path / "raw")
    options_given = ("--allow-incomplete", *shlex.split(options))
    assert prepare("mini_ddsm", tmp_path / "raw", tmp_path / "data", *options_given) == 0
    root = tmp_path / "data/mini_ddsm"
    sources = sorted((tmp_path / "raw/MINI-DDSM-Complete-PNG-16").rglob("*.png"))
    by_source = {row["source"]: row["path"] for row in rows(root)}
    for number, source in enumerate(sources):
        values = noise(number)
        values[0, 0] = 4400 if number == 3 else values[0, 0]
        expected = np.round(values.clip(0, 2**bits - 1) / (2**bits - 1) * 255)
        path = root / by_source[source.relative_to(tmp_path / "raw").as_posix()]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    assert (
        about(root)["bit_depth"] == open_dataset("mini_ddsm", tmp_path / "data", tmp_path / "cache").bit_depth == bits
    )
    out = capsys.readouterr().out
    assert f"note: 48 of 48 images have more than 8 bits: white is {2**bits - 1} ({bits} bits)" in out
    beyond = re.search(r"note: 1 images have values beyond that, of \d+\.\.4400, which are clipped", out)
    assert (beyond is not None) == (bits == 12)
    other = ("--allow-incomplete", "--bit-depth", "13")
    assert prepare("mini_ddsm", tmp_path / "raw", tmp_path / "data", *other) == 2
    assert "bit depth " in capsys.readouterr().err
    assert prepare("mini_ddsm", tmp_path / "raw", tmp_path / "data", *other, "--overwrite") == 0
    assert about(root)["bit_depth"] == 13 and "(48 converted now)" in capsys.readouterr().out


def run_on(root: Path) -> dict[str, Any]:
    """What the record of a small training says of the dataset."""
    options = SuiteOptions(
        methods=("linear",), datasets=(str(root),), res=(32,), backbone="vit_tiny_patch16_224", weights="none",
        epochs=1, batch_size=4, preload="off", device=("cpu",), cache=root.parent / "cache",
    )  # fmt: skip
    planned = make_plan(options).runs[0]
    run = Run(planned.config, planned.places, planned.weights, Clock(), lambda *_, **__: None)
    run.execute()
    assert 0 <= run.measurements["test"]["auc"] <= 1
    return dict(run.run["dataset"])


@pytest.mark.slow
def test_check_and_run_on_a_folder_of_16_bit_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "colour", lambda _, number: png16(noise(number, 12, 3)))
    status, tables = checked(root, capsys)
    assert status == 0 and {row["mode"] for row in tables["pixels"]} == {"RGB;16"}
    assert run_on(root)["bit_depth"] == 12


def own_dicom(name: str, number: int) -> bytes:
    return dicom(noise(number) // (1 + (name == "marked")), RescaleSlope="1", RescaleIntercept="0")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_check_and_run_on_a_folder_of_ones_own_dicom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    root = folder(tmp_path / "scans", own_dicom, suffix)
    (root / f"test/clean/copy{suffix}").write_bytes((root / f"train/clean/0{suffix}").read_bytes())
    status, tables = checked(root, capsys)
    assert status == 1 and {row["mode"] for row in tables["pixels"]} == {"MONOCHROME2;12"}
    (leak,) = (row for row in tables["findings"] if row["check"] not in NOTED)
    assert leak["check"] == "leak" and "is in train and test, the same image as test/clean/copy" in leak["detail"]
    assert (tables["sizes"][-1]["width_max"], tables["sizes"][-1]["height_max"]) == (32, 24)
    sheet = np.asarray(Image.open(tmp_path / f"cache/check/scans-{path_key(root)}.png"))
    assert len(np.unique(sheet[60:160, 150:262])) > 50  # noise, where the first image is
    (root / f"test/clean/copy{suffix}").unlink()
    assert checked(root, capsys)[0] == 0
    assert run_on(root)["bit_depth"] == 12
