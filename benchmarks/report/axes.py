"""Axes of figures: bytes, AUC, image sides and methods, their limits and ticks."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.report.marks import whiskers

TICK_WIDTH = 0.52  # inches, of "256 MiB" and some room
CHANCE = 50.0  # AUC in percent
_NEAR_CHANCE = 60.0  # an axis that reaches below shows chance
_FINER = ((1, 1.5), (1, 1.25, 1.5, 1.75))  # ticks of a doubling, where powers of two alone are too few


def memory_axis(axes: Axes, name: str, values: pd.Series, num_ticks: int = 9) -> None:
    """A log axis ("x" or "y") of bytes with ticks in MiB and GiB: each 1, 2, 4 times the one before."""
    low, high = float(values.min()) / 1.6, float(values.max()) * 1.6
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    ticks, between = byte_ticks(low, high, num_ticks)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(FixedLocator(between))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def byte_ticks(low: float, high: float, most: int) -> tuple[list[float], list[float]]:
    """Ticks from `low` to `high`: as many powers of two, evenly, as there may be; and those between, without a label.

    Where there are fewer than two, a doubling is divided.
    """
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    if len(powers) >= 2:
        step = -(-len(powers) // most)
        # From 1 MiB or 1 GiB on, so that labels are the same in every figure.
        labelled = [power for power in powers if power % step == 0]
        labelled = labelled if len(labelled) > 1 else list(powers[::step])
        return [2.0**power for power in labelled], [2.0**power for power in powers if power not in labelled]
    for parts in _FINER:
        base = math.floor(math.log2(low))
        ticks = [part * 2.0 ** (base + i) for i in range(3) for part in parts]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 2:
            break
    return ticks, []


def auc_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """From and to which percent an axis shows the AUCs of rows and their intervals, and chance where it is near."""
    mean, (below, above) = 100 * rows["auc_mean"].to_numpy(dtype="float64"), np.nan_to_num(whiskers(rows))
    low, high = float((mean - below).min()), float((mean + above).max())
    low = min(low, CHANCE) if low < _NEAR_CHANCE else low
    pad = max(0.06 * (high - low), 0.25)
    return low - pad, high + pad


def draw_chance(panels: Iterable[Axes], name: str, limits: tuple[float, float]) -> str:
    """Draws the line of chance across an AUC axis ("x" or "y") where it lies on it; what a caption says of it."""
    if not limits[0] < CHANCE < limits[1]:
        return f"Chance ({CHANCE:.0f}) lies below the axis."
    for axes in panels:
        line = axes.axvline if name == "x" else axes.axhline
        line(CHANCE, color="0.35", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    return f"Dotted line: chance ({CHANCE:.0f})."


def method_axis(axes: Axes, labels: Sequence[str]) -> None:
    """A y axis with a row for each method, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def resolution_axis(axes: Axes, values: Iterable[int]) -> None:
    """A log x axis of image sides with a tick at each resolution that was run, as far as their labels fit."""
    axes.set_xscale("log")
    ticks: list[int] = []
    for value in sorted(set(map(int, values))):
        if not ticks or value / ticks[-1] > 1.15:
            ticks.append(value)
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.08)
    axes.set_xlabel("Image side (px, log)")


def _bytes(value: float) -> str:
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"
