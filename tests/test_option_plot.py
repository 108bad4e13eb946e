"""Figures of one option against AUC and memory, and figures of many methods, from fixed stored results."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fixed_records import MIB, make_record, store_with_predictions

import bench
from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.front import pareto_front
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.records.frame import load_frame, runs_frame
from benchmarks.records.record import store_run
from benchmarks.records.schema import Record
from benchmarks.report import auc_plot, option_plot, style, trade_off_plot
from benchmarks.report.memory_plot import plot_memory_curves
from benchmarks.report.option_plot import option_series
from benchmarks.report.plots import write_plots
from methods import IDEAS, TITLES

MANY = 60  # methods, more than there are
BASE: dict[str, Any] = {"keep_ratio": 0.2, "layers": "last-half", "dropout": 0.5}
CHANGES: tuple[dict[str, Any], ...] = ({}, {"keep_ratio": 0.5}, {"keep_ratio": 1.0}, {"layers": "all"})


def ablation(resolutions: tuple[int, ...] = (448,), seeds: int = 2) -> list[Record]:
    """Runs of FPT+ that change one option of its base at a time, with memory and AUC by hand."""
    records = []
    for place, change in enumerate(CHANGES):
        for resolution in resolutions:
            for seed in range(seeds):
                options = BASE | change
                auc = 0.8 + 0.1 * options["keep_ratio"] + 0.01 * seed
                changes: dict[str, Any] = {"tag": f"v{place}", "method_config": options, "auc": auc}
                changes["config"] = {"options": options}  # as runs store them, too
                record = make_record("fpt_plus", resolution, seed, **changes)
                record["measurements"]["memory"]["phases"]["preload"]["peak_allocated_bytes"] = (2 + place) * 1000 * MIB
                records.append(record)
    return records


def table_of(records: list[Record]) -> pd.DataFrame:
    return summary(runs_frame(records))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, kept as they are finished."""
    kept: list[Any] = []

    def finish(figure: Any, path: Path, *_: Any, draw: Any = None, **__: Any) -> list[Path]:
        draw = next((given for given in _ if callable(given)), draw)
        if draw is not None:
            draw()
        kept.append(figure)
        return [path]

    for module in (option_plot, auc_plot, trade_off_plot):
        monkeypatch.setattr(module, "finish", finish)
    monkeypatch.setattr(plt, "close", lambda figure: None)
    return kept


def test_a_series_is_of_cells_that_differ_in_one_option_alone() -> None:
    found = {series.option: series.rows for series in option_series(table_of(ablation()))}
    assert list(found) == ["keep_ratio", "layers"]
    assert found["keep_ratio"]["value"].to_list() == [0.2, 0.5, 1.0]
    assert sorted(found["layers"]["value"]) == ["all", "last-half"]
    assert found["keep_ratio"]["auc_mean"].to_list() == pytest.approx([0.825, 0.855, 0.905])


def test_what_differs_in_two_options_is_no_series() -> None:
    both = make_record("fpt_plus", tag="two", method_config=BASE | {"keep_ratio": 0.7, "layers": "3-11"})
    base = make_record("fpt_plus", tag="one", method_config=BASE)
    assert option_series(table_of([both, base])) == []
    lone = make_record("lora", method_config={"rank": 4}, config={"preload": True}, tag="p")
    assert (
        option_series(table_of([lone, make_record("lora", method_config={"rank": 4})])) == []
    )  # no option of a method


def test_a_whole_grid_is_a_series_for_each_setting_of_the_rest() -> None:
    grid = [
        make_record("lora", tag=f"{rank}-{alpha}", method_config={"rank": rank, "alpha": alpha})
        for rank in (4, 16)
        for alpha in (1, 2, 3)
    ]
    found = option_series(table_of(grid))
    assert [(series.option, len(series.rows)) for series in found] == [("alpha", 3), ("alpha", 3), ("rank", 2)] + [
        ("rank", 2)
    ] * 2
    assert sorted(option_plot._names(found)[:2]) == ["rank 16", "rank 4"]


