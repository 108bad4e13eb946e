"""Runs that different code has trained: refused, named, and averaged only where that is asked for."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from fixed_records import fixed_records, make_record

import bench
from benchmarks.analysis.summary import refusals, summary
from benchmarks.analysis.training_code import AVERAGED, LEFT_OUT
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import write_record
from benchmarks.records.schema import Record
from benchmarks.report.tables import write_tables

OLD, NEW = "1a2b3c4d" * 8, "5e6f7a8b" * 8


def made_by(
    record: Record, digest: str | None, method_digest: str | None = "99" * 32, commit: str = "c0ffee"
) -> Record:
    record["run"]["code"] |= {"commit": commit, "digest": digest, "method_digest": method_digest}
    return record


def mixed() -> list[Record]:
    """LoRA's seeds by old, old and new code; FPT by new code alone."""
    lora = [
        made_by(make_record("lora", seed=0, auc=0.8), OLD),
        made_by(make_record("lora", seed=1, auc=0.9), OLD),
        made_by(make_record("lora", seed=2, auc=0.7), NEW, commit="facade00"),
    ]
    return [*lora, *(made_by(make_record("fpt", seed=seed), NEW, commit="facade00") for seed in range(3))]


def cell(records: list[Record], method: str, mix_code: bool = False) -> pd.Series:
    table = summary(runs_frame(records), mix_code)
    (row,) = [row for _, row in table.iterrows() if row["method"] == method]
    return row


def test_a_mean_over_different_code_is_left_out() -> None:
    row = cell(mixed(), "lora")
    assert (row["state"], row["seeds_ok"], row["code_mix"], row["run_ids"]) == ("ok", 3, LEFT_OUT, "")
    means = [name for name in row.index if name.endswith(("_mean", "_sd")) or name in ("seconds_train", "ppe", "pme")]
    assert row[means].isna().all()
    assert row["train_memory_bytes"] > 0 and row["percent"] > 0
    fpt = cell(mixed(), "fpt")
    assert pd.isna(fpt["code_mix"]) and fpt["auc_mean"] > 0


def test_a_mean_over_different_code_is_there_when_asked_for() -> None:
    row = cell(mixed(), "lora", mix_code=True)
    assert row["code_mix"] == AVERAGED and row["auc_mean"] == pytest.approx(0.8)
    assert len(row["run_ids"].split()) == 3


def test_the_line_says_which_runs_by_which_code_and_what_to_do() -> None:
    assert refusals(runs_frame(mixed())) == [
        f"runs of LoRA on demo at 448 px (protocol {cell(mixed(), 'lora')['block']}) must be trained by the same code "
        "to be averaged, got 1a2b3c4d (version 0.1.0, commit c0ffee): lora_448_0_a, lora_448_1_a; "
        "5e6f7a8b (version 0.1.0, commit facade00): lora_448_2_a: run them again with --overwrite, or average them all "
        "the same with --mix-code"
    ]


@pytest.mark.parametrize(
    ("digests", "refused"),
    [
        ([None, None], False),  # stored before records had digests, as the demo's
        ([None, OLD], True),
        ([OLD, OLD], False),
        ([OLD, NEW], True),
    ],
)
def test_unknown_code_differs_from_known_code_alone(digests: list[str | None], refused: bool) -> None:
    records = [made_by(make_record("lora", seed=seed), digest) for seed, digest in enumerate(digests)]
    assert (len(refusals(runs_frame(records))), cell(records, "lora")["code_mix"] == LEFT_OUT) == (refused, refused)


def test_another_commit_with_the_same_training_code_is_averaged() -> None:
    records = [made_by(make_record("lora", seed=seed), OLD, commit=f"c{seed}ffee") for seed in range(2)]
    assert refusals(runs_frame(records)) == []
    assert (
        cell(records, "lora")["code"]
        == "1a2b3c4d (version 0.1.0, commit c0ffee); 1a2b3c4d (version 0.1.0, commit c1ffee)"
    )


def test_a_method_whose_own_files_differ_is_refused() -> None:
    records = [made_by(make_record("lora", seed=seed), OLD, digest) for seed, digest in enumerate((OLD, NEW))]
    (line,) = refusals(runs_frame(records))
    assert "(version 0.1.0, commit c0ffee), the method's files 1a2b3c4d: lora_448_0_a;" in line
    assert "the method's files 5e6f7a8b" in cell(records, "lora")["code"]


def test_a_run_that_failed_is_no_part_of_the_mean() -> None:
    records = [made_by(make_record("lora"), OLD), made_by(make_record("lora", seed=1, state="failed"), NEW)]
    assert refusals(runs_frame(records)) == []
    assert cell(records, "lora")["auc_mean"] > 0
    assert refusals(runs_frame([])) == []


def test_tables_mark_what_they_left_out_or_mixed(tmp_path: Path) -> None:
    codes = "1a2b3c4d (version 0.1.0, commit c0ffee); 5e6f7a8b (version 0.1.0, commit facade00)"
    markdown, _, latex = (path.read_text() for path in write_tables(tmp_path, runs_frame(mixed())))
    assert "–‖ " in markdown and r"\textendash{}$^{\|}$" in latex
    assert f"‖ Without a mean, as different code has trained the runs: LoRA at 448 px by {codes}." in markdown
    assert "Not all rows were trained by the same code:" in markdown
    markdown = write_tables(tmp_path, runs_frame(mixed()), mix_code=True)[0].read_text()
    assert "80.00 ± 10.00</u>‖" in markdown  # second best
    assert f"‖ The mean runs over what different code has trained: LoRA at 448 px by {codes}." in markdown


def test_rows_by_different_code_stand_in_one_table_with_a_note(tmp_path: Path) -> None:
    records = [made_by(make_record("lora"), OLD), made_by(make_record("fpt"), None), made_by(make_record("full"), None)]
    text = write_tables(tmp_path, runs_frame(records))[0].read_text()
    assert (
        "Not all rows were trained by the same code: unknown (version 0.1.0, commit c0ffee): Full fine-tuning, FPT. "
        "1a2b3c4d (version 0.1.0, commit c0ffee): LoRA." in text
    )
    assert "‖" not in text
    own = [made_by(make_record(method), OLD, digest) for method, digest in (("lora", OLD), ("fpt", NEW))]
    assert "by the same code" not in write_tables(tmp_path, runs_frame(own))[0].read_text()
    assert "by the same code" not in write_tables(tmp_path, runs_frame(fixed_records()))[0].read_text()


@pytest.mark.parametrize(
    "command",
    ["tables", "tables --layout paper", "plots", "report", "tables --compare {results} --format json"],
)
def test_every_command_refuses_and_mixes_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for record in mixed():
        write_record(tmp_path, record)
    arguments = [*command.format(results=tmp_path).split(), "--results", str(tmp_path)]
    assert bench.main(arguments) == 1
    shown = capsys.readouterr()
    assert "must be trained by the same code to be averaged" in shown.err
    if "json" in command:
        assert [row["auc_after"] for row in json.loads(shown.out) if row["method"] == "lora"] == [None]
    if "paper" in command:
        assert "–‖" in (tmp_path / "tables" / "paper.md").read_text()
    assert bench.main([*arguments, "--mix-code"]) in (0, 1)  # the made-up runs have no predictions to read
    shown = capsys.readouterr()
    assert "trained by the same code" not in shown.err
    if "json" in command:
        (after,) = [row["auc_after"] for row in json.loads(shown.out) if row["method"] == "lora"]
        assert math.isclose(after, 0.8)
    if "paper" in command:
        assert "80.00 ± 10.00</u>‖" in (tmp_path / "tables" / "paper.md").read_text()
