"""Trainings that had not come to their end: what counts as one, and that every table and figure says it."""

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from fixed_records import make_record
from rich.console import Console
from test_plots import texts, watch

from benchmarks.analysis.convergence import NO_FALL, ONE_EPOCH, RISING, not_converged
from benchmarks.analysis.summary import summary
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import write_record
from benchmarks.records.schema import Record
from benchmarks.report.compare import NOTE as NOTE_OF_COMPARISON
from benchmarks.report.compare import Side, compare_results, readable
from benchmarks.report.page_data import collect
from benchmarks.report.paper_layout import write_paper_tables
from benchmarks.report.plots import write_plots
from benchmarks.report.tables import console_table, write_tables

FALLING = (0.6, 0.5, 0.4, 0.3, 0.2)
NOTE = (
    "◊ Not converged: FPT at 448 px (1 of 3 seeds: training loss not below that of answering the class shares; "
    "1 of 3 seeds: best epoch is the last and still rising). More epochs may raise its AUC."
)


@pytest.mark.parametrize(
    ("losses", "val_aucs", "expected"),
    [
        pytest.param(FALLING, (0.6, 0.7, 0.8, 0.9, 0.9), None, id="a tie with an epoch before is no rise"),
        pytest.param(FALLING, (0.6, 0.7, 0.8, 0.9, 0.905), None, id="half a point is noise"),
        pytest.param(FALLING, (0.6, 0.7, 0.8, 0.9, 0.92), RISING, id="two points in the last of five epochs"),
        pytest.param(FALLING, (0.6, 0.7, 0.95, 0.8, 0.92), None, id="rising, but not to its best"),
        pytest.param(FALLING, (0.6, 0.7, 0.8, 0.9, 1.0), None, id="1 cannot rise"),
        pytest.param((0.7, 0.69), (0.5, 0.6), NO_FALL, id="at the loss of a coin"),
        pytest.param((4.0, 2.0, 1.0), (0.5, 0.5, 0.5), NO_FALL, id="fallen, but not yet below a coin's"),
        pytest.param((0.7, 0.7, 0.6), (0.5, 0.6, 0.6), None, id="fallen in the last epoch"),
        pytest.param((0.3, 0.3, 0.3), (0.9, 0.9, 0.9), None, id="learnt within the first epoch"),
        pytest.param((0.1,), (0.9,), ONE_EPOCH, id="one epoch"),
        pytest.param((), (), None, id="no history"),
    ],
)
def test_histories_by_hand(losses: Sequence[float], val_aucs: Sequence[float], expected: str | None) -> None:
    assert not_converged(losses, val_aucs, math.log(2)) == expected


def test_the_last_epochs_are_a_fifth_of_all() -> None:
    slow = [0.5 + 0.004 * epoch for epoch in range(20)]  # 1.6 points over four epochs, 0.4 over one
    assert not_converged([0.3] * 20, slow, math.log(2)) == RISING
    losses = [0.7] * 19 + [0.1]  # 0.55 over the last four, 0.1 in the last
    assert not_converged(losses, [0.6] * 20, math.log(2)) is None
    assert not_converged([0.7] * 19 + [0.6], [0.6] * 20, math.log(2)) == NO_FALL


def test_rare_classes_have_a_lower_loss_to_beat_and_unknown_ones_the_first_epochs() -> None:
    losses, aucs = (0.4, 0.33), (0.6, 0.6)
    assert not_converged(losses, aucs, math.log(2)) is None
    shares = runs_frame([_record(0, losses, aucs, counts={"rare": 10, "common": 90, "none": 0})])["class_entropy"]
    assert shares.to_list() == [pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9))]  # 0.325
    assert not_converged(losses, aucs, shares[0]) == NO_FALL
    assert not_converged(losses, aucs, None) is None
    assert not_converged((0.4, 0.39), aucs, None) == NO_FALL


def _record(
    seed: int,
    losses: Sequence[float],
    val_aucs: Sequence[float],
    method: str = "fpt",
    counts: dict[str, int] | None = None,
    resolution: int = 448,
) -> Record:
    record = make_record(method, resolution, seed=seed)
    record["run"]["dataset"]["counts"] = {"train": counts or {"no": 50, "yes": 50}, "test": {"no": 10, "yes": 10}}
    epochs = zip(losses, val_aucs, strict=True)
    record["measurements"]["history"] = [
        {"epoch": epoch, "loss": loss, "val_auc": auc} for epoch, (loss, auc) in enumerate(epochs, 1)
    ]
    return record


@pytest.fixture
def records() -> list[Record]:
    """FPT with a seed that has converged, one still rising and one that has not begun; full and LoRA that have."""
    flat = (0.8, 0.85, 0.85, 0.85, 0.85)
    others = [
        _record(seed, FALLING, flat, method, resolution=side)
        for method in ("full", "lora")
        for seed in range(3)
        for side in (224, 448)
    ]
    fpt = [_record(0, FALLING, flat), _record(1, (0.7,) * 5, flat), _record(2, FALLING, (0.5, 0.5, 0.5, 0.6, 0.8))]
    return [*others, *fpt, *(_record(seed, FALLING, flat, resolution=224) for seed in range(3))]


