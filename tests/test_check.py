"""bench.py check: a clean folder, and every usual fault of a folder of one's own, all found at once."""

import csv
import dataclasses
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_images import COUNTS, NOTED, make_images

import bench
from benchmarks.data import manifest
from benchmarks.data.manifest import Entry
from benchmarks.images.decode import inspect_image
from datasets import DATASETS


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_images(tmp_path / "images")


class Checked:
    """What `bench.py check` returned and printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], arguments: str = "images") -> None:
        capsys.readouterr()
        self.status = bench.main(["check", *shlex.split(arguments), "--format", "json"])
        out, self.err = capsys.readouterr()
        self.tables: dict[str, list[dict[str, Any]]] = json.loads(out)

    def found(self, check: str, level: str = "problem") -> dict[str, str]:
        """Details of the findings of a check, by place."""
        rows = [row for row in self.tables["findings"] if (row["check"], row["level"]) == (check, level)]
        return {row["where"]: row["detail"] for row in rows}

    def kinds(self) -> set[tuple[str, str]]:
        """Level and check of everything that was found."""
        return {(row["level"], row["check"]) for row in self.tables["findings"]}


def noise(seed: int, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def test_a_clean_folder_has_status_0_and_its_numbers_are_right(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = Checked(capsys)
    assert (checked.status, checked.kinds()) == (0, {("note", check) for check in NOTED})
    total = sum(COUNTS.values())
    row = COUNTS | {"all": total, "expected": None, "percent": 50.0}
    assert checked.tables["images"] == [{"class": "bright"} | row, {"class": "dark"} | row]
    assert [line["imbalance"] for line in checked.tables["splits"]] == [1, 1, 1]
    whole = checked.tables["sizes"][-1]
    assert (whole["split"], whole["images"]) == ("all", 2 * total)
    assert (whole["width_min"], whole["width_median"], whole["width_max"]) == (48, 48, 48)
    assert whole["height_median"] == 40 and whole["below_224"] == 2 * total
    assert checked.tables["pixels"][0] == {"class": "bright", "mode": "RGB", "images": total}
    assert re.search(
        r"images: 24 images; problems: 0, warnings: 0, notes: 3; look at .cache/check/images-\w{16}.png", checked.err
    )


def test_the_declared_order_of_classes_is_shown_and_a_wrong_one_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "classes.txt").write_text("# ordered\ndark\nbright\n")
    checked = Checked(capsys)
    assert checked.status == 0 and [row["class"] for row in checked.tables["images"]] == ["dark", "bright"]
    (root / "classes.txt").write_text("dark\nlight\n")
    checked = Checked(capsys)
    assert checked.status == 1 and [row["class"] for row in checked.tables["images"]] == ["bright", "dark"]
    assert checked.found("order")["classes.txt"].startswith("classes.txt must name the class folders bright, dark, got")


def test_numbered_classes_without_a_declared_order_are_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [f"grade{number}" for number in (0, 1, 2, 10)]
    make_images(Path("numbered"), tuple(numbers))
    checked = Checked(capsys, "numbered")
    assert [row["class"] for row in checked.tables["images"]] == numbers
    assert "below a first line '# ordered'" in checked.found("order", "note")["all"] and not checked.found("order")
    Path("numbered/classes.txt").write_text("# ordered\n" + "\n".join(numbers))
    assert not Checked(capsys, "numbered").found("order", "note")


def test_sizes_are_those_shown_and_the_shorter_side_counts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, size in enumerate([(300, 500), (600, 600), (1200, 230)]):
        noise(number).resize(size).save(root / f"val/dark/{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(9).resize((2000, 1100)).save(root / "val/bright/0.png", exif=exif)
    (val,) = (row for row in Checked(capsys).tables["sizes"] if row["split"] == "val")
    assert (val["width_min"], val["width_max"], val["height_max"]) == (48, 1200, 2000)
    below = {side: val[f"below_{side}"] for side in (224, 384, 512, 768, 1024)}
    assert below == {224: 2, 384: 4, 512: 4, 768: 5, 1024: 5}


def test_every_usual_fault_is_found_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train/Dark").mkdir()
    noise(1).save(root / "train/Dark/new.png")
    (root / "test/dark").rename(root / "test/dark ")
    (root / "train/rare").mkdir()
    noise(2).save(root / "train/rare/rare.png")
    (root / "val/rare").mkdir()
    image = root / "train/bright/0.png"
    (root / "test/bright/copy.bmp").parent.mkdir(exist_ok=True)
    Image.open(image).save(root / "test/bright/copy.bmp")
    (root / "train/bright/1.png").write_bytes(b"")
    (root / "train/bright/2.png").write_bytes((root / "train/bright/2.png").read_bytes()[:900])
    (root / "val/bright/notes.csv").write_text("a,b")
    (root / "val/bright/gone.png").symlink_to(root / "nowhere.png")
    noise(3).save(root / "val/loose.png")
    (root / "val/bright/Thumbs.db").write_bytes(b"litter")
    checked = Checked(capsys)
    assert checked.status == 1
    assert checked.found("class") == {
        "Dark": "folders differ only by case or spaces: 'Dark' (train), 'dark' (train, val), 'dark ' (test); "
        "give them one name",
        "val/rare": "holds no image",
        "test/rare": "there is no such folder, the class is missing there",
    }
    assert checked.found("leak") == {
        "train/bright/0.png": "is in train and test, the same image as test/bright/copy.bmp; keep it in one split"
    }
    files = checked.found("file")
    assert files.pop("train/bright/1.png") == "is empty (0 bytes); replace or remove it"
    assert files.pop("val/bright/notes.csv") == "is not an image; replace or remove it"
    assert files.pop("train/bright/2.png").startswith("cannot be read (")
    assert files.pop("val/bright/gone.png").endswith("which is not there; replace or remove it") and not files
    assert checked.found("split") == {"val/loose.png": "is in no class folder and will not be used; move it into one"}
    assert "problems: 9," in checked.err
    assert [row["class"] for row in checked.tables["images"]] == ["bright", "dark", "rare"]


def test_a_truncated_jpeg_is_found_though_its_header_is_whole(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise(1, 300).save(root / "test/dark/half.jpg")
    data = (root / "test/dark/half.jpg").read_bytes()
    (root / "test/dark/half.jpg").write_bytes(data[: len(data) * 9 // 10])
    assert "truncated" in Checked(capsys).found("file")["test/dark/half.jpg"]


def test_a_split_that_is_missing_is_named_with_what_is_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "val").rename(root / "valid")
    checked = Checked(capsys)
    assert checked.status == 1
    assert checked.found("split") == {
        "val": "there is no folder val, only test, train, valid; if that is what was meant: mv images/valid images/val"
    }


def test_one_image_under_two_labels_is_a_problem_and_a_copy_a_note(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("train/bright/x.png", "train/dark/y.png", "train/dark/z.png", "val/dark/z.png"):
        noise(5 if "z" not in path else 6).save(root / path)
    noise(7).save(root / "test/dark/7.png")
    noise(7).save(root / "test/dark/8.tif")
    checked = Checked(capsys)
    assert checked.found("label") == {
        "train/bright/x.png": "is labelled bright and dark, the same image as train/dark/y.png; decide on one"
    }
    assert set(checked.found("leak")) == {"train/dark/z.png"}
    assert checked.found("duplicate", "note") == {"test/dark/7.png": "is the same image as test/dark/8.tif"}


def test_mixed_depths_are_a_problem_and_mixed_channels_a_note(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise(1).convert("L").save(root / "train/dark/grey.png")
    checked = Checked(capsys)
    assert (checked.status, checked.kinds()) == (0, {("note", check) for check in ("depth", *NOTED)})
    assert "grey and colour files are mixed (24 RGB, 1 L)" in checked.found("depth", "note")["all"]
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(root / "train/dark/deep.png")
    checked = Checked(capsys)
    assert checked.status == 1
    assert "8-bit files and deeper ones are mixed (24 RGB, 1 I;16, 1 L)" in checked.found("depth")["all"]


def test_imbalance_is_a_note(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(45):
        noise(100 + number, 8).save(root / f"train/bright/n{number}.png")
    checked = Checked(capsys)
    assert (checked.status, checked.tables["splits"][0]["imbalance"]) == (0, 10.0)
    assert checked.found("balance", "note")["train"].startswith("50 images of bright for 5 of dark")


def test_one_class_is_not_enough(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in COUNTS:
        (root / split / "dark").rename(root.parent / f"{split}-dark")
    assert Checked(capsys).found("class") == {"all": "there must be at least 2 classes, got 1"}


def write_manifest(root: Path, groups: dict[str, str], complete: bool = True) -> None:
    """A manifest of all images; each is its own group but for those given."""
    entries = []
    for path in sorted(root.rglob("*.png")):
        name = path.relative_to(root).as_posix()
        split, label = name.split("/")[:2]
        entries.append(Entry(name, split, label, groups.get(name, name), f"raw/{name}", inspect_image(path).pixels))
    notes = [] if complete else ["3 images are missing"]
    origin = {"kind": "ours", "parts": {}, "group_key": "patient", "seed": 0, "digest": manifest.split_digest(entries)}
    about = {"complete": complete, "notes": notes, "split": origin, "counts": manifest.count(entries)}
    manifest.write_manifest(root, entries, about | {"settings": {}, "excluded": []})


def test_a_manifest_edited_by_hand_is_a_problem(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(root, {})
    table = root / "manifest.csv"
    table.write_text(table.read_text().replace(",val/dark/0.png,", ",patient 9,"))
    (detail,) = Checked(capsys).found("manifest").values()
    assert detail == "says of splits, classes or groups what it did not when it was made; prepare the dataset again"


def test_a_group_in_two_splits_is_a_leak(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = ("train/dark/0.png", "train/dark/1.png", "test/bright/3.png")
    write_manifest(root, {**dict.fromkeys(members, "patient 7"), "val/dark/0.png": "", "test/dark/0.png": ""})
    checked = Checked(capsys)
    assert checked.found("leak") == {
        "patient 7": "this group is in train and test: train/dark/0.png, test/bright/3.png; keep it in one split"
    }
    assert checked.kinds() == {("problem", "leak"), ("note", "few")} and checked.status == 1


def test_what_changed_since_the_manifest_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(root, {})
    assert Checked(capsys).status == 0
    (root / "train/dark/0.png").rename(root / "test/dark/moved.png")
    (root / "train/dark/1.png").unlink()
    (root / "val/dark/0.png").write_bytes((root / "train/bright/0.png").read_bytes())
    (root / "train/bright/0.png").unlink()
    checked = Checked(capsys)
    gone = {"train/dark/0.png", "train/dark/1.png", "train/bright/0.png"}
    assert set(checked.found("manifest")) == gone | {"test/dark/moved.png", "val/dark/0.png"}
    assert checked.found("manifest")["val/dark/0.png"].startswith("is not the image that was prepared")
    assert checked.found("count") == {
        "dark": "must have 12 images, got 11",
        "bright": "must have 12 images, got 11",
    }
    assert [row["expected"] for row in checked.tables["images"]] == [12, 12]


def test_an_incomplete_download_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(root, {}, complete=False)
    detail = Checked(capsys).found("manifest")["all"]
    assert detail.startswith("was prepared from an incomplete download (3 images are missing)")


def test_a_dataset_of_the_table_is_held_to_its_classes_and_counts(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(root.parent / "data/covid", ("covid", "normal", "pneumonia"))
    counts = {"covid": 12, "normal": 13, "virus": 2}
    monkeypatch.setitem(DATASETS, "covid", dataclasses.replace(DATASETS["covid"], expected=counts))
    checked = Checked(capsys, "covid")
    assert [row["class"] for row in checked.tables["images"]] == ["covid", "normal", "virus", "pneumonia"]
    assert checked.found("count") == {"normal": "must have 13 images, got 12", "virus": "must have 2 images, got 0"}
    classes = checked.found("class")
    assert classes["pneumonia"] == "is no class of covid, which are covid, normal, virus"
    assert {where for where in classes if "/" in where} == {"train/virus", "val/virus", "test/virus"}


def test_the_layouts_hold_the_same_findings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train/dark/0.png").write_bytes(b"")
    assert bench.main(["check", "images", "--format", "csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    (finding,) = (row for row in rows if row["table"] == "findings" and row["check"] not in NOTED)
    assert (finding["where"], finding["class"]) == ("train/dark/0.png", "")
    assert [row["train"] for row in rows if row["table"] == "images"] == ["5", "4"]
    assert bench.main(["check", "images"]) == 1
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in ("images", "splits", "sizes", "pixels", "findings")
    ]
    assert "| problem | file" in out and "<NA>" not in out and "nan" not in out
    assert "- file, train/dark/0.png: is empty (0 bytes); replace or remove it" in out


def test_the_image_sheet_shows_the_samples_of_the_seed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, path in enumerate(sorted((root / "train/dark").iterdir())):
        Image.new("RGB", (224, 112), (0, 0, 50 * number + 50)).save(path)

    def sheet(seed: int) -> np.ndarray:
        assert bench.main(["check", "images", "--samples", "2", "--seed", str(seed), "--sheet", f"out/{seed}.png"]) == 0
        return np.asarray(Image.open(f"out/{seed}.png"))

    first, again, other = sheet(0), sheet(0), sheet(1)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    blue = {tuple(colour) for colour in first.reshape(-1, 3) if colour[0] == colour[1] == 0 and colour[2] >= 50}
    assert len(blue) == 2 and blue < {(0, 0, value) for value in (50, 100, 150, 200, 250)}
    for colour in blue:
        rows, columns = np.nonzero((first == colour).all(axis=2))
        assert (int(np.ptp(columns)), int(np.ptp(rows))) == (111, 55)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nosuch", "dataset must be one of .* or a folder, got 'nosuch'"),
        ("covid", "dataset covid must be prepared in 'data/covid'"),
        (
            "images/train",
            "dataset folder must hold train, val and test, got bright, dark in 'images/train'; to make them",
        ),
        ("broken", "manifest must have the columns path,split,class,group,source,pixels, got 'broken/"),
        ("images --samples 0", "samples must be at least 1, got .0."),
    ],
)
def test_bad_input_is_one_line(root: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(root.parent / "broken")
    (root.parent / "broken/manifest.csv").write_text("path,split\n")
    (root.parent / "broken/manifest.json").write_text("{}")
    try:
        status: object = bench.main(["check", *shlex.split(arguments)])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("bench.py: ") and err.count("\n") == 1
    assert re.search(message, err), err


def test_a_sheet_that_cannot_be_written_is_said_after_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert bench.main(["check", "images", "--sheet", "file/sheet.png"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("## images")
    assert "image sheet must go to a file that can be written, got 'file/sheet.png' (" in err
    assert err.rstrip().endswith("choose another with --sheet")
