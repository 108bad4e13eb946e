"""Two folders of results: what is matched, what moved, and by which test."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fixed_records import MIB, make_record, store_with_predictions
from scipy import stats

from bench import main
from benchmarks.analysis.comparison import SameImages
from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.statistics import holm
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import load_records, write_record
from benchmarks.records.schema import Record
from benchmarks.report.compare import Side, compare_results, in_words, readable


def side(results: Path) -> Side:
    frame = runs_frame(load_records(results)[0])
    return Side(frame, load_evidence(results, frame)[0])


def rows(before: Path, after: Path) -> dict[str, dict[Any, Any]]:
    return {row["method"]: row for row in compare_results(side(before), side(after)).to_dict("records")}


def store(results: Path, *records: Record) -> Path:
    for record in records:
        write_record(results, record)
    return results


def folders(tmp_path: Path, classes: tuple[str, ...] = ("no", "yes")) -> tuple[Path, Path]:
    """LoRA gets better, full stays, VPT is new."""
    before, after = tmp_path / "before", tmp_path / "after"
    for results, skill in ((before, 0.5), (after, 2.0)):
        for seed in (0, 1, 2):
            store_with_predictions(results, make_record("full", seed=seed), 1.0, classes)
            store_with_predictions(results, make_record("lora", seed=seed), skill, classes)
    store_with_predictions(after, make_record("vpt"), 1.0, classes)
    return before, after


@pytest.mark.parametrize("classes", [("no", "yes"), ("a", "b", "c")])
def test_what_moved_is_told_from_what_stayed(tmp_path: Path, classes: tuple[str, ...]) -> None:
    before, after = folders(tmp_path, classes)
    found = rows(before, after)
    assert {name: (row["in"], row["auc"]) for name, row in found.items()} == {
        "full": ("both", "same"),
        "lora": ("both", "significant"),
        "vpt": ("after", None),
    }
    lora = found["lora"]
    assert lora["test"] == "images and seeds" and lora["auc_low"] > 0
    assert lora["auc_change"] == pytest.approx(lora["auc_after"] - lora["auc_before"])
    assert lora["p_holm"] == pytest.approx(holm([1.0, lora["p"]])[1])
    cells = [
        {int(run_id.split("_")[2]): run for run_id, run in side(folder).evidence.items() if "lora" in run_id}
        for folder in (after, before)
    ]
    (expected,) = SameImages(cells).compare([(0, 1)])
    assert expected is not None and expected.num_seeds == 3
    assert [lora[name] for name in ("auc_low", "auc_high", "p")] == pytest.approx(list(expected[1:4]))
    assert rows(after, before)["vpt"]["in"] == "before"


def test_one_seed_says_something_of_these_models_alone(tmp_path: Path) -> None:
    for name, skill in (("before", 1.0), ("after", 1.2)):
        store_with_predictions(tmp_path / name, make_record("lora"), skill)
    (row,) = rows(tmp_path / "before", tmp_path / "after").values()
    one, two = (dict(enumerate(side(tmp_path / name).evidence.values())) for name in ("after", "before"))
    (expected,) = SameImages([one, two]).compare([(0, 1)])
    assert expected is not None
    assert (row["p"], row["test"]) == (expected.p, "images, trained models")


def test_other_seeds_are_compared_unpaired(tmp_path: Path) -> None:
    """Training noise alone moves the mean of three seeds; images alone would call it significant."""
    skills = ((1.2, 0.7, 0.9), (1.5, 0.8, 1.4))
    for name, first_seed, values in (("before", 0, skills[0]), ("after", 3, skills[1])):
        for seed, skill in enumerate(values, start=first_seed):
            store_with_predictions(tmp_path / name, make_record("lora", seed=seed), skill, num_images=400)
    (row,) = rows(tmp_path / "before", tmp_path / "after").values()
    cells = [dict(enumerate(side(tmp_path / name).evidence.values())) for name in ("after", "before")]
    expected = SameImages(cells).compare_unpaired(0, 1)
    assert expected is not None
    assert (row["p"], row["test"]) == (expected.p, "images and seeds")
    aucs = [[run.auc for run in cell.values()] for cell in cells]
    assert row["p"] > 0.5 * stats.ttest_ind(*aucs, equal_var=False).pvalue


def test_without_predictions_seeds_decide(tmp_path: Path) -> None:
    before = store(tmp_path / "a", *(make_record("lora", seed=seed, auc=0.8 + 0.001 * seed) for seed in range(3)))
    after = store(tmp_path / "b", *(make_record("lora", seed=seed, auc=0.7 + 0.003 * seed) for seed in range(1, 4)))
    (row,) = rows(before, after).values()
    expected = stats.ttest_ind([0.703, 0.706, 0.709], [0.8, 0.801, 0.802], equal_var=False).pvalue
    assert (row["auc"], row["p"], row["test"]) == ("significant", pytest.approx(expected), "seeds")
    single = store(tmp_path / "c", make_record("lora", auc=0.7))
    (row,) = rows(before, single).values()
    assert row["auc"] == "no test"


def test_costs_and_states_are_compared_like_with_like(tmp_path: Path) -> None:
    bigger = make_record("lora")
    bigger["measurements"]["memory"]["phases"]["train"]["peak_allocated_bytes"] += 3 * MIB
    bigger["measurements"]["parameters"]["trainable"] += 8
    before = store(tmp_path / "a", make_record("lora"), make_record("fpt"), make_record("full"))
    after = store(
        tmp_path / "b", bigger, make_record("fpt", measured=False), make_record("full", state="oom", phase="train")
    )
    found = rows(before, after)
    assert (found["lora"]["memory_bytes_change"], found["lora"]["trainable_change"]) == (3 * MIB, 8)
    assert found["fpt"]["memory_bytes_change"] == 0  # both predicted alike; measured against predicted says nothing
    assert (found["full"]["state_before"], found["full"]["state_after"]) == ("ok", "oom")
    words = in_words(compare_results(side(before), side(after)))
    assert words.startswith("3 cells in both") and "memory in 1, parameters in 1, state in 1" in words


def test_settings_that_differ_are_named_and_protocols_are_kept_apart(tmp_path: Path) -> None:
    before = store(tmp_path / "a", make_record("lora", method_config={"rank": 8}))
    after = store(tmp_path / "b", make_record("lora", method_config={"rank": 16, "scale": 2.0}))
    (row,) = rows(before, after).values()
    assert (row["in"], row["settings"]) == ("both", "rank 8 → 16; scale null → 2.0")
    both = store(tmp_path / "c", *(make_record("lora", method_config={"rank": r}, tag=str(r)) for r in (8, 32)))
    table = compare_results(side(both), side(after))
    assert table["in"].to_list() == ["after", "before", "before"]  # which of two it was is not guessed
    assert compare_results(side(both), side(before))["in"].to_list() == ["both", "before"]
    other = store(tmp_path / "d", make_record("lora", config={"precision": "fp32"}))
    assert compare_results(side(before), side(other))["in"].to_list() == ["after", "before"]


def test_the_command_prints_data_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = folders(tmp_path)
    arguments = ["tables", "--results", str(after), "--compare", str(before)]
    assert main(arguments) == 0
    assert "significant" in capsys.readouterr().out  # what moved is the last to be left out
    assert main([*arguments, "--wide"]) == 0
    out, err = capsys.readouterr()
    assert "significant" in out and "→" in out and "nan" not in out.lower()
    assert "2 cells in both (AUC: 1 same, 1 significant;" in err.replace(
        "1 significant, 1 same", "1 same, 1 significant"
    )
    assert (
        "over images and seeds, whether the methods differ" in err
        and not (after / "tables").exists()
        and not (before / ".statistics").exists()
    )
    assert main([*arguments, "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["method"]: row["auc"] for row in table} == {"full": "same", "lora": "significant", "vpt": ""}
    assert main([*arguments, "--format", "json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in parsed] == ["full", "vpt", "lora"]  # by idea
    assert parsed[1]["auc_before"] is None and parsed[0]["seeds_after"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--compare nowhere", "no records under nowhere/runs"),
        ("--format csv", "format must be used with --compare DIR, got --format csv alone"),
        ("--compare . --layout paper", "compare must be used without --layout, got --layout paper"),
        ("--compare . --published", "published must be used with --layout paper"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, make_record("lora"))
    assert main(["tables", "--results", str(tmp_path), *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_names_are_escaped_in_markdown(tmp_path: Path) -> None:
    odd = store(tmp_path, make_record("lora", config={"dataset": "<b>|x"}))
    assert readable(compare_results(side(odd), side(odd)))["dataset"].to_list() == [r"&lt;b&gt;\|x"]
