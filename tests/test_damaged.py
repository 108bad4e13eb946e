"""Stored files that are not what was stored: found by every command, left out, marked, and made again."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from fixed_records import make_record, store_with_predictions, strip_digests
from report_folder import write_measured

from bench import main
from benchmarks.memory.measured import read_measured, read_point, write_record
from benchmarks.records.record import load_records, predictions_path, read_record
from benchmarks.records.stored import StoredStates
from benchmarks.report.captions import LOST

EDITED = "lora_448_1_a"


def record_of(results: Path, run_id: str = EDITED) -> Path:
    return results / "runs" / f"{run_id}.json"


def edit(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def edit_auc(results: Path) -> Path:
    edit(record_of(results), r'"test": \{\s*"auc": [\d.]+', '"test": {"auc": 0.987654')
    return record_of(results)


def edit_accuracy(results: Path) -> Path:
    edit(record_of(results), r'"accuracy": [\d.]+', '"accuracy": 0.987654')
    return record_of(results)


def edit_counts(results: Path) -> Path:
    edit(record_of(results), r'"yes": 30', '"yes": 31')
    return record_of(results)


def edit_method(results: Path) -> Path:
    edit(record_of(results), r'"percent": [\d.]+', '"percent": 0.01')
    return record_of(results)


def edit_probabilities(results: Path) -> Path:
    """Every one half as large: images stand in the same order, and the AUC stays."""
    path = predictions_path(results, EDITED)
    frame = pd.read_csv(path)
    frame.assign(prob_no=frame["prob_no"] / 2).to_csv(path, index=False)
    return path


def delete_predictions(results: Path) -> Path:
    path = predictions_path(results, EDITED)
    path.unlink()
    return path


DAMAGES = (edit_auc, edit_accuracy, edit_counts, edit_method, edit_probabilities, delete_predictions)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three seeds of two methods."""
    for method in ("full", "lora"):
        for seed in range(3):
            store_with_predictions(tmp_path / "results", make_record(method, seed=seed), 1.0)
    return tmp_path / "results"


def test_the_digest_is_that_of_the_record_without_it_and_of_the_predictions(results: Path) -> None:
    content = json.loads(record_of(results).read_text())
    digest = content.pop("sha256")
    assert digest == hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    assert content == read_record(record_of(results))
    data = predictions_path(results, EDITED).read_bytes()
    assert content["predictions_sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_and_none_of_its_numbers_is_read(results: Path, damage: Callable[[Path], Path]) -> None:
    path = damage(results)
    records, problems = load_records(results)
    assert len(problems) == 1 and repr(str(path)) in problems[0] and problems[0].endswith(": run it again")
    (damaged,) = (record for record in records if record["status"]["state"] == "damaged")
    assert damaged["run_id"] == EDITED and damaged["measurements"] == {} and "counts" not in damaged["run"]["dataset"]
    with pytest.raises(ValueError, match=r"whose content has changed: run it again|must be there"):
        read_record(record_of(results))
    stored = StoredStates(results, "only-missing")
    assert [stored.is_due(f"lora_448_{seed}_a") for seed in range(3)] == [False, True, False]
    assert list(stored.damaged) == [EDITED]


@pytest.mark.parametrize("damage", [edit_auc, delete_predictions])
def test_tables_of_every_layout_leave_it_out_and_mark_its_cell(
    results: Path, damage: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    others = [read_record(record_of(results, f"lora_448_{seed}_a"))["measurements"]["test"]["auc"] for seed in (0, 2)]
    path = damage(results)
    for layout in ("results", "paper"):
        assert main(["tables", "--results", str(results), "--layout", layout]) == 1
        assert capsys.readouterr().err.count(str(path)) == 1
        rows = pd.read_csv(results / "tables" / f"{layout}.csv").query("method == 'lora'")
        (mean,) = rows["auc_mean"].fillna(rows.get("auc Demo")) if layout == "paper" else rows["auc_mean"]
        assert mean == pytest.approx(sum(others) / 2)
        text = (results / "tables" / f"{layout}.md").read_text()
        (line,) = (line for line in text.splitlines() if "| LoRA" in line)
        assert LOST in line and "2 of 3" in line and "**" not in line.split("|")[6]
        said = "Runs left out, as their record or predictions are not what was stored: LoRA at 448 px (1)."
        assert f"{said} The command that ran them makes them again." in text
        assert r"$^{\oslash}$" in (results / "tables" / f"{layout}.tex").read_text()
    again = "python bench.py --methods lora:weight_decay=0.05 --datasets demo --res 448 --seeds 0 1 2"
    assert again in text  # of the papers' layout


@pytest.mark.slow
def test_every_other_command_that_shows_it_does_so_too(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = edit_auc(results)
    for command in (["plots"], ["report"], ["tables", "--compare", str(results)], ["list", "runs", "--format", "csv"]):
        assert main([*command, "--results", str(results)]) == 1, command
        shown = capsys.readouterr()
        assert str(path) in shown.err and "98.77" not in shown.out and "987654" not in shown.out
    assert f"\n{EDITED},run,damaged," in shown.out
    page = (results / "report.html").read_text()
    assert f"{LOST} Runs left out" in page and "0.987654" not in page


def test_a_cell_without_another_run_says_so_and_has_no_number(tmp_path: Path) -> None:
    store_with_predictions(tmp_path, make_record("lora", seed=1), 1.0)
    edit_auc(tmp_path)
    for layout in ("results", "paper"):
        assert main(["tables", "--results", str(tmp_path), "--layout", layout]) == 1
        text = (tmp_path / "tables" / f"{layout}.md").read_text()
        (line,) = (line for line in text.splitlines() if "| LoRA" in line)
        assert f"damaged{LOST}" in line and not re.search(r"\d\d\.\d", line)


def test_a_record_written_in_another_layout_is_the_same(results: Path) -> None:
    path = record_of(results)
    before = read_record(path)
    for data in (
        json.dumps(json.loads(path.read_text()), indent=4).encode(),
        path.read_bytes().replace(b"\n", b"\r\n"),
    ):
        path.write_bytes(data)
        assert read_record(path) == before


def test_records_of_before_are_shown_as_before(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strip_digests(results)
    edit_accuracy(results)
    assert main(["tables", "--results", str(results)]) == 0
    edit_auc(results)
    assert main(["tables", "--results", str(results)]) == 1
    assert "they give an AUC of" in capsys.readouterr().err


def test_what_is_damaged_while_a_suite_runs_is_seen(results: Path) -> None:
    stored = StoredStates(results, "only-missing")
    assert not stored.is_due(EDITED)
    whole = predictions_path(results, EDITED).read_bytes()
    path = edit_probabilities(results)
    assert stored.is_due(EDITED)
    path.write_bytes(whole)
    assert not stored.is_due(EDITED) and stored.damaged == {}


def test_an_unreadable_record_is_listed_as_damaged(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_of(results).write_text("{")
    assert main(["list", "runs", "--results", str(results), "--format", "csv"]) == 1
    assert f"\n{EDITED},run,damaged," in capsys.readouterr().out


def test_measured_memory_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = write_measured(tmp_path, "full", 224, {"train": 100})
    assert len(read_measured(tmp_path)) == 1  # of before there were digests
    write_record(path, read_point(path))
    edit(path, r'"peak_allocated_bytes": \d+', '"peak_allocated_bytes": 1')
    with pytest.raises(ValueError, match="its content has changed since it was stored\\): delete it"):
        read_measured(tmp_path)
