"""Methods over the number of labels: which cells make curves, where these cross, and what is drawn and said of it."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fixed_records import make_record, store_with_predictions

from benchmarks.analysis.comparison import Cell
from benchmarks.analysis.evidence import Evidence, load_evidence
from benchmarks.analysis.label_curves import Overtaking, crossing, label_curves
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.records.frame import load_frame, runs_frame
from benchmarks.records.record import store_run
from benchmarks.records.schema import Record
from benchmarks.report import canvas, labels_plot
from benchmarks.report.label_captions import overtaken
from benchmarks.report.tables import write_tables
from benchmarks.speed import labels as speed

MANY = np.array([10**6, 10**6])  # units of each class: what a model expects of the variance is next to nothing
SHARES = {0.05: 20, 0.25: 100, 1.0: 400}


def run(auc: float, influence: Any = (0.0, 0.0, 0.0, 0.0), images: str = "same", units: np.ndarray = MANY) -> Evidence:
    return Evidence(images, "image", auc, np.array(influence, dtype=np.float64), 1.0, units, units)


def curve(*aucs: float, seeds: tuple[int, ...] = (0, 1, 2), **changes: Any) -> dict[int, Cell]:
    """One number of labels for each AUC: 10, 100, 1000; all seeds alike."""
    return {10 ** (i + 1): {seed: run(auc, **changes) for seed in seeds} for i, auc in enumerate(aucs)}


def test_lines_cross_where_geometry_says() -> None:
    # From 100 to 1000 the first goes from 0.02 behind to 0.03 ahead: two fifths of the way, on a log scale.
    found = crossing(curve(0.60, 0.70, 0.85), curve(0.65, 0.72, 0.82), "a", "b")
    assert found is not None and (found.ahead, found.behind, found.num_seeds) == ("a", "b", 3)
    assert found.labels == pytest.approx(10**2.4)
    assert found.low == pytest.approx(10**2.4, rel=0.1) and found.high == pytest.approx(10**2.4, rel=0.1)  # no noise
    turned = crossing(curve(0.65, 0.72, 0.82), curve(0.60, 0.70, 0.85), "b", "a")
    assert turned is not None and turned.ahead == "a" and turned.labels == pytest.approx(10**2.4)


def test_of_several_crossings_it_is_the_last() -> None:
    found = crossing(curve(0.70, 0.60, 0.80), curve(0.60, 0.70, 0.70), "a", "b")
    assert found is not None and found.ahead == "a" and found.labels == pytest.approx(10**2.5)
    touching = crossing(curve(0.60, 0.70, 0.80), curve(0.70, 0.70, 0.70), "a", "b")
    assert touching is not None and touching.labels == pytest.approx(100)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (curve(0.7, 0.8), curve(0.6, 0.7)),
        (curve(0.7, 0.8), curve(0.8, 0.8)),  # level at the end
        (curve(0.7, 0.6), {1: {0: run(0.6)}, 10: {0: run(0.6)}}),  # one number in common
        (curve(0.7, 0.6, seeds=(0, 1)), curve(0.6, 0.7, seeds=(2, 3))),
        (curve(0.7, 0.6), curve(0.6, 0.7, images="others")),
        ({}, curve(0.6, 0.7)),
    ],
)
def test_without_a_crossing_or_without_anything_in_common_there_is_none(one: Any, two: Any) -> None:
    assert crossing(one, two, "a", "b") is None


def test_the_interval_is_fiellers() -> None:
    """Differences -d at 10 and +d at 100, independent with variance v: those t at which ((2t - 1) d)^2 is under
    1.96^2 v ((1 - t)^2 + t^2), a quadratic in t."""
    d, error = 0.03, 0.008
    v = error**2
    one = {10: {0: run(0.70, (error, 0, 0, 0))}, 100: {0: run(0.80, (0, error, 0, 0))}}
    two = {10: {0: run(0.70 + d)}, 100: {0: run(0.80 - d)}}
    found = crossing(one, two, "a", "b")
    q = 1.959964**2 * v
    roots = np.roots([4 * d**2 - 2 * q, -4 * d**2 + 2 * q, d**2 - q])
    expected = sorted(10 ** (1 + root) for root in roots)
    assert found is not None and found.labels == pytest.approx(10**1.5) and found.num_seeds == 1
    assert [found.low, found.high] == pytest.approx(expected, rel=0.01)
    wider = crossing(one, two, "a", "b", level=0.005)
    assert wider is not None and wider.low is not None and wider.low < expected[0]


def test_errors_that_both_share_count_for_nothing_and_large_ones_leave_no_end() -> None:
    shared: dict[str, Any] = {"influence": (0.05, 0.05, 0.0, 0.0)}
    found = crossing(curve(0.6, 0.8, **shared), curve(0.7, 0.7, **shared), "a", "b")
    assert found is not None and found.low == pytest.approx(found.labels, rel=0.1)
    apart = crossing(curve(0.6, 0.8, influence=(0.2, 0, 0, 0)), curve(0.7, 0.7, influence=(0, 0.2, 0, 0)), "a", "b")
    assert apart is not None and (apart.low, apart.high, apart.known) == (None, None, True)
    few = crossing(curve(0.6, 0.8, units=np.array([3, 9])), curve(0.7, 0.7, units=np.array([3, 9])), "a", "b")
    assert few is not None and (few.low, few.high, few.known) == (None, None, False)


def test_the_simulation_prints_a_line_for_each_scene(capsys: pytest.CaptureFixture[str]) -> None:
    (straight, bent, equal) = speed.races()
    gaps = np.subtract(straight.first, straight.second)
    assert straight.truth is not None and bent.truth is not None and equal.truth is None
    assert np.interp(math.log(straight.truth), np.log(speed.SIZES), gaps) == pytest.approx(0, abs=1e-12)
    scene = next(scene for race, scene in speed.scenes() if race.shape == "straight")
    row = speed.row_of(straight, scene, trials=4)
    assert row["true crossing"] == "202" and row["crossings shown"].endswith(" %")


# From stored runs to curves, tables and figures.


def stored_runs(seeds: int = 2) -> list[tuple[Record, float]]:
    """Records of two methods with three numbers of labels, and how much each knows: LoRA gains the more from labels."""
    skills = {"linear": (1.0, 1.1, 1.2), "lora": (0.1, 0.9, 3.0)}
    found = []
    for method, by_share in skills.items():
        for (share, number), skill in zip(SHARES.items(), by_share, strict=True):
            for seed in range(seeds):
                config = {} if share == 1 else {"train_fraction": share, "training_set": f"{number:064}"}
                record = make_record(method, seed=seed, config=config, tag=f"n{number}")
                if share != 1:
                    counts = {"no": number // 2, "yes": number // 2}
                    part = {"num_images": number, "counts": counts, "unit": "image", "num_units": number}
                    record["run"]["dataset"]["trained_on"] = part
                found.append((record, skill))
    return found


def with_train_counts(records: list[tuple[Record, float]]) -> list[Record]:
    for record, _ in records:
        record["run"]["dataset"]["counts"] = {"train": {"no": 200, "yes": 200}, "test": {"no": 9, "yes": 9}}
    return [record for record, _ in records]


def test_a_curve_is_of_cells_that_differ_in_labels_alone() -> None:
    records = with_train_counts(stored_runs())
    (curves,) = label_curves(summary(runs_frame(records)))
    assert not curves.keep_steps
    drawn = {name: rows["num_train"].to_list() for name, rows in curves.rows.groupby("curve", sort=False)}
    assert drawn == {"Linear probe": [20, 100, 400], "LoRA": [20, 100, 400]}
    kept = [record | {"run_id": f"k{record['run_id']}"} for record in with_train_counts(stored_runs())]
    for record in kept:
        record["run"]["config"]["keep_steps"] = "train_fraction" in record["run"]["config"]
    both = list(label_curves(summary(runs_frame([*records, *(r for r in kept if r["run"]["config"]["keep_steps"])]))))
    assert [found.keep_steps for found in both] == [False, True]
    assert both[1].rows["num_train"].to_list() == both[0].rows["num_train"].to_list()
    whole = [record for record in records if "train_fraction" not in record["run"]["config"]]
    assert list(label_curves(summary(runs_frame(whole)))) == []


def test_tables_and_a_figure_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for record, skill in stored_runs(seeds=3):
        frame = store_with_predictions(tmp_path, record, skill, num_images=200)
        record["run"]["dataset"]["counts"]["train"] = {"no": 200, "yes": 200}
        store_run(tmp_path, record, frame)
    runs, problems = load_frame(tmp_path)
    evidence, damaged = load_evidence(tmp_path, runs)
    assert not problems and not damaged
    write_tables(tmp_path, runs, evidence)
    text = (tmp_path / "tables" / "results.md").read_text()
    section = text[text.index("## Over training labels") : text.index("## How to read")]
    assert section.count("LoRA overtakes Linear probe at ") == 1
    (header,) = [line for line in section.splitlines() if line.startswith("| Method")]
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["Method", "20", "100", "400"]
    assert "Linear probe (5 % of labels)" in text and "trained on 25 % of labels (100 images), the same for all" in text

    kept: list[Any] = []

    def keep(figure: Any, *rest: Any, **more: Any) -> list[Path]:
        kept.append((figure, *rest))
        return canvas.finish(figure, *rest, **more)

    monkeypatch.setattr(labels_plot, "finish", keep)
    monkeypatch.setattr(plt, "close", lambda figure: None)
    (curves,) = label_curves(add_significance(summary(runs), evidence))
    written = labels_plot.plot_labels(curves, evidence, tmp_path / "labels.png")
    assert [path.name for path in written] == ["labels.png", "labels.pdf"]  # type: ignore[union-attr]
    ((figure, _, heading, caption, _),) = kept
    assert heading.endswith("AUC by training labels") and "LoRA overtakes Linear probe at " in caption
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "100", "400"]
    assert axes.get_xscale() == "log"
    drawn = [container.lines[0].get_ydata() for container in axes.containers]
    means = curves.rows.groupby("curve", sort=False)["auc_mean"].apply(list)
    np.testing.assert_allclose(sorted(map(list, drawn)), 100 * np.array(sorted(means)))
    unfinished = curves._replace(rows=curves.rows.assign(auc_mean=np.nan))
    assert isinstance(labels_plot.plot_labels(unfinished, evidence, tmp_path / "none.png"), str)


def test_an_end_beyond_what_was_run_is_said() -> None:
    sizes = runs_frame(with_train_counts(stored_runs()))["num_train"]
    entry = Overtaking("A", "B", 61.7, 30.2, None, True, 3)
    assert overtaken([entry], sizes).endswith(
        "AUC on a straight line over its logarithm (95 % intervals, which hold together): A overtakes B at 62 (30 to "
        "over 400)."
    )
    blind = overtaken([entry._replace(low=None, num_seeds=1)], sizes)
    assert "at 62 (under 20 to over 400, so that either may be ahead everywhere)" in blind
    assert blind.endswith("One seed: of these trained models, no claim about the methods.")
    unknown = overtaken([entry._replace(known=False, low=None)], sizes)
    assert unknown.endswith("A overtakes B at 62 (no interval: too few test units or no predictions).")
    assert overtaken([], sizes) == "No curve crosses another."
