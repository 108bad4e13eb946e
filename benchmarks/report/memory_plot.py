"""Peak memory over resolution: measured points over predicted lines, with the sizes of common cards.

It is that of the whole run; lighter, where a run needs more than its training, that of training alone.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.choices import CARDS_GB
from benchmarks.errors import UserError
from benchmarks.names import title_of
from benchmarks.records.whole_run import WHOLE_RUN
from benchmarks.report.style import (
    COLUMN,
    GREY,
    OF_EACH_IDEA,
    PAGE,
    RC,
    Style,
    draw_grey_line,
    draw_points,
    draw_training,
    few_of_many,
    finish,
    grey_handle,
    legend_handle,
    memory_axis,
    method_axis,
    moved_apart,
    resolution_axis,
    said_of_few,
    source_handles,
    styles,
    training_handle,
)
from methods import TITLES

_COLUMNS = ("method", "resolution", "attention", "phase", "source", "status", "peak_allocated_bytes")
_PROTOCOL = ["backbone", "batch_size", "precision", "grad_checkpointing"]
_LINES: dict[str, Any] = {"eager": (0, (4, 1.5)), "sdpa": "-"}
_ATTENTION = {"eager": "eager", "sdpa": "fused"}
_TRAINING: Any = (0, (1, 1.5))
_SHOWN = (WHOLE_RUN, "train")


def plot_memory_curves(points: pd.DataFrame, path: Path) -> list[Path]:
    """Draw peak allocated memory over resolution: eager attention dashed, fused solid, one panel a protocol.

    Args:
        points: one row for each point, phase and source, with the columns of `bench.py memory --format csv`: method
            (its options behind it), backbone, resolution, batch_size, precision, attention, grad_checkpointing, phase,
            source, status, peak_allocated_bytes. Of the phases the whole run and train are drawn.
        path: where to write; png and pdf are written beside each other.

    Raises:
        UserError: a column is missing, or there is no memory to draw.
        MachineError: the folder cannot be written.
    """
    missing = [name for name in (*_COLUMNS, *_PROTOCOL) if name not in points]
    if missing:
        raise UserError(f"points must have the columns of bench.py memory, got none called {', '.join(missing)}")
    names = points["method"]
    labelled = points.assign(label=names.map(lambda name: title_of(name, TITLES)), method=names.str.partition(":")[0])
    labelled = labelled[labelled["phase"].isin(_SHOWN) & _filled(labelled)]
    varying = [name for name in _PROTOCOL if labelled[name].nunique(dropna=False) > 1]
    shared = [_said(name, points[name].iloc[0]) for name in _PROTOCOL if name not in varying]
    panels = [
        (", ".join(said for name in varying if (said := _said(name, group[name].iloc[0]))), group)
        for _, group in labelled.groupby(_PROTOCOL, sort=False, dropna=False)
    ]
    caption = f"Peak allocated GPU memory of the whole run. {', '.join(filter(None, shared))}.{_error_note(labelled)}"
    return draw_memory(panels, path, "Peak GPU memory over image resolution", caption)


def draw_memory(panels: Sequence[tuple[str, pd.DataFrame]], path: Path, title: str, caption: str) -> list[Path]:
    """Draw labelled points, panel by panel, and write png and pdf.

    Args:
        panels: a name and the points of each panel: method, label, resolution, attention, phase, source, status,
            peak_allocated_bytes.
        path: where to write; its suffix is replaced.
        title: one line above the figure.
        caption: what is written below it.
    """
    points = pd.concat([group for _, group in panels]) if panels else pd.DataFrame({"peak_allocated_bytes": []})
    known = points[points["peak_allocated_bytes"].notna()]
    if known.empty:
        raise UserError("points must hold at least one peak_allocated_bytes, got none")
    style = styles(zip(points["method"], points["label"], strict=True))
    curves = known["resolution"].nunique() > 1 or len(panels) > 1
    named = few_of_many(known[known["phase"] == WHOLE_RUN], "peak_allocated_bytes", -1) if curves else set(style)
    num_grey = len(style) - len(named & set(style))
    with matplotlib.rc_context(RC):
        if curves:
            figure = _curve_figure(panels, known, {label: look for label, look in style.items() if label in named})
            handles = [legend_handle(label, look) for label, look in style.items() if label in named]
            handles += [grey_handle(num_grey)] * bool(num_grey)
        else:
            points = _preferred(points)
            figure = _list_figure(points, style)
            handles = []
        caption += said_of_few(num_grey, OF_EACH_IDEA.format("least memory"))
        paths = finish(figure, path, title, caption, handles, _notes(points, panels))
        plt.close(figure)
    return paths


def _curve_figure(panels: Sequence[tuple[str, pd.DataFrame]], known: pd.DataFrame, style: dict[str, Style]) -> Figure:
    """Memory over resolution, a line a method, grey without a style; below, where both are known, the error."""
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    errors = [prediction_errors(group) for _, group in panels]
    reach = max((error["error"].abs().max() for error in errors if len(error)), default=None)
    step = 1 if reach is None else 2
    size = (COLUMN if columns == 1 else PAGE, (2.6 if reach is None else 3.3) * lines)
    ratios = [4, 1][:step] * lines
    figure, grid = plt.subplots(
        lines * step, columns, figsize=size, sharex=True, sharey="row", squeeze=False, height_ratios=ratios
    )
    for index, (name, group) in enumerate(panels):
        axes, below = grid[::step].flat[index], grid[step - 1 :: step].flat[index]
        memory_axis(axes, "y", known["peak_allocated_bytes"])
        for (label, attention), series in group.groupby(["label", "attention"], sort=False):
            _draw_series(axes, series, style.get(str(label)), str(attention))
        _draw_cards(axes, "y")
        axes.set_title(name, loc="left")
        if reach is not None:
            _draw_errors(below, errors[index], style, float(reach))
        resolution_axis(below, known["resolution"])
        below.tick_params(labelbottom=True)
    for place, axes in enumerate(grid[:, 0]):
        axes.set_ylabel("Error (%)" if place % step else "Peak GPU memory (log)")
    for row in range(step):
        for axes in grid[row::step].flat[len(panels) :]:
            axes.remove()
    return figure


def prediction_errors(points: pd.DataFrame) -> pd.DataFrame:
    """The whole runs measured and predicted, with `error`, the prediction's, in percent of what was measured."""
    place = ["label", "resolution", "attention", *(name for name in _PROTOCOL if name in points)]
    known = points["peak_allocated_bytes"].notna() & (points["phase"] == WHOLE_RUN)
    values = points[known].astype({"peak_allocated_bytes": "float64"})
    table = values.pivot_table(index=place, columns="source", values="peak_allocated_bytes", aggfunc="max")
    if not {"measured", "predicted"} <= set(table.columns):
        return pd.DataFrame(columns=[*place, "error"])
    return (100 * (table["predicted"] / table["measured"] - 1)).dropna().rename("error").reset_index()


