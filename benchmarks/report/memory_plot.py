"""Peak memory over resolution: measured points over predicted lines, with the sizes of common cards.

It is that of the whole run; lighter, where a run needs more than its training, that of training alone. At one or two
resolutions, and where curves coincide, it is a row a method and a panel a resolution.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
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
from benchmarks.report.axes import TICK_WIDTH, memory_axis, method_axis, resolution_axis
from benchmarks.report.canvas import finish, rc
from benchmarks.report.marks import (
    draw_grey_line,
    draw_points,
    draw_training,
    grey_handle,
    legend_handle,
    source_handles,
    training_handle,
)
from benchmarks.report.places import moved_apart
from benchmarks.report.style import (
    COLUMN,
    FONT_SIZE,
    GREY,
    MANY,
    OF_EACH_IDEA,
    PAGE,
    Style,
    few_of_many,
    said_of_few,
    styles,
)
from methods import TITLES

_COLUMNS = ("method", "resolution", "attention", "phase", "source", "status", "peak_allocated_bytes")
_PROTOCOL = ["backbone", "batch_size", "precision", "grad_checkpointing"]
_LINES: dict[str, Any] = {"eager": (0, (4, 1.5)), "sdpa": "-"}
_ATTENTION = {"eager": "eager", "sdpa": "fused"}
_TRAINING: Any = (0, (1, 1.5))
_SHOWN = (WHOLE_RUN, "train")
_MOST_ROWS, _MOST_PANELS = 60, 5  # of a page
_NAMES = 1.1  # inches that names of methods take


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
    shared = said_of_protocol(points, [name for name in _PROTOCOL if name not in varying])
    panels = [
        (", ".join(said for name in varying if (said := _said(name, group[name].iloc[0]))), group)
        for _, group in labelled.groupby(_PROTOCOL, sort=False, dropna=False)
    ]
    caption = f"Peak allocated GPU memory of the whole run. {shared}.{_error_note(labelled)}"
    return draw_memory(panels, path, "Peak GPU memory over image resolution", caption)


def draw_memory(
    panels: Sequence[tuple[str, pd.DataFrame]],
    path: Path,
    title: str,
    caption: str,
    looks: Mapping[str, Style] | None = None,
    curves: bool = False,
) -> list[Path]:
    """Draw labelled points, panel by panel, and write png and pdf.

    Args:
        panels: a name and the points of each panel: method, label, resolution, attention, phase, source, status,
            peak_allocated_bytes.
        path: where to write; its suffix is replaced.
        title: one line above the figure.
        caption: what is written below it.
        looks: the style of each label; by default as if these were all there are.
        curves: whether curves are drawn even where rows would say more.
    """
    points = pd.concat([group for _, group in panels]) if panels else pd.DataFrame({"peak_allocated_bytes": []})
    known = points[points["peak_allocated_bytes"].notna()]
    if known.empty:
        raise UserError("points must hold at least one peak_allocated_bytes, got none")
    every = looks or styles(zip(points["method"], points["label"], strict=True))
    style = {label: look for label, look in every.items() if label in set(points["label"])}
    curves = curves or len(panels) > 1 or points["attention"].nunique() > 1 or not _as_rows(known)
    named = few_of_many(known[known["phase"] == WHOLE_RUN], "peak_allocated_bytes", -1)
    if not curves and len(style) <= _MOST_ROWS:
        named = set(style)
    num_grey = len(style) - len(named & set(style))
    few = {label: look for label, look in style.items() if label in named}
    with matplotlib.rc_context(rc()):
        if curves:
            figure = _curve_figure(panels, known, few)
            handles = [legend_handle(label, look) for label, look in few.items()]
            handles += [grey_handle(num_grey)] * bool(num_grey)
            caption += said_of_few(num_grey, OF_EACH_IDEA.format("least memory"))
        else:
            points = _preferred(points[points["label"].isin(named)])
            figure = _row_figure(points, few)
            handles = []
            least = OF_EACH_IDEA.format("least memory")
            caption += f" Shown: {least}; the {num_grey} others are in the tables." * bool(num_grey)
        x_label = "" if curves else "Peak GPU memory of the whole run (log)"
        paths = finish(figure, path, title, caption, handles, _notes(points, curves), x_label=x_label)
        plt.close(figure)
    return paths


def _as_rows(known: pd.DataFrame) -> bool:
    """Whether whole runs lie at so few resolutions that a line would say nothing, or curves upon each other."""
    whole = known[known["phase"] == WHOLE_RUN]
    if whole["resolution"].nunique() < 3:
        return True
    values = whole.astype({"peak_allocated_bytes": "float64"})
    wide = values.pivot_table(index="resolution", columns="label", values="peak_allocated_bytes", aggfunc="max")
    if wide.shape[1] > MANY:
        return wide.shape[1] <= _MOST_ROWS
    logs = wide.apply(lambda column: column.map(math.log))
    apart = 0.04 * (logs.max().max() - logs.min().min())  # what a marker is high
    return any((logs[one] - logs[other]).abs().max() < apart for one, other in itertools.combinations(logs.columns, 2))


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


def _row_figure(points: pd.DataFrame, style: dict[str, Style]) -> Figure:
    """Memory method by method, a panel a resolution."""
    known = points[points["peak_allocated_bytes"].notna()]
    panels = list(points.groupby("resolution"))
    columns = min(len(panels), _MOST_PANELS)
    lines = -(-len(panels) // columns)
    rows = max(0.3, (0.16 if len(style) <= MANY else 0.125) * len(style))  # inches
    size = (COLUMN if columns < 3 else PAGE, (rows + 1.1) * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, sharex=True, squeeze=False)
    memory_axis(
        grid[0, 0], "x", known["peak_allocated_bytes"], num_ticks=max(2, int((size[0] - _NAMES) / columns / TICK_WIDTH))
    )
    method_axis(grid[0, 0], list(style))
    for axes, (resolution, group) in zip(grid.flat, panels, strict=False):
        _draw_rows(axes, group, style)
        _draw_cards(axes, "x", rows)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(f"at {resolution} px")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    return figure


def _draw_rows(axes: Axes, points: pd.DataFrame, style: dict[str, Style]) -> None:
    known = points[points["peak_allocated_bytes"].notna()]
    for (label, source), group in known.groupby(["label", "source"], sort=False):
        look, place, fill = style[str(label)], list(style).index(str(label)), source == "measured"
        whole, training = (group.loc[group["phase"] == phase, "peak_allocated_bytes"] for phase in _SHOWN)
        if len(whole) and len(training) and training.max() < whole.max():
            draw_training(axes, (whole.max(), training.max()), (place, place), look, fill=fill)
        draw_points(axes, whole, [place] * len(whole), look, fill=fill)
    for label in points.loc[_out_of_memory(points), "label"].unique():
        axes.plot(0.985, list(style).index(label), transform=axes.get_yaxis_transform(), **_cross(style[label]))


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


def _draw_cards(axes: Axes, name: str, height: float = 2.0) -> None:
    """Card sizes as thin lines across the memory axis, labelled at its far side; close labels are moved apart,
    and of cards whose lines would lie too close the larger is left out.

    Args:
        axes: whose limits stand.
        name: of its memory axis, "x" or "y".
        height: of the axes in inches, nearly.
    """
    low, high = axes.get_ylim() if name == "y" else axes.get_xlim()
    gap = 0.055 if name == "y" else _card_gap(axes)
    cards: list[int] = []
    places: list[float] = []
    for card in CARDS_GB:
        place = math.log(card * 2**30 / low) / math.log(high / low)
        if 0 < place < 1 and (not places or place - places[-1] > gap / 2):
            cards.append(card)
            places.append(place)
    labels = moved_apart(places, gap)
    for card, place, label in zip(cards, places, labels, strict=True):
        line: dict[str, Any] = {"color": "0.45", "linewidth": 0.4, "clip_on": False, "transform": axes.transAxes}
        bend = [place, place, label]
        text: dict[str, Any] = {"transform": axes.transAxes, "color": "0.35"}
        if name == "y":
            axes.plot([0, 1, 1.02], bend, **line, zorder=1)
            axes.text(1.03, label, f"{card} GB", va="center", **text)
        else:
            axes.plot(bend, [0, 1, 1 + 0.06 / height], **line, zorder=1)
            axes.text(label, 1 + 0.09 / height, f"{card} GB", ha="center", va="bottom", rotation=90, **text)


def _card_gap(axes: Axes) -> float:
    """Share of the width of the axes that a label needs."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    columns = axes.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    return 1.35 * FONT_SIZE / 72 * columns / (float(figure.get_size_inches()[0]) - _NAMES)


