"""AUC over GPU memory, a panel a resolution: every point named, and what is not told apart from the best as a band."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from benchmarks.analysis.front import Front, find_front
from benchmarks.analysis.influence import Floats
from benchmarks.report.axes import TICK_WIDTH, auc_limits, draw_chance, memory_axis
from benchmarks.report.canvas import finish, rc
from benchmarks.report.captions import title
from benchmarks.report.figure_captions import figure_caption, point_marks, whiskers_said
from benchmarks.report.marks import (
    draw_grey_points,
    draw_points,
    draw_training,
    grey_handle,
    side_by_side,
    source_handles,
    training_handle,
    whiskers,
)
from benchmarks.report.places import MARKER, Box, placed_labels, segment
from benchmarks.report.style import COLUMN, MANY, PAGE, Style

_MOST_INSIDE = 6  # named in a caption
_BAND, _LINE = "0.86", "0.6"


def plot_trade_off(block: pd.DataFrame, looks: Mapping[str, Style], path: Path) -> list[Path] | str:
    """Write the figure as png and pdf, or say why there is none.

    Args:
        block: the cells of one dataset and protocol, as `significance.add_significance` has them.
        looks: the style of each label.
        path: where to write; its suffix is replaced.
    """
    rows = block[block["auc_mean"].notna() & block["memory_bytes"].notna()]
    if rows.empty:
        return "no finished run has both an AUC and a GPU memory"
    panels = [(f"{resolution} px", group) for resolution, group in rows.groupby("resolution")]
    fronts = [find_front(group) for _, group in panels]
    named = [_named(group, front) for (_, group), front in zip(panels, fronts, strict=True)]
    many = any(len(few) < len(group) for few, (_, group) in zip(named, panels, strict=True))
    training = pd.Series([training_alone(row) for _, row in rows.iterrows()], dtype="float64").dropna()
    limits = auc_limits(rows)
    with matplotlib.rc_context(rc()):
        columns = 2 if len(panels) == 4 else min(len(panels), 3)
        lines = -(-len(panels) // columns)
        size = (COLUMN if columns == 1 else PAGE, (2.9 if many else 2.5) * lines)
        figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, sharex=True, squeeze=False)
        for axes, (name, _) in zip(grid.flat, panels, strict=False):
            axes.set_title(name, loc="left")
            axes.tick_params(labelbottom=True)
        for axes in grid[:, 0]:
            axes.set_ylabel("Test AUC (%)")
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        num_ticks = int((size[0] - 0.5) / columns / TICK_WIDTH)
        memory_axis(grid[0, 0], "x", pd.concat([rows["memory_bytes"], training]), num_ticks)
        grid[0, 0].set_ylim(limits)
        chance = draw_chance(grid.flat[: len(panels)], "y", limits)

        def draw() -> None:
            for axes, front, few, (_, group) in zip(grid.flat, fronts, named, panels, strict=False):
                moved = side_by_side(axes, *_places(few), whiskers(few))
                lines = _draw_front(axes, front, moved[few["label"].isin(front.members).to_numpy()])
                rest = group.drop(few.index)
                draw_grey_points(axes, *_places(rest))
                _draw_named(axes, few, looks, moved, [*lines, *_boxes(axes, *_places(rest), 2.2)])

        what = _what(block, rows, fronts, many, chance)
        notes = [*_front_handles(fronts), *source_handles(rows["memory_source"])]
        notes += [training_handle()] * bool(len(training))
        notes += [grey_handle(line=False)] * many
        paths = finish(
            figure,
            path,
            title(block),
            figure_caption(block, what),
            [],
            notes,
            draw,
            "Peak GPU memory of the whole run (log)",
        )
        plt.close(figure)
    return paths


def training_alone(row: pd.Series) -> float | None:
    """Memory of training, of the source of the whole run's, where the run needs more than that."""
    training = row[f"{row['memory_source']}_train_bytes"]
    return None if pd.isna(training) or training >= row["memory_bytes"] else float(training)


def _named(rows: pd.DataFrame, front: Front) -> pd.DataFrame:
    """All rows while they are few; of many the front's, the cheapest and the best of the band, and full fine-tuning."""
    if len(rows) <= MANY:
        return rows
    on_front = [
        (float(x), float(y)) in front.steps for x, y in zip(rows["memory_bytes"], rows["auc_mean"], strict=True)
    ]
    ends = rows["label"].isin(front.members) & (
        (rows["memory_bytes"] == front.start) | (rows["auc_mean"] == front.high)
    )
    return rows[(pd.Series(on_front, index=rows.index) & rows["complete"]) | ends | (rows["method"] == "full")]