def _draw_errors(axes: Axes, errors: pd.DataFrame, style: dict[str, Style], reach: float) -> None:
    """The predictions' errors, a marker for each measured point; the axis reaches to at least one percent."""
    groups = sorted(errors.groupby("label", sort=False), key=lambda group: str(group[0]) in style)
    for label, group in groups:
        look = style.get(str(label), GREY)
        axes.plot(group["resolution"], group["error"], linestyle="none", color=look.colour, marker=look.marker)
    limit = max(1.0, reach) * 1.25
    axes.set_ylim(-limit, limit)
    axes.axhline(0, color="0.45", linewidth=0.6)


def _list_figure(points: pd.DataFrame, style: dict[str, Style]) -> Figure:
    """Memory method by method, where there is one resolution only."""
    known = points[points["peak_allocated_bytes"].notna()]
    figure, axes = plt.subplots(figsize=(COLUMN, 0.8 + 0.19 * len(style)))
    memory_axis(axes, "x", known["peak_allocated_bytes"], num_ticks=5)
    for (label, source), group in known.groupby(["label", "source"], sort=False):
        look, place, fill = style[str(label)], list(style).index(str(label)), source == "measured"
        whole, training = (group.loc[group["phase"] == phase, "peak_allocated_bytes"] for phase in _SHOWN)
        if len(whole) and len(training) and training.max() < whole.max():
            draw_training(axes, (whole.max(), training.max()), (place, place), look, fill=fill)
        draw_points(axes, whole, [place] * len(whole), look, fill=fill)
    for label in points.loc[_out_of_memory(points), "label"].unique():
        axes.plot(0.985, list(style).index(label), transform=axes.get_yaxis_transform(), **_cross(style[label]))
    method_axis(axes, list(style))
    _draw_cards(axes, "x")
    axes.set_xlabel(f"Peak GPU memory of the whole run at {known['resolution'].iloc[0]} px (log)")
    return figure