def _preferred(points: pd.DataFrame) -> pd.DataFrame:
    """The points without the predictions of what was measured."""
    key = pd.MultiIndex.from_frame(points[["label", "phase", "resolution"]])
    measured = key[(points["source"] == "measured") & points["peak_allocated_bytes"].notna()]
    return points[(points["source"] == "measured") | ~key.isin(measured)]


def _filled(points: pd.DataFrame) -> pd.Series:
    return points["peak_allocated_bytes"].notna() | (points["status"] == "oom")


def _out_of_memory(points: pd.DataFrame) -> pd.Series:
    return (points["status"] == "oom") & (points["phase"] == WHOLE_RUN)


def _cross(look: Style) -> dict[str, Any]:
    return {
        "color": look.colour,
        "marker": "x",
        "markersize": 7,
        "markeredgewidth": 1.0,
        "linestyle": "none",
        "clip_on": False,
    }


def _notes(points: pd.DataFrame, curves: bool) -> list[Line2D]:
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
        notes.append(training_handle(":" if curves else "-"))
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


def said_of_protocol(points: pd.DataFrame, names: Iterable[str]) -> str:
    """What a caption says of settings that all points share."""
    return ", ".join(filter(None, (_said(name, points[name].iloc[0]) for name in names)))


def _said(name: str, value: object) -> str:
    if name == "batch_size":
        return f"batch size {value}"
    if name == "grad_checkpointing":
        return "gradient checkpointing" if value else ""
    return str(value)