def _places(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """Bytes and percent of rows."""
    return rows["memory_bytes"].to_numpy(dtype="float64"), 100 * rows["auc_mean"].to_numpy(dtype="float64")


def _boxes(axes: Axes, x: Any, y: Any, size: float) -> list[Box]:
    """Markers as boxes, in points on the page."""
    middles = _on_page(axes, x, y)
    return [Box(*sides) for sides in np.concatenate([middles - size / 2, middles + size / 2], axis=1).tolist()]


def _on_page(axes: Axes, x: Any, y: Any) -> Floats:
    """Places in points `(N, 2)`."""
    found: Floats = axes.transData.transform(np.stack([np.asarray(x), np.asarray(y)], axis=1)) * 72 / axes.figure.dpi
    return found


def _draw_front(axes: Axes, front: Front, members: Floats) -> list[Box]:
    """Steps up to the band, and the band from the cheapest that it stands for, or from where its `members` went.

    Returns:
        What of it labels should not hide.
    """
    end, drawn = axes.get_xlim()[1], []
    if front.steps:
        x = [memory for memory, _ in front.steps] + [end if front.start is None else front.start]
        y = [100 * auc for _, auc in front.steps] + [100 * (front.steps[-1][1] if front.low is None else front.low)]
        axes.step(x, y, where="post", color=_LINE, linewidth=0.9, zorder=1)
        corners = _on_page(axes, np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1])
        drawn += [box for first, second in pairwise(corners) for box in segment(*first, *second)]
    if front.start is not None and front.low is not None and front.high is not None:
        start = min([front.start, *members.tolist()])
        edges: dict[str, Any] = {"facecolor": _BAND, "edgecolor": _LINE, "linewidth": 0.6, "zorder": 0.9}
        axes.fill_between([start, end], 100 * front.low, 100 * front.high, **edges)
        for height in (front.low, front.high):
            first, second = _on_page(axes, [start, end], [100 * height] * 2)
            drawn += segment(*first, *second)
    return drawn


def _draw_named(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Style], x: Floats, others: Sequence[Box]) -> None:
    """Points of methods at `x`, joined with lighter ones of training alone, each with its name beside it."""
    _, y = _places(rows)
    reach = whiskers(rows)
    at = _on_page(axes, x, y)
    drawn = [*others, *_boxes(axes, x, y, MARKER)]
    for i, (_, row) in enumerate(rows.iterrows()):
        look, fill, training = looks[row["label"]], row["memory_source"] == "measured", training_alone(row)
        if training is not None:
            draw_training(axes, (x[i], training), (y[i], y[i]), look, fill=fill)
            drawn += segment(*at[i], *_on_page(axes, [training], [y[i]])[0])
        draw_points(axes, x[i], y[i], look, yerr=reach[:, i : i + 1], fill=fill)
        ends = _on_page(axes, [x[i], x[i]], [y[i] - reach[0, i], y[i] + reach[1, i]])
        drawn += segment(*ends[0], *ends[1]) if np.isfinite(ends).all() else []
    names = [f"{row['label']} {point_marks(row)}".rstrip() for _, row in rows.iterrows()]
    frame = Box(*(float(end) * 72 / axes.figure.dpi for end in np.asarray(axes.get_window_extent().extents)))
    _write_names(axes, names, at, np.stack([x, y], axis=1), drawn, frame)


def _write_names(axes: Axes, names: Sequence[str], at: Floats, values: Floats, drawn: list[Box], frame: Box) -> None:
    figure = axes.figure
    extents = [Text(0, 0, name, figure=figure).get_window_extent() for name in names]
    sizes = np.array([[extent.width, extent.height] for extent in extents]).reshape(-1, 2) * 72 / figure.dpi
    middles = placed_labels(at, sizes, drawn, frame)
    for name, point, size, middle, value in zip(names, at, sizes, middles, values, strict=True):
        gap = np.hypot(*np.clip(np.abs(middle - point) - size / 2, 0, None))
        leader: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.4", "shrinkA": 0, "shrinkB": 2.5}
        axes.annotate(
            name,
            tuple(value),
            tuple(middle - point),
            textcoords="offset points",
            ha="center",
            va="center",
            color="0.1",
            arrowprops=leader if gap > MARKER else None,
            annotation_clip=False,
            zorder=5,
        )


def _front_handles(fronts: Sequence[Front]) -> list[Artist]:
    handles: list[Artist] = []
    if any(front.start is not None for front in fronts):
        handles.append(Patch(facecolor=_BAND, edgecolor=_LINE, linewidth=0.6, label="not told apart from the best"))
    if any(front.steps for front in fronts):
        handles.append(Line2D([], [], color=_LINE, linewidth=0.9, label="best for less memory"))
    return handles


def _what(block: pd.DataFrame, rows: pd.DataFrame, fronts: Sequence[Front], many: bool, chance: str) -> str:
    predicted = ", predicted" if (rows["memory_source"] == "predicted").all() else ""
    parts = [f"{whiskers_said(block)}. Memory: peak allocated in the whole run{predicted}."]
    if any(front.start is not None for front in fronts):
        parts.append(
            "Band: from the highest mean to the lowest that is not told apart from it (at 0.05, all rivals at once), "
            "from the cheapest of these on."
        )
    if inside := told_apart_inside(rows, fronts):
        more = f" and {len(inside) - _MOST_INSIDE} more" if len(inside) > _MOST_INSIDE else ""
        parts.append(f"In the band, but told apart from the best: {', '.join(inside[:_MOST_INSIDE])}{more}.")
    parts += [chance, "Markers that would overlap stand side by side."]
    if many:
        parts.append("Named: the front, the band's cheapest and best, full fine-tuning; grey: all others.")
    return " ".join(parts)


def told_apart_inside(rows: pd.DataFrame, fronts: Sequence[Front]) -> list[str]:
    """Labels, with their resolution, of complete cells that lie in the band of their panel and are not meant by it."""
    found = []
    for (resolution, group), front in zip(rows.groupby("resolution"), fronts, strict=True):
        if front.start is not None and front.low is not None and front.high is not None:
            inside = group[group["complete"] & group["auc_mean"].between(front.low, front.high)]
            inside = inside[(inside["memory_bytes"] >= front.start) & ~inside["label"].isin(front.members)]
            found += [f"{label} at {resolution} px" for label in inside["label"]]
    return found
