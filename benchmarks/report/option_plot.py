"""One option of a method against AUC and memory, from stored runs that differ in that option and in nothing else."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from benchmarks.analysis.backbones import ON
from benchmarks.config import RunConfig
from benchmarks.names import shown_value, variant_title
from benchmarks.report.captions import auc_marks, figure_caption, spread, title
from benchmarks.report.style import (
    PAGE,
    RC,
    Style,
    draw_points,
    finish,
    legend_handle,
    mark_points,
    memory_axis,
    nth_style,
    source_handles,
)
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


def plot_options(block: pd.DataFrame, found: Sequence[Series], path: Path) -> list[Path]:
    """Writes a figure with a row for each option, AUC at the left and memory at the right, as png and pdf.

    Args:
        block: The cells of the method, whose protocol the caption tells.
        found: What to draw. Where their rows have `auc_low` and `auc_high`, these are the interval of the AUC, else it
            is the deviation over seeds.
        path: Where to write; its suffix is replaced.
    """
    options = list(dict.fromkeys(series.option for series in found))
    names = _names(found)
    looks = {name: nth_style(place) for place, name in enumerate(dict.fromkeys(names))}
    rows = pd.concat([series.rows for series in found])
    with matplotlib.rc_context(RC):
        figure, grid = plt.subplots(len(options), 2, figsize=(PAGE, 1.9 * len(options)), squeeze=False)
        for (left, right), option in zip(grid, options, strict=True):
            own = [(series, looks[name]) for series, name in zip(found, names, strict=True) if series.option == option]
            places = _value_axis((left, right), option, [series for series, _ in own])
            for series, look in own:
                _draw_auc(left, [places[shown_value(value)] for value in series.rows["value"]], series.rows, look)
                _draw_memory(right, [places[shown_value(value)] for value in series.rows["value"]], series.rows, look)
            left.set_ylabel("Test AUC (%)")
            right.set_ylabel("Peak GPU memory (log)")
            memory = rows.loc[rows["memory_bytes"].notna(), "memory_bytes"]
            if len(memory):
                memory_axis(right, "y", memory, num_ticks=5)
        bare = TITLES.get(str(rows["method"].iloc[0]), str(rows["method_title"].iloc[0]))
        what = f"{_interval(rows, block)}; memory: peak allocated in the whole run. In each panel one option changes."
        handles = [legend_handle(name, look, look.dashes) for name, look in looks.items() if name]
        heading = f"{title(block)}: {bare}, option by option"
        paths = finish(
            figure, path, heading, figure_caption(rows, what), handles, source_handles(rows["memory_source"])
        )
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


def _interval(rows: pd.DataFrame, block: pd.DataFrame) -> str:
    if "auc_low" in rows and rows["auc_low"].notna().any():
        return "AUC with its 95 % interval, over images and seeds"
    return spread(block)


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
        axes.margins(x=0.1)
        axes.set_xlabel(option)
    return places


def _draw_auc(axes: Axes, x: Sequence[float], rows: pd.DataFrame, look: Style) -> None:
    auc = 100 * rows["auc_mean"]
    error: Any = (100 * rows["auc_sd"]).fillna(0) if rows["auc_sd"].notna().any() else None
    if "auc_low" in rows and rows["auc_low"].notna().any():
        ends = [
            auc - 100 * rows["auc_low"].fillna(rows["auc_mean"]),
            100 * rows["auc_high"].fillna(rows["auc_mean"]) - auc,
        ]
        error = [end.clip(lower=0).to_numpy(dtype="float64") for end in ends]
    draw_points(axes, x, auc, look, yerr=error, dashes=look.dashes)
    mark_points(axes, x, auc, [auc_marks(row) for _, row in rows.iterrows()], look)


def _draw_memory(axes: Axes, x: Sequence[float], rows: pd.DataFrame, look: Style) -> None:
    axes.plot(x, rows["memory_bytes"].astype("float64"), color=look.colour, linestyle=look.dashes)
    for place, (_, row) in zip(x, rows.iterrows(), strict=True):
        if not pd.isna(row["memory_bytes"]):
            draw_points(axes, place, row["memory_bytes"], look, fill=row["memory_source"] == "measured")
