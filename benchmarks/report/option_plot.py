"""One option of a method against AUC and memory, from stored runs that differ in that option and in nothing else."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from benchmarks.analysis.backbones import ON
from benchmarks.config import RunConfig
from benchmarks.names import shown_value, variant_title
from benchmarks.report.axes import auc_limits, draw_chance, memory_axis
from benchmarks.report.canvas import finish, rc
from benchmarks.report.captions import title
from benchmarks.report.figure_captions import figure_caption, point_marks, whiskers_said
from benchmarks.report.marks import draw_points, legend_handle, mark_points, side_by_side, source_handles, whiskers
from benchmarks.report.style import PAGE, Style, nth_style
from methods import TITLES

# Settings of a run that are no option of its method.
_OF_RUNS = {ON, *(entry.name for entry in fields(RunConfig))} - {"lr", "weight_decay"}
_LOG_FROM = 8.0  # ratio of the largest to the smallest value from which an axis of values is logarithmic


class Series(NamedTuple):
    """The cells of a method that differ in one option alone.

    Attributes:
        option: Its name.
        rest: The other settings of all of them.
        rows: Cells of a summary, with the option's `value`, by rising value; of words by rising memory.
    """

    option: str
    rest: dict[str, Any]
    rows: pd.DataFrame


def option_series(cells: pd.DataFrame) -> list[Series]:
    """Every series of two values or more.

    Args:
        cells: Of one method, dataset and protocol, as `summary` has them; those without an AUC are left out.
    """
    known = cells[cells["auc_mean"].notna()]
    settings = {variant: _settings(variant) for variant in known["variant"].unique()}
    options = sorted({name for setting in settings.values() for name in setting} - _OF_RUNS)
    return [series for option in options for series in _series_of(known, settings, option)]


def _settings(variant: str) -> dict[str, Any]:
    """What a variant differs in; each of its options stands there by itself as well."""
    return {name: value for name, value in json.loads(variant).items() if name != "options"}


def _series_of(known: pd.DataFrame, settings: dict[str, dict[str, Any]], option: str) -> Iterator[Series]:
    values = {variant: setting.get(option) for variant, setting in settings.items()}
    rests = {
        variant: json.dumps({name: value for name, value in setting.items() if name != option}, sort_keys=True)
        for variant, setting in settings.items()
    }
    rows = known.assign(value=known["variant"].map(values), rest=known["variant"].map(rests))
    for _, group in rows.groupby(["resolution", "rest"]):
        if group["variant"].nunique() > 1:
            yield Series(option, json.loads(group["rest"].iloc[0]), _ordered(group))


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("value" if _are_numbers(rows["value"]) else ["memory_bytes", "variant"])


def _are_numbers(values: pd.Series) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def plot_options(block: pd.DataFrame, found: Sequence[Series], look: Style, path: Path) -> list[Path]:
    """Writes a figure with a row for each option, AUC at the left and memory at the right, as png and pdf.

    Args:
        block: The cells of the method, whose protocol the caption tells.
        found: What to draw. Where all their rows have an interval (`auc_low` and `auc_high`), a line joins them.
        look: Of the method, for a figure that needs no more than one.
        path: Where to write; its suffix is replaced.
    """
    options = list(dict.fromkeys(series.option for series in found))
    names = _names(found)
    known = list(dict.fromkeys(names))
    looks = {name: look if len(known) == 1 else nth_style(place) for place, name in enumerate(known)}
    rows = pd.concat([series.rows for series in found])
    limits = auc_limits(rows)
    with matplotlib.rc_context(rc()):
        figure, grid = plt.subplots(len(options), 2, figsize=(PAGE, 1.9 * len(options)), squeeze=False)
        panels: list[Any] = []
        for (left, right), option in zip(grid, options, strict=True):
            own = [(series, looks[name]) for series, name in zip(found, names, strict=True) if series.option == option]
            places = _value_axis((left, right), option, [series for series, _ in own])
            lines = [
                ([places[shown_value(value)] for value in series.rows["value"]], series.rows, look)
                for series, look in own
            ]
            panels += [(left, lines, _draw_auc, "auc_mean"), (right, lines, _draw_memory, "memory_bytes")]
            left.set_ylim(limits)
            left.set_ylabel("Test AUC (%)")
            right.set_ylabel("Peak GPU memory (log)")
            memory = rows.loc[rows["memory_bytes"].notna(), "memory_bytes"]
            if len(memory):
                memory_axis(right, "y", memory, num_ticks=6)
        chance = draw_chance(grid[:, 0], "y", limits)

        def draw() -> None:
            for panel in panels:
                _draw_panel(*panel)

        bare = TITLES.get(str(rows["method"].iloc[0]), str(rows["method_title"].iloc[0]))
        what = (
            f"{whiskers_said(rows)}. {chance} Memory: peak allocated in the whole run. In each row one option changes."
        )
        handles = [legend_handle(name, look, look.dashes) for name, look in looks.items() if name]
        heading = f"{title(block)}: {bare}, option by option"
        notes = source_handles(rows["memory_source"])
        paths = finish(figure, path, heading, figure_caption(rows, what), handles, notes, draw)
        plt.close(figure)
    return paths


def _names(found: Sequence[Series]) -> list[str]:
    """What tells each series from the others: its resolution, and settings in which those of its option differ."""
    several = len({int(series.rows["resolution"].iloc[0]) for series in found}) > 1
    names = []
    for series in found:
        others = [other.rest for other in found if other.option == series.option]
        differing = [
            name
            for name in series.rest
            if name not in _OF_RUNS and len({json.dumps(rest.get(name)) for rest in others}) > 1
        ]
        side = [f"{series.rows['resolution'].iloc[0]} px"] if several else []
        words = variant_title("", {name: series.rest[name] for name in differing}, side)
        names.append(words.strip(" ()"))
    return names


def _value_axis(panels: Sequence[Axes], option: str, found: Sequence[Series]) -> dict[str, float]:
    """Sets the axis of values; returns where each value stands on it."""
    values = pd.concat([series.rows["value"] for series in found])
    texts = list(dict.fromkeys(map(shown_value, values)))
    numbers = _are_numbers(values)
    places = {shown_value(value): float(value) for value in values} if numbers else {}
    places = places or {text: float(place) for place, text in enumerate(texts)}
    low, high = min(places.values()), max(places.values())
    for axes in panels:
        if numbers and low > 0 and high / low >= _LOG_FROM:
            axes.set_xscale("log")
        axes.set_xticks(list(places.values()), list(places))
        axes.xaxis.set_minor_locator(NullLocator())
        if axes.get_xscale() == "log":
            axes.set_xlim(low / (high / low) ** 0.1, high * (high / low) ** 0.1)
        else:
            axes.set_xlim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        axes.set_xlabel(option)
    return places


def _draw_panel(axes: Axes, own: Sequence[tuple[list[float], pd.DataFrame, Style]], draw: Any, column: str) -> None:
    """Draws series, their markers side by side.

    Args:
        axes: whose limits and place on the page stand.
        own: where the values of each series stand, its rows and its style.
        draw: draws one of them.
        column: that the axes show.
    """
    every = pd.concat([rows for _, rows, _ in own])
    heights = every[column].astype("float64")
    reach = whiskers(every) if column == "auc_mean" else np.full((2, len(every)), np.nan)
    scale = 100 if column == "auc_mean" else 1
    x = [place for places, *_ in own for place in places]
    known = heights.notna().to_numpy()
    moved = np.array(x, dtype="float64")
    moved[known] = side_by_side(axes, moved[known], scale * heights[known], reach[:, known])
    ends = np.cumsum([len(places) for places, *_ in own])[:-1]
    for places, (_, rows, look) in zip(np.split(moved, ends), own, strict=True):
        draw(axes, places, rows, look)


def _draw_auc(axes: Axes, x: Any, rows: pd.DataFrame, look: Style) -> None:
    """AUC with whiskers; a line only where each point has them."""
    auc, reach = 100 * rows["auc_mean"], whiskers(rows)
    draw_points(axes, x, auc, look, yerr=reach, dashes=look.dashes if np.isfinite(reach).all() else "none")
    mark_points(axes, x, auc, [point_marks(row) for _, row in rows.iterrows()], look)


def _draw_memory(axes: Axes, x: Any, rows: pd.DataFrame, look: Style) -> None:
    axes.plot(x, rows["memory_bytes"].astype("float64"), color=look.colour, linestyle=look.dashes)
    for place, (_, row) in zip(x, rows.iterrows(), strict=True):
        if not pd.isna(row["memory_bytes"]):
            draw_points(axes, place, row["memory_bytes"], look, fill=row["memory_source"] == "measured")
