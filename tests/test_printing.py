"""Tables at 80 columns: no line is wider, no word is cut, and what found no room is named or stands in the caption."""

import csv
import io
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from small_backbones import PLAIN
from tiny_images import make_images

import bench
from benchmarks.commands.printing import fitted, print_frame
from benchmarks.environment import ROOT

TINY = f"--backbone '{PLAIN['augreg']}'"
RUN = "--weights none --batch-size 4 --device cpu"
STORED = f"--results {ROOT / 'results/demo'}"
COMMANDS = (
    "list methods",
    "list datasets",
    "list backbones",
    f"list runs {STORED}",
    "params --methods lean 'lora:rank=4|16'",
    f"memory --predict --methods full linear lora:rank=4 --res 64 96 128 {TINY}",
    f"memory --predict --methods full linear --res 64 --batch-size 1 2 --precision fp32 bf16 {TINY}",
    f"memory --breakdown --methods linear --res 64 96 {TINY}",
    f"fit --methods linear --res 64 {TINY}",
    f"cost --methods linear lora --res 64 96 --no-time {TINY}",
    f"advise {STORED}",
    f"tables --compare {ROOT / 'results/demo'} {STORED}",
    "check images",
    f"preload --dry-run --methods linear fpt --datasets images --res 64 96 {TINY} {RUN}",
    f"--dry-run --methods linear full lora --datasets images --res 64 96 {TINY} {RUN}",
)
WIDE = {"--dry-run": "--verbose", "advise": ""}  # but for --wide


def said(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    bench.main(shlex.split(arguments))
    return capsys.readouterr().out


def words(text: str) -> set[str]:
    return set(re.sub(r"[|,.:]", " ", text).split())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    make_images(tmp_path / "images")
    return tmp_path


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda line: " ".join(shlex.split(line)[:3]))
def test_every_table_fits_80_columns_and_keeps_its_words(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Words are those of the same table however wide, but for those that this layout adds."""
    narrow = said(arguments, capsys)
    assert max(map(len, narrow.splitlines())) <= 80
    assert len(narrow.splitlines()) > 2
    whole = said(f"{arguments} {WIDE.get(arguments.split()[0], '--wide')}", capsys)
    added = {"In", "all", "rows", "px", "smallest_card", ">="} | {f"{side}" for side in (64, 96, 128)}
    cells = words(narrow) - words(whole) - added
    assert not {word for word in cells if not re.fullmatch(r":?-+:?|8GB|12GB", word)}, cells


def test_what_is_the_same_in_all_rows_is_said_once() -> None:
    frame = pd.DataFrame(
        {"name": ["a", "b"], "place": ["somewhere far away " * 4] * 2, "none": ["", ""], "size": [1, 20]}
    )
    text, left_out = fitted(frame, 40)
    assert left_out == []
    assert text.splitlines() == [
        "In all rows: place somewhere far away",
        "somewhere far away somewhere far away",
        "somewhere far away.",
        "",
        "| name | size |",
        "|:-----|-----:|",
        "| a    |    1 |",
        "| b    |   20 |",
    ]


def test_texts_wrap_between_words_and_details_leave_first() -> None:
    frame = pd.DataFrame(
        {
            "name": ["a", "b"],
            "number": [1, 2],
            "text": ["one two three four five six seven", "eight"],
            "url": ["u" * 30, "v"],
        }
    )
    text, left_out = fitted(frame, 47, details=["url"])
    assert left_out == ["url"]
    assert text.splitlines()[2:] == [
        "| a    |      1 | one two three four five six |",
        "|      |        | seven                       |",
        "| b    |      2 | eight                       |",
    ]
    assert fitted(frame, 30, details=["url"])[1] == ["url", "text"]


def test_one_row_stands_upright() -> None:
    frame = pd.DataFrame([{"method": "linear", "memory": 12.5, "note": "so many words that no line holds them"}])
    text, left_out = fitted(frame, 30)
    assert left_out == []
    assert [line.split("|")[1:3] for line in text.splitlines()[2:4]] == [
        [" method ", " linear            "],
        [" memory ", " 12.5              "],
    ]
    assert words("so many words that no line holds them") < words(text)


def test_what_is_left_out_is_named_and_stands_in_csv(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({name: ["x" * 30, "y"] for name in "abcd"})
    print_frame(frame, "md", details=["b"])
    narrow, note = capsys.readouterr()
    assert note == "note: left out, as the terminal has 80 columns: b, d; --wide shows all\n"
    print_frame(frame, "md", wide=True)
    assert capsys.readouterr().out.splitlines()[0].split() == [*"|a|b|c|d|"]
    print_frame(frame, "csv")
    assert [*next(csv.reader(io.StringIO(capsys.readouterr().out)))] == [*"abcd"]
    assert "| a " in narrow and "| b " not in narrow


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("200", 200)])
def test_the_terminal_says_how_wide(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    widest = max(map(len, said("list datasets", capsys).splitlines()))
    assert width - 40 < widest <= width
