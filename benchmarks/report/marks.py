"""What figures draw: points with whiskers, lighter ones of training alone, marks of the table, and their legends."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.analysis.influence import Floats
from benchmarks.report.places import dodged
from benchmarks.report.style import GREY, Style

_LIGHTER = 0.45  # opacity of what stands for training alone, beside the whole run


def whiskers(rows: pd.DataFrame) -> Floats:
    """How far the interval of the table reaches below and above the AUC of each row, in percent `(2, R)`.

    It is not a number where no interval is known, and is drawn as nothing.
    """
    mean = rows["auc_mean"].to_numpy(dtype="float64", na_value=np.nan)
    if "auc_low" not in rows:
        return np.full((2, len(mean)), np.nan)
    low, high = (rows[name].to_numpy(dtype="float64", na_value=np.nan) for name in ("auc_low", "auc_high"))
    return 100 * np.clip(np.array([mean - low, high - mean]), 0, None)


def side_by_side(axes: Axes, x: Any, y: Any, reach: Floats) -> Floats:
    """Where points stand on the x axis, moved sideways as little as can be so that none hides another.

    Args:
        axes: whose limits and place on the page stand.
        x, y: of the points.
        reach: of their whiskers below and above `(2, N)`, not a number where there are none.
    """
    middles = np.array([np.asarray(x, dtype="float64"), np.asarray(y, dtype="float64")])
    ends = [middles[1] - np.nan_to_num(reach[0]), middles[1] + np.nan_to_num(reach[1])]
    scale = 72 / axes.figure.dpi  # from pixels to points on the page
    places, low, high = (
        axes.transData.transform(np.stack([middles[0], height], 1)) * scale for height in (middles[1], *ends)
    )
    box = axes.get_window_extent()
    reaches = np.array([places[:, 1] - low[:, 1], high[:, 1] - places[:, 1]])
    places[:, 0] = dodged(places, reaches, (box.x0 * scale, box.x1 * scale))
    moved: Floats = axes.transData.inverted().transform(places / scale)[:, 0]
    return moved


def draw_points(
    axes: Axes,
    x: Any,
    y: Any,
    look: Style,
    *,
    xerr: Any = None,
    yerr: Any = None,
    dashes: Any = "none",
    fill: bool = True,
) -> None:
    """Points in the style of a method, with error bars and a line where asked for; hollow where `fill` is false."""
    axes.errorbar(
        x,
        y,
        xerr=xerr,
        yerr=yerr,
        color=look.colour,
        marker=look.marker,
        markerfacecolor=look.colour if fill else "white",
        linestyle=dashes,
        elinewidth=0.7,
        capsize=1.5,
        capthick=0.7,
    )


def draw_training(axes: Axes, x: Any, y: Any, look: Style, *, dashes: Any = "-", fill: bool = True) -> None:
    """Small lighter marks for training alone, and the line that joins them with each other, or with the whole run's."""
    face = look.colour if fill else "white"
    mark: dict[str, Any] = {
        "marker": look.marker,
        "markersize": 3,
        "markerfacecolor": face,
        "linewidth": 0.8,
        "markeredgewidth": 0.6,
    }
    axes.plot(x, y, color=look.colour, alpha=_LIGHTER, linestyle=dashes, zorder=1.5, **mark)


def draw_grey_line(axes: Axes, x: Any, y: Any) -> None:
    """A line of what a figure does not name, thin, below all others."""
    axes.plot(x, y, color=GREY.colour, linewidth=0.6, zorder=1)


def draw_grey_points(axes: Axes, x: Any, y: Any) -> None:
    """Points of what a figure does not name, small, below all others."""
    axes.plot(x, y, linestyle="none", marker=GREY.marker, markersize=2.2, color=GREY.colour, zorder=1)


def mark_points(axes: Axes, x: Iterable[float], y: Iterable[float], marks: Iterable[str], look: Style) -> None:
    """The marks of a table beside the points of a method; an empty one leaves its point as it is."""
    for place_x, place_y, mark in zip(x, y, marks, strict=True):
        if mark:
            beside: dict[str, Any] = {"xytext": (2.5, 2.0), "textcoords": "offset points", "color": look.colour}
            axes.annotate(mark, (place_x, place_y), **beside, annotation_clip=False)


def legend_handle(label: str, look: Style, dashes: Any = "none") -> Line2D:
    """The legend entry of a method."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=dashes, label=label)


def training_handle(dashes: Any = "-") -> Line2D:
    """The legend entry of the lighter marks."""
    look: dict[str, Any] = {"color": "0.4", "alpha": _LIGHTER, "marker": "o", "markersize": 3, "linewidth": 0.8}
    return Line2D([], [], **look, linestyle=dashes, label="training alone")


def grey_handle(number: int | None = None, line: bool = True) -> Line2D:
    """The legend entry of what a figure does not name."""
    look: dict[str, Any] = (
        {"linewidth": 0.6} if line else {"linestyle": "none", "marker": GREY.marker, "markersize": 2.2}
    )
    return Line2D([], [], color=GREY.colour, **look, label="others" if number is None else f"{number} others")


def source_handles(sources: pd.Series) -> list[Line2D]:
    """Legend entries of filled and hollow markers, where a figure has hollow ones."""
    return [
        Line2D([], [], color="0.4", marker="o", linestyle="none", markerfacecolor=fill, label=source)
        for source, fill in (("measured", "0.4"), ("predicted", "white"))
        if (sources == source).any() and (sources == "predicted").any()
    ]