def test_the_figure_shows_what_is_stored(figures: list[Any], tmp_path: Path) -> None:
    table = table_of(ablation((448, 896)))
    option_plot.plot_options(table, option_series(table), style.FULL, tmp_path / "x.png")
    (figure,) = figures
    (keep_auc, keep_memory), (layers_auc, _) = np.array(figure.axes).reshape(2, 2)
    assert [axes.get_xlabel() for axes in (keep_auc, layers_auc)] == ["keep_ratio", "layers"]
    assert [text.get_text() for text in keep_auc.get_xticklabels()] == ["0.2", "0.5", "1.0"]
    wanted = {tuple((2 + place) * 1000 * MIB for place in range(3))}
    assert {tuple(line.get_ydata()) for line in keep_memory.lines if len(line.get_xdata()) == 3} == wanted
    first, second = (container.lines[0] for container in keep_auc.containers)
    for line in (first, second):
        assert list(line.get_ydata()) == pytest.approx([82.5, 85.5, 90.5])
        assert line.get_linestyle() == "None"  # no interval, no line
    assert all(
        a < b for a, b in zip(first.get_xdata(), second.get_xdata(), strict=True)
    )  # of the same AUC, yet both seen


def test_intervals_are_those_of_the_tables(figures: list[Any], tmp_path: Path) -> None:
    for record in ablation():
        store_with_predictions(tmp_path, record, skill=2.0)
    frame, _ = load_frame(tmp_path)
    evidence, _ = load_evidence(tmp_path, frame)
    write_plots(tmp_path, frame, evidence, option="keep_ratio")
    (figure,) = figures
    assert len(figure.axes) == 2
    (container,) = figure.axes[0].containers
    ends = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
    table = add_significance(summary(frame), evidence).set_index("label")
    rows = table.loc[["FPT+", "FPT+ (keep_ratio 0.5)", "FPT+ (keep_ratio 1.0)"]]
    assert np.array(ends).ravel() == pytest.approx(100 * rows[["auc_low", "auc_high"]].to_numpy(dtype=float).ravel())
    assert container.lines[0].get_linestyle() != "None"


def test_the_command_draws_one_option_or_says_which_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for record in ablation(seeds=1):
        store_run(tmp_path, record, None)
    assert bench.main(["plots", "--option", "layers", "--results", str(tmp_path)]) == 0
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert [name.partition("_demo")[0] for name in names] == ["options-fpt_plus-layers"] * 2
    assert bench.main(["plots", "--option", "layer", "--results", str(tmp_path)]) == 2
    assert "differ must be one of keep_ratio, layers, got 'layer'; did you mean layers?" in capsys.readouterr().err
    assert bench.main(["plots", "--results", str(tmp_path)]) == 0
    assert len(list((tmp_path / "plots").glob("options-fpt_plus_demo_*"))) == 2


def test_labels_of_an_ablation_say_what_was_changed() -> None:
    assert sorted(table_of(ablation())["label"]) == [
        "FPT+", "FPT+ (keep_ratio 0.5)", "FPT+ (keep_ratio 1.0)", "FPT+ (layers all)",
    ]  # fmt: skip


