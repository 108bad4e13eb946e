"""AUC over the number of training labels, a curve a method and a panel a resolution."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.label_curves import Curves, overtakings
from benchmarks.config import ALL_LABELS
from benchmarks.report.axes import auc_limits, draw_chance
from benchmarks.report.canvas import finish, rc
from benchmarks.report.captions import title
from benchmarks.report.figure_captions import figure_caption, point_marks, whiskers_said
from benchmarks.report.label_captions import LABELS_SAID, overtaken, steps_said
from benchmarks.report.marks import draw_points, legend_handle, mark_points, side_by_side, whiskers
from benchmarks.report.style import COLUMN, OF_EACH_IDEA, PAGE, Style, few_of_many, styles

_HEIGHT = 2.2  # inches


def plot_labels(curves: Curves, evidence: Mapping[str, Evidence], path: Path) -> list[Path] | str:
    """Write the figure as png and pdf, or say why there is none.

    Args:
        curves: with the columns of `significance.add_significance`.
        evidence: by run id.
        path: where to write; its suffix is replaced.
    """
    known = curves.rows[curves.rows["auc_mean"].notna()]
    if known["num_train"].nunique() < 2:
        return "no two numbers of labels have a finished run"
    looks = styles(zip(known["method"], known["curve"], strict=True))
    shown = few_of_many(known.assign(label=known["curve"]), "auc_mean", 1)
    left_out = len(looks) - len(shown)
    looks = {curve: look for curve, look in looks.items() if curve in shown}
    drawn = known[known["curve"].isin(shown)]
    panels = list(drawn.groupby("resolution"))
    limits = auc_limits(drawn)
    with matplotlib.rc_context(rc()):
        size = (COLUMN if len(panels) == 1 else PAGE, _HEIGHT)
        figure, grid = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
        for axes, (resolution, rows) in zip(grid[0], panels, strict=True):
            axes.set_title(f"{resolution} px", loc="left")
            axes.set_ylim(limits)
            _labels_axis(axes, rows["num_train"])
        grid[0, 0].set_ylabel("Test AUC (%)")
        chance = draw_chance(grid[0], "y", limits)

        def draw() -> None:
            for axes, (_, rows) in zip(grid[0], panels, strict=True):
                _draw(axes, rows, looks)

        some = f" Shown: {OF_EACH_IDEA.format('best')}; the {left_out} others are in the tables." * bool(left_out)
        crossed = [
            (f"{resolution} px: " if len(panels) > 1 else "")
            + overtaken(overtakings(rows, evidence), rows["num_train"])
            for resolution, rows in panels
        ]
        what = [f"{whiskers_said(drawn)}. {chance}{some}", *crossed, LABELS_SAID, steps_said(curves.keep_steps)]
        shared = drawn.assign(train_labels=ALL_LABELS, keep_steps=False)  # each point says its own
        caption = figure_caption(shared, " ".join(what))
        handles = [legend_handle(curve, look, look.dashes) for curve, look in looks.items()]
        paths = finish(figure, path, f"{title(drawn)}: AUC by training labels", caption, handles, draw=draw)
        plt.close(figure)
    return paths


def _labels_axis(axes: Axes, sizes: pd.Series) -> None:
    """A log axis with a tick at each number of labels, as far as their labels fit."""
    axes.set_xscale("log")
    values = sorted(set(sizes.astype(int)))
    ticks: list[int] = []
    for value in values:
        if not ticks or value / ticks[-1] > (values[-1] / values[0]) ** 0.06:
            ticks.append(value)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    room = (values[-1] / values[0]) ** 0.07
    axes.set_xlim(values[0] / room, values[-1] * room)
    axes.set_xlabel("Training labels (images, log)")


def _draw(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Style]) -> None:
    """Curves with whiskers, their markers side by side."""
    x = side_by_side(axes, rows["num_train"], 100 * rows["auc_mean"], whiskers(rows))
    places: dict[Any, float] = dict(zip(rows.index, x, strict=True))
    for curve, look in looks.items():
        line = rows[rows["curve"] == curve].sort_values("num_train")
        at, auc = [places[index] for index in line.index], 100 * line["auc_mean"]
        draw_points(axes, at, auc, look, yerr=whiskers(line), dashes=look.dashes)
        mark_points(axes, at, auc, [point_marks(row) for _, row in line.iterrows()], look)
