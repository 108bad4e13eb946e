"""Names of files and folders that users gave: shown escaped, never taken for markup, and told apart where equal."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from bench_process import TINY
from fixed_records import make_record, store_with_predictions
from hypothesis import given
from hypothesis import strategies as st
from inside import finish_inside
from PIL import Image
from rich.console import Console
from rich.text import Text
from tiny_images import make_images

import bench
from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import blocks, summary
from benchmarks.commands.printing import markdown_table
from benchmarks.data.dataset import open_dataset
from benchmarks.errors import UserError, one_line
from benchmarks.names import printable, shortened, told_apart
from benchmarks.records.frame import load_frame, runs_frame
from benchmarks.records.record import load_records
from benchmarks.records.schema import Record
from benchmarks.report.compare import Side, compare_results, readable
from benchmarks.report.plots import write_plots
from benchmarks.report.tables import write_tables
from benchmarks.suite.progress import SuiteProgress

ODD = [
    "new\nline.png",
    "\x1b[31mred.png",
    "[red]x.png",
    "a|b.png",
    " space .png",
    "<b>&$_{.png",
    "é" * 120 + ".png",
]
SHOWN = [r"new\nline.png", r"\x1b[31mred.png", *ODD[2:]]


@given(st.text() | st.text(alphabet=st.characters(categories=["Cc", "Cs", "Cf", "Zl", "Lu"])))
def test_a_printable_text_is_one_line_and_stays_as_it_is_where_it_was(text: str) -> None:
    assert printable(text).isprintable() and printable(printable(text)) == printable(text)
    assert not text.isprintable() or printable(text) == text


def test_escapes_by_hand() -> None:
    assert printable("a\nb\x1b\u202e") == r"a\nb\x1b\u202e"
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert one_line(UserError("got \x1b[2J")) == r"got \x1b[2J"
    assert len(shortened("é" * 200).encode()) == 100 and shortened("plain") == "plain"
    assert told_apart("images", "0123456789") == "images [012345]"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = make_images(tmp_path / "images")
    for name in ODD:  # the same image as another, so that each is named
        shutil.copy(root / "train/bright/0.png", root / "train/bright" / name)
    return root


@pytest.mark.parametrize("layout", ["md", "csv", "json"])
def test_check_never_dies_of_a_file_name(root: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open(os.fsencode(root / "val/dark") + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123 - no text
        file.write((root / "val/dark/0.png").read_bytes())
    assert bench.main(["check", "images", "--sheet", "sheet.png", "--samples", "20", "--format", layout, "--wide"]) == 1
    out = capsys.readouterr().out
    out.encode()
    if layout == "json":
        rows = json.loads(out)["findings"]
    elif layout == "csv":
        rows = [row for row in csv.DictReader(io.StringIO(out)) if row["table"] == "findings"]
    else:
        lines = [line for line in out[out.index("## findings") :].splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1  # no name ends a cell
        rows = [dict.fromkeys(("where", "detail", "level"), line.replace(r"\|", "|")) for line in lines]
    text = "\n".join(f"{row['where']} {row['detail']}" for row in rows)
    for name in SHOWN:
        assert name in text, name
    assert r"val/dark/caf\xe9.png" in text and "has a name that is no UTF-8; rename it" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 20 * 120


def test_names_of_folders_are_taken_for_no_markup_anywhere(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run on a folder and classes whose names would be markup in a terminal, LaTeX, HTML, mathtext or markdown."""
    name = "[red]$x_{|<b>\n" + "long" * 40
    shutil.rmtree(root / "train/bright")
    make_images(root.parent / name, ("[bold]a", "b|$c$"))
    ended = finish_inside(root.parent, "--datasets", name, *TINY[2:], "--methods", "linear", "--epochs", "1")
    assert ended.returncode == 0, ended.stderr
    shown = printable(name)
    assert f"linear {shown} 32 px" in ended.stderr.replace("\n", "") and "<b>\\n" in shown
    assert not re.search(r"[\x1b]", ended.stdout + ended.stderr)
    tables = root.parent / "results/tables"
    assert r"\|&lt;b&gt;\\nlonglong" in (tables / "results.md").read_text()
    assert r"[red]\$x\_\{\textbar{}$<$b$>$\textbackslash{}nlong" in (tables / "results.tex").read_text()
    assert list((root.parent / "results/plots").glob("auc-over-resolution_*.png"))
    assert bench.main(["report", "--results", str(root.parent / "results"), "--output", "page.html"]) == 0
    assert "$x_{|<b>" not in Path("page.html").read_text()
    capsys.readouterr()
    assert bench.main(["check", name, "--format", "json"]) == 0
    assert shown in capsys.readouterr().err


def test_a_progress_bar_shows_brackets_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with SuiteProgress(1) as progress:
        progress.console = progress.progress.live.console = Console(file=stream, width=200, force_terminal=False)
        progress.start(1, "fpt [red]set[/red] 224 px")
        (task,) = progress.progress.tasks
        shown = progress.progress.columns[1].render(task)  # type: ignore[union-attr]
        assert isinstance(shown, Text) and shown.plain == "[1/1] fpt [red]set[/red] 224 px"