@pytest.fixture
def of_many(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Records of sixty methods at two resolutions, of all ideas, in the order of a table that has them."""
    ideas = ("probes", "selective", "adapters", "prompts", "low_rank", "side")
    for place in range(len(TITLES), MANY):
        monkeypatch.setitem(TITLES, f"method_{place}", f"Method {place}")
        monkeypatch.setitem(IDEAS, f"method_{place}", ideas[place % len(ideas)])
    records = []
    for place, name in enumerate(TITLES):
        for resolution in (224, 448):
            changes: dict[str, Any] = {"auc": 0.7 + 0.2 * (place * 7 % MANY) / MANY, "tag": f"m{place}"}
            record = make_record("lora", resolution, **changes)
            record["run"]["config"]["method"], record["run"]["method"]["title"] = name, TITLES[name]
            for phase in record["measurements"]["memory"]["phases"].values():
                for counter in ("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes"):
                    if phase[counter] is not None:
                        phase[counter] = int(phase[counter] * (0.1 + (place * 11 % MANY) / MANY))
            records.append(record)
    return records


def test_a_table_of_many_has_ideas_in_their_order(of_many: list[Record], tmp_path: Path) -> None:
    from benchmarks.report.tables import write_tables

    md, _, tex = write_tables(tmp_path, runs_frame(of_many))
    lines = [line for line in md.read_text().splitlines() if line.startswith("|")]
    headings = [line.split("|")[2].strip() for line in lines if line.split("|")[2].strip().startswith("*")]
    wanted = ["Full fine-tuning", "Probes", "Selective", "Adapters", "Prompts", "Low rank", "Side networks"]
    assert headings == [f"*{title}*" for title in wanted] * 2
    text = tex.read_text()
    assert text.count(r"\emph{Adapters}") == 2 and text.count(r"\addlinespace") == 2 * (len(wanted) - 1)
    few = summary(runs_frame(of_many[4:6] + of_many[2:4] + of_many[:2]))
    assert few["method"].to_list() == ["full", "linear", "lora"] * 2
    write_tables(tmp_path / "few", runs_frame(of_many[:12]))
    assert "*Full" not in (tmp_path / "few/tables/results.md").read_text()


def test_figures_of_many_name_a_few(of_many: list[Record], figures: list[Any], tmp_path: Path) -> None:
    block = table_of(of_many)
    named = style.few_of_many(block, "auc_mean", 1)
    assert 6 <= len(named) <= 7 and "Full fine-tuning" in named
    prompts = block[block["method"].map(IDEAS) == "prompts"].groupby("label")["auc_mean"].mean()
    assert prompts.idxmax() in named
    looks = style.styles(zip(block["method"], block["label"], strict=True))
    auc_plot.plot_auc(block, looks, tmp_path / "r.png")
    trade_off_plot.plot_trade_off(block, looks, tmp_path / "m.png")
    rows, points = figures
    assert [text.get_text() for text in rows.axes[0].get_yticklabels()] == list(looks)  # a page has room for all
    places = [(list(group["memory_bytes"]), list(group["auc_mean"])) for _, group in block.groupby("resolution")]
    front = [pareto_front(*place) for place in places]
    for axes, steps in zip(points.axes, front, strict=True):
        texts = {text.get_text() for text in axes.texts}
        assert "Full fine-tuning" in texts and len(steps) <= len(texts) <= len(steps) + 1
        (rest,) = [line for line in axes.lines if line.get_color() == style.GREY.colour]
        assert len(rest.get_xdata()) == MANY - len(texts)


def test_more_rows_than_a_page_holds_are_the_best_of_each_idea(
    of_many: list[Record], figures: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(auc_plot, "MOST_ROWS", MANY - 1)
    block = table_of(of_many)
    auc_plot.plot_auc(block, style.styles(zip(block["method"], block["label"], strict=True)), tmp_path / "r.png")
    (figure,) = figures
    assert {text.get_text() for text in figure.axes[0].get_yticklabels()} == style.few_of_many(block, "auc_mean", 1)


def test_few_are_all_named(tmp_path: Path) -> None:
    block = table_of([make_record(name) for name in ("full", "lora", "fpt")])
    assert style.few_of_many(block, "auc_mean", 1) == set(block["label"])
    assert style.said_of_few(0, "all") == ""


def test_memory_curves_of_many_name_the_least_of_each_idea(
    of_many: list[Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[Any] = []
    monkeypatch.setattr("benchmarks.report.memory_plot.finish", lambda *given, **_: said.append(given))
    rows = [
        {"method": name, "backbone": "b", "resolution": side, "batch_size": 16, "precision": "bf16"}
        | {"attention": "sdpa", "grad_checkpointing": False, "phase": "whole run", "source": "predicted"}
        | {"status": "ok", "peak_allocated_bytes": (place + 1) * side * MIB}
        for place, name in enumerate([*TITLES, "lora:rank=4"])
        for side in (224, 448, 896)
    ]
    frame = pd.DataFrame(rows)
    plot_memory_curves(frame, tmp_path / "x.png")
    _, _, _, caption, handles, _ = said[0]
    labels = [handle.get_label() for handle in handles]
    assert "Full fine-tuning" in labels and "LoRA" in labels and labels[-1] == f"{MANY + 1 - len(labels) + 1} others"
    assert f"grey: the {MANY + 1 - len(labels) + 1} others" in caption


def test_many_methods_and_their_variants_look_different(of_many: list[Record]) -> None:
    labels = [(name, title) for name, title in TITLES.items()] + [("lora", f"LoRA (rank {rank})") for rank in range(20)]
    looks = style.styles(labels)
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(labels) == MANY + 20
