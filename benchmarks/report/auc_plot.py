"""AUC by resolution: a row a method and a panel a resolution, or curves where these say more and can be read."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.records.schema import DAMAGED
from benchmarks.report.axes import auc_limits, draw_chance, method_axis, resolution_axis
from benchmarks.report.canvas import finish, rc
from benchmarks.report.captions import title
from benchmarks.report.columns import without_auc
from benchmarks.report.figure_captions import figure_caption, point_marks, whiskers_said
from benchmarks.report.marks import draw_points, side_by_side, whiskers
from benchmarks.report.places import moved_apart
from benchmarks.report.style import COLUMN, FONT_SIZE, MANY, OF_EACH_IDEA, PAGE, Style, few_of_many

MOST_ROWS = 60  # that a page holds
_MOST_PANELS = 5  # side by side
_CURVES_HEIGHT = 2.4  # inches


def plot_auc(block: pd.DataFrame, looks: Mapping[str, Style], path: Path) -> list[Path] | str:
    """Write the figure as png and pdf, or say why there is none.

    Curves join what has an interval at three resolutions or more, while they are few and no two coincide: a line
    between two points would suggest a trend that nothing supports.

    Args:
        block: the cells of one dataset and protocol, as `significance.add_significance` has them.
        looks: the style of each label, in the order of rows.
        path: where to write; its suffix is replaced.
    """
    rows = block[block["auc_mean"].notna()]
    if rows.empty:
        return "no finished run has an AUC"
    there = set(block["label"])
    left_out = 0
    if len(there) > MOST_ROWS:
        there = few_of_many(rows, "auc_mean", 1)
        left_out = block["label"].nunique() - len(there)
    labels = [label for label in looks if label in there]
    shown = block[block["label"].isin(there)]
    limits = auc_limits(rows[rows["label"].isin(there)])
    with matplotlib.rc_context(rc()):
        draw_figure = _curves if as_curves(shown, limits) else _dots
        return draw_figure(block, shown, {label: looks[label] for label in labels}, limits, left_out, path)


def as_curves(rows: pd.DataFrame, limits: tuple[float, float]) -> bool:
    """Whether rows are drawn as curves."""
    known = rows[rows["auc_mean"].notna()]
    few = rows["label"].nunique() <= MANY and rows["resolution"].nunique() > 2
    if not few or not np.isfinite(whiskers(known)).all():
        return False
    apart = 4.5 / (0.75 * _CURVES_HEIGHT * 72) * (limits[1] - limits[0])  # percent that a marker is high
    wide = 100 * known.pivot_table(index="resolution", columns="label", values="auc_mean").astype("float64")
    return not any(
        (wide[first] - wide[second]).abs().max() < apart for first, second in itertools.combinations(wide.columns, 2)
    )


def _what(block: pd.DataFrame, chance: str, left_out: int) -> str:
    some = f" Shown: {OF_EACH_IDEA.format('best')}; the {left_out} others are in the tables." if left_out else ""
    return f"{whiskers_said(block)}. {chance}{some}"


def _dots(
    block: pd.DataFrame,
    rows: pd.DataFrame,
    looks: Mapping[str, Style],
    limits: tuple[float, float],
    left_out: int,
    path: Path,
) -> list[Path]:
    """A row a method, a panel a resolution."""
    panels = list(rows.groupby("resolution"))
    columns = min(len(panels), _MOST_PANELS)
    lines = -(-len(panels) // columns)
    height = max(0.3, (0.16 if len(looks) <= MANY else 0.125) * len(looks)) + 0.65
    size = (COLUMN if columns < 3 else PAGE, height * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, sharex=True, squeeze=False)
    marked = any(map(point_marks, (row for _, row in rows.iterrows())))
    room = (0.22 if columns > 1 else 0.12) * (limits[1] - limits[0]) * marked  # for marks beyond a whisker
    grid[0, 0].set_xlim(limits[0], limits[1] + room)
    method_axis(grid[0, 0], list(looks))
    for axes, (resolution, group) in zip(grid.flat, panels, strict=False):
        axes.set_title(f"{resolution} px", loc="left")
        axes.tick_params(labelbottom=True)
        _draw_rows(axes, group, looks)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    chance = draw_chance(grid.flat[: len(panels)], "x", limits)
    caption = figure_caption(block, _what(block, chance, left_out))
    paths = finish(figure, path, title(block), caption, x_label="Test AUC (%)")
    plt.close(figure)
    return paths


def _draw_rows(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Style]) -> None:
    """The methods of one resolution, each in its row: its AUC, or what stands in its place."""
    places = {label: place for place, label in enumerate(looks)}
    reach = whiskers(rows)
    for i, (_, row) in enumerate(rows.iterrows()):
        place, auc = places[row["label"]], row["auc_mean"]
        if pd.isna(auc):
            entry = without_auc(row["state"], row[f"seeds_{DAMAGED}"] > 0)
            word = "–" if row["state"] == "ok" else entry.text
            axes.annotate(f"{word} {point_marks(row)}", (0.02, place), xycoords=("axes fraction", "data"), va="center")
            continue
        draw_points(axes, 100 * auc, place, looks[row["label"]], xerr=reach[:, i : i + 1])
        if mark := point_marks(row):
            end = (100 * auc + np.nan_to_num(reach[1, i]), place)
            axes.annotate(mark, end, (3.5, 0), textcoords="offset points", va="center", annotation_clip=False)


def _curves(
    block: pd.DataFrame,
    rows: pd.DataFrame,
    looks: Mapping[str, Style],
    limits: tuple[float, float],
    left_out: int,
    path: Path,
) -> list[Path]:
    """A line a method over the resolutions, its name at its right end."""
    figure, axes = plt.subplots(figsize=(COLUMN, _CURVES_HEIGHT))
    axes.set_ylim(limits)
    sides = sorted(set(rows["resolution"]))
    resolution_axis(axes, rows["resolution"])
    room = (sides[-1] / sides[0]) ** (0.03 + 0.018 * len(looks))  # for methods side by side
    axes.set_xlim(sides[0] / room, sides[-1] * room)
    axes.set_ylabel("Test AUC (%)")
    chance = draw_chance([axes], "y", limits)
    known = rows[rows["auc_mean"].notna()]
    last = [known[known["label"] == label].sort_values("resolution").iloc[-1] for label in looks]
    heights = _name_ends(axes, last, looks)

    def draw() -> None:
        moved = dict(
            zip(
                known.index,
                side_by_side(axes, known["resolution"], 100 * known["auc_mean"], whiskers(known)),
                strict=True,
            )
        )
        for label, look in looks.items():
            line = known[known["label"] == label].sort_values("resolution")
            x = [moved[index] for index in line.index]
            end = axes.transData.inverted().transform(axes.transAxes.transform((1.03, heights[label])))
            tie: dict[str, Any] = {"color": "0.6", "linewidth": 0.5, "clip_on": False, "zorder": 1}
            axes.plot([x[-1], end[0]], [100 * line["auc_mean"].iloc[-1], end[1]], **tie)
            draw_points(axes, x, 100 * line["auc_mean"], look, yerr=whiskers(line), dashes=look.dashes)
            for place, (_, row) in zip(x, line.iterrows(), strict=True):
                if mark := point_marks(row):
                    beside = (place, 100 * row["auc_mean"])
                    axes.annotate(mark, beside, (2.5, 2), textcoords="offset points", annotation_clip=False)

    paths = finish(figure, path, title(block), figure_caption(block, _what(block, chance, left_out)), draw=draw)
    plt.close(figure)
    return paths


def _name_ends(axes: Axes, last: Sequence[pd.Series], looks: Mapping[str, Style]) -> dict[str, float]:
    """Writes names at the right of the axes, each near its last point; their heights by label."""
    low, high = axes.get_ylim()
    ordered = sorted(last, key=lambda row: float(row["auc_mean"]))
    heights = [(100 * float(row["auc_mean"]) - low) / (high - low) for row in ordered]
    places = moved_apart(heights, 1.2 * FONT_SIZE / (0.75 * _CURVES_HEIGHT * 72))
    for row, place in zip(ordered, places, strict=True):
        look = looks[row["label"]]
        mark: dict[str, Any] = {"linestyle": "none", "marker": look.marker, "color": look.colour, "clip_on": False}
        axes.plot([1.05], [place], transform=axes.transAxes, **mark)
        axes.text(1.08, place, row["label"], transform=axes.transAxes, va="center")
    return dict(zip((row["label"] for row in ordered), places, strict=True))