def test_a_bar_in_a_name_ends_no_cell() -> None:
    import pandas as pd

    assert markdown_table(pd.DataFrame({"name": ["a|b"]})).splitlines()[-1] == r"| a\|b   |"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Holds `a/images` and `b/images`, of other pixels."""
    make_images(tmp_path / "a/images")
    made = make_images(tmp_path / "b/images")
    for path in made.rglob("*.png"):
        with Image.open(path) as image:
            Image.fromarray(255 - np.asarray(image)).save(path)
    return tmp_path


def test_two_equal_folder_names_are_told_apart(two: Path) -> None:
    arguments = ["--datasets", "a/images", "b/images", *TINY[2:], "--methods", "linear", "--epochs", "1"]
    ended = finish_inside(two, *arguments)
    assert ended.returncode == 0, ended.stderr
    found = {record["run"]["config"]["dataset_digest"][:6]: record for record in load_records(two / "results")[0]}
    assert len(found) == 2
    for digest in found:
        name = f"images [{digest}]"
        assert f"linear {name} 32 px seed 0" in ended.stderr.replace("\n", "") and name in ended.stdout
        assert re.search(rf"note: {re.escape(name)} is {two}/[ab]/images\n", ended.stderr)
        assert f"## {name}".replace("[", r"\[").replace("]", r"\]") in (two / "results/tables/results.md").read_text()
    latex = (two / "results/tables/results.tex").read_text()
    labels = re.findall(r"\\label\{(.*?)\}", latex)
    assert len(labels) == len(set(labels)) == 2
    plots = {path.name for path in (two / "results/plots").glob("auc-over-resolution_*.png")}
    assert {name.split("_")[1] for name in plots} == {f"images-{digest}" for digest in found}
    stores = list((two / ".cache/images").glob("images-*-train-*.npy"))
    assert len(stores) == 2 and len({path.read_bytes() for path in stores}) == 2
    assert len(list((two / ".cache/hashes").iterdir())) == 2
    dry = finish_inside(two, *arguments, "--dry-run")
    assert all(f"| images [{digest}]" in dry.stdout for digest in found)


def test_sheets_of_two_equal_folder_names_do_not_replace_each_other(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(two)
    for name in ("a/images", "b/images"):
        assert bench.main(["check", name]) == 0
    assert len(list((two / ".cache/check").glob("images-*.png"))) == 2


def of_dataset(method: str, seed: int, name: str, title: str, digest: str) -> Record:
    record = make_record(method, seed=seed, tag=digest[:2])
    record["run"]["config"] |= {"dataset": name, "dataset_digest": digest}
    record["run"]["dataset"] |= {"name": name, "title": title, "synthetic": False}
    return record


def labels_of(*identities: tuple[str, str, str]) -> list[str]:
    made = [of_dataset("full", 0, *identity) for identity in identities]
    table = summary(runs_frame(made)).set_index(["dataset", "dataset_digest"])["dataset_label"]
    return [table[identity[0], identity[2]] for identity in identities]


def test_labels_are_titles_then_digests() -> None:
    assert labels_of(("x", "X", "a" * 9), ("y", "Y", "b" * 9)) == ["X", "Y"]
    assert labels_of(("x", "X", "a" * 9), ("x", "X", "b" * 9)) == ["X [aaaaaa]", "X [bbbbbb]"]
    assert labels_of(("x", "X", "a" * 9), ("y", "X", "b" * 9)) == ["X [aaaaaa]", "X [bbbbbb]"]


def test_datasets_of_other_names_but_one_title_share_no_place(tmp_path: Path) -> None:
    """Of the second set full fine-tuning was not run: its LoRA is compared with nothing."""
    skills = {("full", "x"): 2.0, ("lora", "x"): 1.0, ("lora", "y"): 0.2}
    for (method, name), skill in skills.items():
        for seed in (0, 1):
            store_with_predictions(tmp_path, of_dataset(method, seed, name, "Same", name * 8), skill)
    frame, _ = load_frame(tmp_path)
    evidence, _ = load_evidence(tmp_path, frame)
    table = add_significance(summary(frame), evidence).set_index(["dataset", "method"])
    assert table["vs_full_p"].notna().to_dict() == {("x", "full"): False, ("x", "lora"): True, ("y", "lora"): False}
    assert len(list(blocks(table.reset_index()))) == 2
    latex, plots = write_tables(tmp_path, frame)[2].read_text(), write_plots(tmp_path, frame)
    labels = re.findall(r"\\label\{(.*?)\}", latex)
    assert len(set(labels)) == 2 and len(set(plots)) == len(plots)


def test_labels_and_files_that_would_be_spelt_alike_get_a_digest(tmp_path: Path) -> None:
    made = [of_dataset("full", 0, name, name, digest * 8) for name, digest in (("a b", "1"), ("a-b", "2"), ("Ä", "3"))]
    frame = runs_frame(made)
    labels = re.findall(r"\\label\{(.*?)\}", write_tables(tmp_path, frame)[2].read_text())
    assert len(set(labels)) == 3
    places = {path.name.split("_")[1] for path in write_plots(tmp_path, frame)}
    assert places == {"a-b-111111", "a-b-222222", ""}


def test_a_comparison_tells_datasets_of_one_name_apart() -> None:
    frame = runs_frame([of_dataset("full", 0, "images", "images", digest * 8) for digest in ("1", "2")])
    shown = readable(compare_results(Side(frame, {}), Side(frame, {})))["dataset"]
    assert set(shown) == {r"images \[111111\]", r"images \[222222\]"}


def test_a_name_in_another_encoding_is_refused_by_a_run(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    os.rename(root / "val/dark/0.png", os.fsencode(root / "val/dark") + b"/caf\xe9.png")  # noqa: PTH104 - no text
    with pytest.raises(UserError, match=r"name of an image must be UTF-8, got .*; rename it"):
        open_dataset(str(root), tmp_path / "data", tmp_path / "cache")
