"""The critical-difference diagram: average ranks of methods on a line, those that are not told apart joined."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.analysis.ranks import DatasetsComparison, Ranking, indistinguishable
from benchmarks.report.canvas import finish, rc
from benchmarks.report.captions import rank_marks
from benchmarks.report.figure_captions import figure_caption
from benchmarks.report.marks import draw_points
from benchmarks.report.rank_captions import differences, lacking, least_p, ranks
from benchmarks.report.style import COLUMN, FONT_SIZE, PAGE, styles

_STEP = 1.0  # height of a label, in data units
_BAR = 0.34  # between two bars


def plot_ranks(table: pd.DataFrame, compared: DatasetsComparison, found: Ranking, path: Path) -> list[Path]:
    """Write the diagram as png and pdf.

    Args:
        table: the rows of one protocol and resolution of a summary, all its datasets.
        compared, found: their comparison over datasets, and its ranking.
        path: where to write; its suffix is replaced.

    Source: Demsar, JMLR 7 (2006), figure 1.
    """
    bars = indistinguishable(found.ranks, found.critical)
    rows = (len(found.ranks) + 1) // 2
    width = PAGE if max(map(len, found.labels)) > 24 else COLUMN
    with matplotlib.rc_context(rc()):
        figure, axes = plt.subplots(figsize=(width, 0.62 + 0.085 * len(bars) + 0.17 * rows))
        _axis(axes, found)
        for i, (first, last) in enumerate(bars):
            ends = [found.ranks[first] - 0.04, found.ranks[last] + 0.04]
            axes.plot(ends, [-_BAR * (i + 1)] * 2, color="0.25", linewidth=2.2, solid_capstyle="butt", zorder=2)
        _labels(axes, found, rank_marks(table), top=-_BAR * (len(bars) + 1) - 0.5)
        bar = [Line2D([], [], color="0.25", linewidth=2.2, label="not told apart (Nemenyi, 0.05)")] if bars else []
        said = [
            ranks(found, compared.metrics),
            differences(compared, found.labels),
            least_p(compared),
            lacking(compared),
        ]
        drawn = " (synthetic, not clinical)" if table["synthetic"].any() else ""
        name = f"Average ranks over {len(found.datasets)} datasets at {compared.resolution} px{drawn}"
        paths = finish(figure, path, name, figure_caption(table, " ".join(filter(None, said))), [], bar)
        plt.close(figure)
    return paths


def _axis(axes: Axes, found: Ranking) -> None:
    """The line of ranks, 1 at the left, and above it the critical difference as a length."""
    num = len(found.ranks)
    axes.set_axis_off()
    axes.set_xlim(1 - 0.42 * (num - 1), num + 0.42 * (num - 1))
    axes.plot([1, num], [0, 0], color="black", linewidth=0.8, zorder=1)
    for rank in range(1, num + 1):
        axes.plot([rank, rank], [0, 0.2], color="black", linewidth=0.8)
        axes.text(rank, 0.3, str(rank), ha="center", va="bottom")
    ends = [1, 1 + found.critical]
    axes.plot(ends, [1.75, 1.75], color="black", linewidth=0.8)
    for end in ends:
        axes.plot([end, end], [1.6, 1.9], color="black", linewidth=0.8)
    axes.text(1, 2.0, f"critical difference {found.critical:.2f}", ha="left", va="bottom")


def _labels(axes: Axes, found: Ranking, marks: Mapping[str, str], top: float) -> None:
    """The better half at the left, the others at the right, each tied to its rank on the line."""
    num, half = len(found.ranks), (len(found.ranks) + 1) // 2
    style = styles(zip(found.methods, found.labels, strict=True))
    for i, (label, rank) in enumerate(zip(found.labels, found.ranks, strict=True)):
        left = i < half
        y = top - _STEP * (i if left else num - 1 - i)
        x = 1 - 0.05 * (num - 1) if left else num + 0.05 * (num - 1)
        axes.plot([rank, rank, x], [0, y, y], color=style[label].colour, linewidth=0.7, zorder=1)
        draw_points(axes, rank, 0, style[label])
        draw_points(axes, x, y, style[label])  # where it is seen even if others have the same rank
        side = "right" if left else "left"
        offset = -0.045 * (num - 1) if left else 0.045 * (num - 1)
        axes.text(x + offset, y, f"{label}{marks.get(label, '')} {rank:.2f}", ha=side, va="center", fontsize=FONT_SIZE)
    axes.set_ylim(top - _STEP * (half - 1) - 0.6, 3.0)
