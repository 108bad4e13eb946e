"""Identical images: in two splits they stop a run, or mark its results; run and check name the same ones."""

import io
import itertools
import json
import shutil
from pathlib import Path

import pytest
from bench_process import TINY
from bench_process import records as stored_records
from fixed_records import fixed_records, make_record
from inside import finish_inside
from rich.console import Console
from test_plots import texts, watch
from tiny_images import NOTED, make_images

import bench
from benchmarks.data.dataset import open_dataset
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import write_record
from benchmarks.records.schema import Record
from benchmarks.report.compare import NOTE as NOTE_OF_COMPARISON
from benchmarks.report.compare import Side, compare_results, readable
from benchmarks.report.page_data import collect
from benchmarks.report.paper_layout import write_paper_tables
from benchmarks.report.plots import write_plots
from benchmarks.report.tables import console_table, write_tables

REFUSAL = (
    "images of images must lie in one split each, got 2 that are byte for byte the same in train and test: "
    "'train/bright/0.png' = 'test/bright/copy.png'; keep each in one split (bench.py check names them all), or go on "
    "with --allow-leaks, which marks their results"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds `images`, of which one training image lies in test too."""
    monkeypatch.chdir(tmp_path)
    root = make_images(tmp_path / "images")
    shutil.copy(root / "train/bright/0.png", root / "test/bright/copy.png")
    return tmp_path


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_identical_images_in_two_splits_stop_a_run_before_anything_trains(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert bench.main([*TINY, "--methods", "linear", *more]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1] == f"bench.py: {REFUSAL}"
    assert not list((folder / "results").rglob("*.json"))


def test_allowed_leaks_are_recorded_and_marked(folder: Path) -> None:
    ended = finish_inside(folder, *TINY, "--methods", "linear", "--epochs", "1", "--allow-leaks")
    assert ended.returncode == 0, ended.stderr
    assert "note: 2 images of images lie in two splits: its results are marked" in ended.stderr
    (record,) = stored_records(folder / "results").values()
    assert record["run"]["dataset"]["leaks"] == 2
    assert ended.stdout.count("⊗") == 2  # the AUC, the note
    assert (
        "⊗ Images that lie, byte for byte, in two splits: 2 of images."
        in (folder / "results/tables/results.md").read_text()
    )


def test_check_names_the_same_leak(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["check", "images", "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    named = [(row["level"], row["check"], row["where"]) for row in findings if row["check"] not in NOTED]
    assert named == [("problem", "leak", "train/bright/0.png")]


def test_identical_images_in_two_classes_of_a_split_are_named_by_run_and_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "images/test/bright/copy.png").unlink()
    shutil.copy(folder / "images/val/bright/1.png", folder / "images/val/dark/same.png")
    assert bench.main([*TINY, "--methods", "linear", "--dry-run"]) == 0
    assert (
        "note: identical images of images are in several classes: 'val/bright/1.png' = 'val/dark/same.png'; decide on "
        "one each (bench.py check names them all)"
    ) in capsys.readouterr().err
    assert bench.main(["check", "images", "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    named = [(row["level"], row["check"], row["where"]) for row in findings if row["check"] not in NOTED]
    assert named == [("problem", "label", "val/bright/1.png")]


def test_only_sets_across_splits_or_classes_count(folder: Path) -> None:
    root = folder / "images"
    for number, place in enumerate(("train/bright", "train/bright", "val/dark", "test/dark")):
        (root / place / f"more{number}.png").write_bytes((root / "test/dark/0.png").read_bytes())
    shutil.copy(root / "train/dark/1.png", root / "train/dark/again.png")  # a duplicate, no harm
    found = open_dataset(str(root), folder / "data", folder / "cache").identical
    others = ("val/dark/more2.png", "test/dark/0.png", "test/dark/more3.png")
    copies = ("train/bright/more0.png", "train/bright/more1.png", *others)
    assert found.leaks == (("train/bright/0.png", "test/bright/copy.png"), copies)
    assert found.contradictions == (copies,) and found.num_leaking == 7


@pytest.fixture
def records() -> list[Record]:
    """Two methods at two sides, on images of which three lie in two splits."""
    made = [make_record(method, side, seed) for method in ("full", "fpt") for side in (224, 448) for seed in range(3)]
    for record in made:
        record["run"]["dataset"] |= {"leaks": 3, "title": "Leaky"}
    return made


NOTE = "⊗ Images that lie, byte for byte, in two splits: 3 of Leaky."


def test_every_table_marks_leaks(tmp_path: Path, records: list[Record]) -> None:
    frame = runs_frame(records)
    for markdown, _, latex in (write_tables(tmp_path, frame), write_paper_tables(tmp_path, frame, published=False)):
        text, tex = markdown.read_text(), latex.read_text()
        rows = [line for line in text.splitlines() if line.startswith("|") and "⊗" in line]
        assert len(rows) == 4 and all("FPT" in line or "Full" in line for line in rows)
        assert NOTE in text and r"$^{\otimes}$ Images that lie" in tex
    stream = io.StringIO()
    Console(file=stream, width=100).print(console_table(frame))
    assert stream.getvalue().count("⊗") == 5
    clean = write_tables(tmp_path / "clean", runs_frame(fixed_records()))[0].read_text()
    assert "⊗" not in clean


def test_figures_page_and_comparison_mark_leaks(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = watch(monkeypatch)
    paths = write_plots(tmp_path, runs_frame(records))
    drawn = dict(zip([path.name.split("_")[0] for path in paths[::2]], figures, strict=True))
    for name in ("memory", "auc-over-memory", "auc-over-resolution"):
        assert (NOTE in texts(drawn[name]).replace("\u00a0", " ")) == (name != "memory"), name
        marked = [text for axes in drawn[name].axes for text in axes.texts if "⊗" in text.get_text()]
        assert len(marked) == (0 if name == "memory" else 4), name
    for record in records:
        write_record(tmp_path, record)
    data = collect(tmp_path, tmp_path).shown
    assert {row["auc_marks"] for row in data["rows"]} == {"⊗"} and "⊗" in data["auc_marks"]
    assert any(note.startswith(NOTE) for note in data["groups"][0]["footnotes"])
    side = Side(runs_frame(records), {})
    assert all("⊗" in auc for auc in readable(compare_results(side, side))["AUC"]) and "⊗" in NOTE_OF_COMPARISON


def test_ranks_over_datasets_mark_methods_tested_on_leaks(tmp_path: Path) -> None:
    made = []
    for number, method in itertools.product(range(6), ("full", "lora", "fpt")):
        record = make_record(method, 448, tag=f"d{number}")
        record["run"]["config"] |= {"dataset": f"d{number}", "dataset_digest": f"d{number}"}
        record["run"]["dataset"] |= {"title": f"Data {number}", "leaks": 4 * (number == 2)}
        made.append(record)
    text = write_tables(tmp_path, runs_frame(made))[0].read_text()
    rows = [line for line in text[text.index("## Over datasets") :].splitlines() if "⊗" in line]
    assert len(rows) == 3
    assert "2 of Data 2" not in text and "4 of Data 2" in text