def _draw_series(axes: Axes, series: pd.DataFrame, look: Style | None, attention: str) -> None:
    """One method under one kind of attention: a line, filled markers where measured, hollow where predicted only.

    Without a look it is a thin grey line.
    """
    known = series[series["peak_allocated_bytes"].notna()].astype({"peak_allocated_bytes": "float64"})
    values = known.pivot_table(
        index="resolution", columns=["phase", "source"], values="peak_allocated_bytes", aggfunc="max"
    )
    empty = pd.Series(dtype="float64")
    measured, predicted = (values.get((WHOLE_RUN, source), empty).dropna() for source in ("measured", "predicted"))
    # The line is the prediction where there is one, so that a measured point shows its distance from it.
    line = predicted.combine_first(measured).sort_index()
    if look is None:
        draw_grey_line(axes, line.index, line)
        return
    training = values.get(("train", "predicted"), empty).combine_first(values.get(("train", "measured"), empty))
    if (training.reindex(line.index) < line).any():
        training = training.dropna().sort_index()
        draw_training(axes, training.index, training, look, dashes=_TRAINING)
    axes.plot(line.index, line, color=look.colour, linestyle=_LINES.get(attention, "-"))
    alone = predicted[~predicted.index.isin(measured.index)]
    marker: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": "none"}
    axes.plot(alone.index, alone, **marker, markerfacecolor="white", markeredgewidth=0.9)
    axes.plot(measured.index, measured, **marker)
    for resolution in series.loc[_out_of_memory(series), "resolution"].unique():
        if resolution in line.index:
            axes.plot([resolution], [line[resolution]], **_cross(look))
        else:
            axes.plot([resolution], [0.97], transform=axes.get_xaxis_transform(), **_cross(look))


def _draw_cards(axes: Axes, name: str) -> None:
    """Card sizes as thin lines across the memory axis, labelled at its far side; close labels are moved apart."""
    low, high = axes.get_ylim() if name == "y" else axes.get_xlim()
    cards = [card for card in CARDS_GB if low < card * 2**30 < high]
    places = [math.log(card * 2**30 / low) / math.log(high / low) for card in cards]
    labels = moved_apart(places, 0.055 if name == "y" else 0.04)
    for card, place, label in zip(cards, places, labels, strict=True):
        line: dict[str, Any] = {"color": "0.45", "linewidth": 0.4, "clip_on": False, "transform": axes.transAxes}
        bend = [place, place, label]
        text: dict[str, Any] = {"transform": axes.transAxes, "color": "0.35"}
        if name == "y":
            axes.plot([0, 1, 1.02], bend, **line, zorder=1)
            axes.text(1.03, label, f"{card} GB", va="center", **text)
        else:
            axes.plot(bend, [0, 1, 1.04], **line, zorder=1)
            axes.text(label, 1.06, f"{card} GB", ha="center", va="bottom", rotation=90, **text)


def _preferred(points: pd.DataFrame) -> pd.DataFrame:
    """The points without the predictions of what was measured."""
    key = pd.MultiIndex.from_frame(points[["label", "phase"]])
    measured = key[(points["source"] == "measured") & points["peak_allocated_bytes"].notna()]
    return points[(points["source"] == "measured") | ~key.isin(measured)]


def _filled(points: pd.DataFrame) -> pd.Series:
    return points["peak_allocated_bytes"].notna() | (points["status"] == "oom")


def _out_of_memory(points: pd.DataFrame) -> pd.Series:
    return (points["status"] == "oom") & (points["phase"] == WHOLE_RUN)


def _cross(look: Style) -> dict[str, Any]:
    return {"color": look.colour, "marker": "x", "markersize": 7, "markeredgewidth": 1.0, "linestyle": "none"}


def _notes(points: pd.DataFrame, panels: Sequence[tuple[str, pd.DataFrame]]) -> list[Line2D]:
    """The legend of what lines and fillings mean, for what is drawn."""
    known = points[points["peak_allocated_bytes"].notna()]
    grey: dict[str, Any] = {"color": "0.4"}
    kinds = [kind for kind in _LINES if (known["attention"] == kind).any()]
    notes = [Line2D([], [], **grey, linestyle=_LINES[kind], label=f"{_ATTENTION[kind]} attention") for kind in kinds]
    notes = notes if len(kinds) > 1 else []
    whole, training = (known[known["phase"] == phase] for phase in _SHOWN)
    place = ["label", "resolution", "attention", "source", *(name for name in _PROTOCOL if name in known)]
    both = whole.merge(training, on=place, suffixes=("", "_training"))
    if (both["peak_allocated_bytes_training"] < both["peak_allocated_bytes"]).any():
        notes.append(training_handle(":" if known["resolution"].nunique() > 1 or len(panels) > 1 else "-"))
    notes += source_handles(known["source"])
    if _out_of_memory(points).any():
        notes.append(Line2D([], [], **grey, marker="x", linestyle="none", label="out of memory"))
    return notes


def _error_note(points: pd.DataFrame) -> str:
    """What the caption says about predictions of measured points; nothing where there are none."""
    errors = prediction_errors(points)["error"].astype("float64").abs()
    if errors.empty:
        return ""
    off = f"{errors.median():.2f} % in the median, {errors.max():.2f} % at most"
    return f" At {len(errors)} measured points predictions are off by {off}."


def _said(name: str, value: object) -> str:
    if name == "batch_size":
        return f"batch size {value}"
    if name == "grad_checkpointing":
        return "gradient checkpointing" if value else ""
    return str(value)
