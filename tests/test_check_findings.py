"""bench.py check of a table of findings: its faults, all at once, and shortcuts to single findings."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finding_images import COUNTS, NAMES, make_findings
from PIL import Image, ImageDraw
from test_check import Checked
from test_concerns import tissue

from benchmarks.check.shortcuts import LEAST, probes
from benchmarks.check.survey import survey

Draw = Callable[[Image.Image, dict[str, int], np.random.Generator], Image.Image]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_findings(tmp_path / "images")


def change(root: Path, *cells: tuple[str, str, str], added: list[list[str]] | None = None) -> None:
    """Sets cells, each by path, column and value, and adds rows."""
    table = pd.read_csv(root / "labels.csv", dtype=str, keep_default_na=False).set_index("path", drop=False)
    for path, column, value in cells:
        table.loc[path, column] = value
    rows = [list(table.columns), *table.values.tolist(), *(added or [])]
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_table_without_faults_is_counted_as_it_says(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = Checked(capsys)
    assert checked.status == 0 and checked.kinds() == {("note", "few")}
    table = pd.read_csv(root / "labels.csv")
    for row in checked.tables["images"]:
        values = table.loc[table["split"] == row["split"], row["finding"]]
        numbers = [
            int((values == 1).sum()),
            int((values == 0).sum()),
            int((values == -1).sum()),
            int(values.isna().sum()),
        ]
        assert [row["with"], row["without"], row["uncertain"], row["unknown"]] == numbers
        assert row["percent"] == round(100 * numbers[0] / (numbers[0] + numbers[1]), 1)
    assert len(checked.tables["images"]) == 3 * len(NAMES)
    assert {row["split"]: row["images"] for row in checked.tables["splits"]} == COUNTS
    with_none = (table[list(NAMES)] != 1).all(axis=1).groupby(table["split"]).sum()
    assert {row["split"]: row["with_none"] for row in checked.tables["splits"]} == with_none.to_dict()


def test_findings_that_few_patients_have_are_named_by_split(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(root / "labels.csv")
    for split, said in Checked(capsys).found("few", "note").items():
        for name in NAMES:
            for value, words in ((1, "with"), (0, "without")):
                part = table[(table["split"] == split) & (table[name] == value)]
                patients = part["group"].nunique()
                assert (f"{patients} {words} {name}" in said) == (patients < 10)


def test_every_fault_of_a_table_is_found_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = root / "scans"
    shutil.copy(scans / "train0.png", scans / "test0.png")
    shutil.copy(scans / "train2.png", scans / "train5.png")
    (scans / "train7.png").write_bytes(b"no image")
    shutil.copy(scans / "val1.png", scans / "beside.png")
    Image.open(scans / "train9.png").convert("L").save(scans / "train9.png")
    change(
        root,
        ("scans/train0.png", "bright", "1"),
        ("scans/test0.png", "bright", "1"),
        *(("scans/train2.png", name, "1") for name in NAMES),
        *(("scans/train5.png", name, value) for name, value in zip(NAMES, ("0", "1", ""), strict=True)),
        ("scans/test4.png", "group", "train6"),
        added=[["scans/gone.png", "train", "new", "0", "0", "0"], ["../out.png", "train", "new", "0", "0", "0"]],
    )
    checked = Checked(capsys)
    assert checked.status == 1
    assert checked.found("leak") == {
        "train6": "this group is in test and train: scans/test4.png, scans/train12.png; keep it in one split",
        "scans/test0.png": "is in train and test, the same image as scans/train0.png; keep it in one split",
    }
    label = checked.found("label")
    assert label["scans/train2.png"] == "is with and without bright, the same image as scans/train5.png; decide on one"
    files = checked.found("file")
    assert files["scans/gone.png"] == "is not there; replace or remove it"
    assert files["../out.png"].startswith("is no path inside the folder") and "scans/train7.png" in files
    assert checked.found("unlisted", "note") == {
        "labels.csv": "1 images of the folder are not in the table and will not be used: scans/beside.png"
    }
    assert "see in the table of pixels whether that goes with a finding" in checked.found("depth", "note")["all"]


def test_what_a_run_would_refuse_is_a_problem(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(root / "labels.csv", dtype=str, keep_default_na=False)
    table.loc[table["split"] == "train", "rare"] = "0"
    table.loc[table["split"] == "val", "split"] = "train"
    table.loc[table["split"] == "train", "bright"] = ""
    table.to_csv(root / "labels.csv", index=False)
    checked = Checked(capsys)
    assert checked.found("count") == {
        "val": "labels.csv must have images in train, val and test, got none in val; add some",
        "train": "labels.csv must have training images with and without each finding, got none without bright; take "
        "the column out, or add some",
    }
    assert checked.found("unknown", "note")["train"].startswith("is not known, or uncertain, of more than half")


def test_small_images_are_counted_by_finding(capsys: pytest.CaptureFixture[str]) -> None:
    (said,) = Checked(capsys, "images --res 64").found("size", "note").values()
    table = pd.read_csv("images/labels.csv")
    assert "100 of 100 images" in said
    assert f"with findings: {', '.join(f'{int((table[name] == 1).sum())} {name}' for name in NAMES)}" in said


def plain(image: Image.Image, has: dict[str, int], rng: np.random.Generator) -> Image.Image:
    return image


def mark_of_tube(image: Image.Image, has: dict[str, int], rng: np.random.Generator) -> Image.Image:
    if has["tube"]:
        ImageDraw.Draw(image).text((1, 0), "R", (200, 200, 200))
    return image


def size_of_mass(image: Image.Image, has: dict[str, int], rng: np.random.Generator) -> Image.Image:
    return image.resize((64, 60)) if has["mass"] and rng.random() < 0.9 else image


def planted(root: Path, draw: Draw, number: int = 160, seed: int = 0) -> Path:
    """Three findings that are drawn by lot, each alone, and unknown of a tenth of the images."""
    rng = np.random.default_rng(seed)
    names = ("mass", "tube", "edema")
    lines = [["path", "split", "group", *names]]
    (root / "scans").mkdir(parents=True)
    for split, count in (("train", number), ("val", 40), ("test", 40)):
        for place in range(count):
            has = {name: int(rng.random() < 0.4) for name in names}
            path = f"scans/{split}{place}.png"
            draw(tissue(rng), has, rng).save(root / path)
            lines.append([path, split, path, *("" if rng.random() < 0.1 else str(has[name]) for name in names)])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


@pytest.mark.parametrize(
    ("draw", "where", "told"), [(mark_of_tube, "edge", "tube"), (size_of_mass, "file", "mass"), (plain, "", "")]
)
def test_a_shortcut_to_a_finding_is_warned_of_and_no_other_is(
    tmp_path: Path, draw: Draw, where: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(tmp_path / "own", draw)
    checked = Checked(capsys, "own")
    found = checked.found("shortcut", "warning")
    assert set(found) == ({where} if where else set()) and checked.status == 0
    aucs = {row["finding"]: row for row in checked.tables["shortcuts"]}
    assert set(aucs) == {"mass", "tube", "edema"}
    for name, row in aucs.items():
        for kind in ("file", "edge", "whole"):
            high = name == told and kind in (where, "whole")
            assert (row[kind] > 0.8) == high or (kind == "whole" and name == told), (name, kind, row[kind])
    if where:
        assert f"images with {told} (AUC {aucs[told][where]:.2f}) from those without" in found[where]


def test_the_probe_takes_the_images_of_which_a_finding_is_known_and_is_silent_where_few_have_it(tmp_path: Path) -> None:
    root = planted(tmp_path / "own", mark_of_tube)
    table = pd.read_csv(root / "labels.csv")
    train = table["split"] == "train"
    kept = table.index[train & (table["tube"] == 1)][: LEAST - 1]
    table.loc[train & (table["tube"] == 1) & ~table.index.isin(kept), "tube"] = np.nan
    table.to_csv(root / "labels.csv", index=False)
    assert set(probes(survey(root, None))["edge"]) == {"mass", "edema"}