def test_seeds_are_counted(records: list[Record]) -> None:
    table = summary(runs_frame(records)).set_index(["method", "resolution"])["unconverged"]
    assert table["fpt", 448] in NOTE
    assert table.drop(index=("fpt", 448)).isna().all()
    alone = summary(runs_frame(records[-4:-3]))
    assert alone["unconverged"].to_list() == [RISING]  # one seed has nothing to count


def test_a_history_that_is_not_known_is_not_judged() -> None:
    records = [make_record("fpt", seed=0), make_record("fpt", seed=1)]
    records[1]["measurements"]["history"] = [{"epoch": 1, "loss": None, "val_auc": 0.5}]
    assert summary(runs_frame(records))["unconverged"].to_list() == [None]


def test_a_mean_that_is_left_out_is_not_marked(tmp_path: Path, records: list[Record]) -> None:
    records[-4]["run"]["code"] = {"digest": "0" * 64, "method_digest": "1" * 64}
    text = write_tables(tmp_path, runs_frame(records))[0].read_text()
    assert "–‖" in text and "◊" not in text


def test_every_table_says_it(tmp_path: Path, records: list[Record]) -> None:
    frame = runs_frame(records)
    for markdown, csv, latex in (write_tables(tmp_path, frame), write_paper_tables(tmp_path, frame, published=False)):
        text = markdown.read_text()
        rows = [line for line in text.splitlines() if line.startswith("|") and "◊" in line]
        assert all("FPT" in line for line in rows)
        assert sum(line.count("◊") for line in rows) == 1
        assert NOTE in text
        tex = latex.read_text()
        assert sum(line.count(r"$^{\diamond}$") for line in tex.splitlines() if line.endswith(r"\\")) == 1
        assert r"$^{\diamond}$ Not converged: FPT at 448 px" in tex
        cells = pd.read_csv(csv).set_index(["method", "resolution"])
        column = "unconverged" if "unconverged" in cells else "unconverged Demo"
        assert cells[column].dropna().to_list() == [NOTE[NOTE.index("(") + 1 : NOTE.index(")")]]
    stream = io.StringIO()
    Console(file=stream, width=100).print(console_table(frame))
    assert stream.getvalue().count("◊") == 2  # the row, the note


def test_every_figure_of_aucs_says_it(tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    figures = watch(monkeypatch)
    paths = write_plots(tmp_path, runs_frame(records))
    drawn = dict(zip([path.name.split("_")[0] for path in paths[::2]], figures, strict=True))
    for name in ("auc-over-memory", "auc-over-resolution"):
        assert "◊ Not converged: FPT at 448 px (1 of 3 seeds" in texts(drawn[name]), name
        marked = [text.get_text() for axes in drawn[name].axes for text in axes.texts if "◊" in text.get_text()]
        assert len(marked) == 1, name
    one = [record for record in records if record["run"]["config"]["resolution"] == 448]
    write_plots(tmp_path / "one", runs_frame(one))
    assert [text.get_text() for text in figures[-1].axes[0].texts if "◊" in text.get_text()] == ["◊"]


def test_ranks_over_datasets_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = watch(monkeypatch)
    flat = (0.8, 0.85, 0.85, 0.85, 0.85)
    records = []
    for number, method in itertools.product(range(6), ("full", "lora", "fpt")):
        record = _record(0, (0.7,) * 5 if (number, method) == (3, "fpt") else FALLING, flat, method)
        record["run"]["config"] |= {"dataset": f"d{number}", "dataset_digest": f"d{number}"}
        record["run"]["dataset"] |= {"name": f"d{number}", "title": f"Data {number}"}
        records.append(record | {"run_id": f"{record['run_id']}{number}"})
    paths = write_plots(tmp_path, runs_frame(records))
    drawn = dict(zip([path.stem for path in paths[::2]], figures, strict=True))
    (ranks,) = (figure for name, figure in drawn.items() if name.startswith("ranks"))
    assert "◊ Not converged: FPT on Data 3 at 448 px (training loss" in texts(ranks)
    assert len([text for axes in ranks.axes for text in axes.texts if "◊" in text.get_text()]) == 1
    markdown = write_tables(tmp_path, runs_frame(records))[0].read_text()
    rows = [line for line in markdown[markdown.index("## Over datasets") :].splitlines() if "◊" in line]
    assert len(rows) == 1 and "FPT" in rows[0]


def test_a_comparison_of_folders_says_it(records: list[Record]) -> None:
    side = Side(runs_frame(records), {})
    shown = readable(compare_results(side, side)).set_index(["method", "px"])["AUC"]
    assert [place for place, auc in shown.items() if "◊" in auc] == [("FPT", 448)]
    assert "◊" in NOTE_OF_COMPARISON


def test_the_page_says_it(tmp_path: Path, records: list[Record]) -> None:
    for record in records:
        write_record(tmp_path, record)
    data = collect(tmp_path, tmp_path).shown
    marked = [row for row in data["rows"] if row["auc_marks"]]
    assert [(row["method"], row["resolution"]) for row in marked] == [("fpt", 448)]
    assert sum("◊" in cell[1] for row in data["rows"] for cell in row["cells"]) == 1
    assert NOTE in data["groups"][0]["footnotes"]
