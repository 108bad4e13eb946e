"""Text that a spreadsheet would take for a formula, in every CSV that we write."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from fixed_records import make_record, odd_records, store_with_predictions

from bench import main
from benchmarks.analysis.evidence import load_evidence
from benchmarks.commands.check import print_tables
from benchmarks.commands.printing import print_frame
from benchmarks.data.manifest import Entry, read_entries, write_manifest
from benchmarks.records.frame import load_frame, runs_frame
from benchmarks.records.record import write_record
from benchmarks.report.paper_layout import write_paper_tables
from benchmarks.report.tables import write_tables
from benchmarks.storage.csv_cells import as_text, csv_text, from_text

FORMULA = '=HYPERLINK("http://x";"eyes")'
BEGIN = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def dangerous(text: str) -> list[str]:
    """Cells that OWASP says to mark, but for numbers."""
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row if cell.startswith(BEGIN)]
    return [cell for cell in cells if not cell.lstrip("-").replace(".", "").replace("e-", "").isdigit()]


@pytest.mark.parametrize("begin", BEGIN)
def test_text_is_marked_and_comes_back(begin: str) -> None:
    for text in (f"{begin}1", f"'{begin}1", f"''{begin}1", begin):
        assert as_text(text) == f"'{text}" and from_text(as_text(text)) == text
    for text in (f"a{begin}1", "'a", "", "'", "0.5"):
        assert as_text(text) == text == from_text(text)


def test_numbers_stay_numbers() -> None:
    frame = pd.DataFrame(
        {"n": pd.array([-3, None], dtype="Int64"), "f": [-0.5, 1.0], "o": [-2, "-2"], "=h": ["a", "+"]}
    )
    assert csv_text(frame) == "n,f,o,'=h\n-3,-0.5,-2,a\n,1.0,'-2,'+\n"
    mixed = pd.DataFrame({"o": [3, None]}, dtype="object")
    assert csv_text(mixed) == 'o\n3\n""\n'


def test_tables_and_lists_hold_no_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = runs_frame([make_record("full"), *odd_records(FORMULA)])
    texts = [
        write_tables(tmp_path, frame)[1].read_text(),
        write_paper_tables(tmp_path, frame, published=True)[1].read_text(),
    ]
    for number, record in enumerate(odd_records(FORMULA)):
        record["environment"]["host"] = "+host"
        record["run_id"] = f"-run-{number}"
        write_record(tmp_path, record)
    assert main(["list", "runs", "--results", str(tmp_path), "--format", "csv"]) == 0
    texts.append(capsys.readouterr().out)
    print_frame(pd.DataFrame({"name": [FORMULA]}), "csv")
    print_tables({"classes": pd.DataFrame({"class": [FORMULA]})}, "csv")
    texts.append(capsys.readouterr().out)
    for text in texts:
        assert f"'{FORMULA[:5]}" in text and dangerous(text) == []


def test_predictions_and_manifests_hold_none_and_are_read_as_they_were(tmp_path: Path) -> None:
    store_with_predictions(tmp_path, make_record("lora"), 1.0, ("=no", "'@yes"), groups=[f"-{i}" for i in range(60)])
    text = (tmp_path / "runs" / "lora_448_0_a.predictions.csv").read_text()
    assert dangerous(text) == [] and ",'=no," in text and ",''@yes," in text and text.count(",'-") == 69
    evidence, problems = load_evidence(tmp_path, load_frame(tmp_path)[0])
    assert problems == [] and evidence["lora_448_0_a"].classes == ("=no", "'@yes")
    entries = [Entry("=a/1.png", "train", "'=b", "-7", "@raw/1.png", "0" * 64)]
    write_manifest(tmp_path, entries, {})
    assert dangerous((tmp_path / "manifest.csv").read_text()) == [] and read_entries(tmp_path) == entries
