"""How our figures look: sizes of a printed column, one style a method, a legend above and a caption below."""

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display is needed, or wanted

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.analysis.summary import method_rank
from benchmarks.storage.files import write_atomic
from methods import TITLES, idea_of

COLUMN, PAGE = 3.5, 7.0  # inches: widths of a column and of a page in print
SUFFIXES = (".png", ".pdf")  # of the files that a figure is written to
FONT_SIZE = 7  # points, the smallest that journals accept
RC: dict[Any, Any] = {
    **{"font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE, "axes.labelsize": FONT_SIZE, "legend.fontsize": FONT_SIZE},
    **{"xtick.labelsize": FONT_SIZE, "ytick.labelsize": FONT_SIZE, "lines.linewidth": 1.1, "lines.markersize": 4.5},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "pdf.fonttype": 42},
    **{"font.family": "DejaVu Sans", "axes.grid": True, "grid.color": "0.92", "grid.linewidth": 0.5},
    **{"axes.axisbelow": True, "figure.dpi": 300, "text.parse_math": False},
}
# Okabe-Ito, with a wine red for its yellow, which is lost on white paper; its black is full fine-tuning's alone. Seven
# colours and twelve markers, counted on together, meet again after 84 places, and neighbours differ in both. The last
# marker is full fine-tuning's too.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#882255")
_MARKERS = ("s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "d", "o")
_DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), "-")


MANY = 12  # labels of a figure from which it names a few of them, and draws the others grey


class Style(NamedTuple):
    """What tells a method from the others, in colour and without."""

    colour: str
    marker: str
    dashes: Any


_LIGHTER = 0.45  # opacity of what stands for training alone, beside the whole run
FULL = Style("#000000", "o", "-")
GREY = Style("#B8B8B8", "o", "-")  # of what a figure of many does not name
_GREY_LINE: dict[str, Any] = {"color": GREY.colour, "linewidth": 0.6, "zorder": 1}


def styles(labels: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for each (method, label), whatever else is shown: that of its method's place in the table of methods.

    Further variants of a method, and methods that only stored records know, take the places after the table's.
    """
    ordered = sorted(set(labels), key=lambda pair: (method_rank(pair[0]), pair[1]))
    own = {name: nth_style(place) for place, name in enumerate(name for name in TITLES if name != "full")}
    own["full"] = FULL
    after = itertools.count(len(own) - 1)
    return {label: own.pop(method) if method in own else nth_style(next(after)) for method, label in ordered}


def nth_style(place: int) -> Style:
    """A style for each place, neighbours differing in all of it."""
    return Style(*(looks[place % len(looks)] for looks in (_COLOURS, _MARKERS, _DASHES)))


def few_of_many(rows: pd.DataFrame, score: str, better: int) -> set[str]:
    """The labels that a figure names: all while they are few, else full fine-tuning and the best of each idea.

    Args:
        rows: with `method`, `label` and the score; a label may have several rows.
        score: a column; the label with the best mean over its rows is the best, among those with the most rows.
        better: 1 where more of it is better, -1 where less is.
    """
    labels = set(rows["label"])
    if len(labels) <= MANY:
        return labels
    known = rows[rows[score].notna()]
    found = known.assign(idea=known["method"].map(idea_of)).groupby(["idea", "label"])[score].agg(["count", "mean"])
    ordered = found.assign(mean=better * found["mean"].astype("float64")).sort_values(["count", "mean"])
    return set(ordered.reset_index().groupby("idea")["label"].last())


def said_of_few(num_grey: int, named: str) -> str:
    """What a caption says of labels that are not named; nothing where all are."""
    return f" Named: {named}; grey: the {num_grey} others, all of them in the tables." if num_grey else ""


OF_EACH_IDEA = "full fine-tuning and the {} of each idea"


def draw_grey_line(axes: Axes, x: Any, y: Any) -> None:
    """A line of what a figure does not name, thin, below all others."""
    axes.plot(x, y, **_GREY_LINE)


def draw_grey_points(axes: Axes, x: Any, y: Any) -> None:
    """Points of what a figure does not name, small, below all others."""
    axes.plot(x, y, linestyle="none", marker=GREY.marker, markersize=2.2, color=GREY.colour, zorder=1)


def grey_handle(number: int, line: bool = True) -> Line2D:
    """The legend entry of what a figure does not name."""
    look: dict[str, Any] = (
        {"linewidth": 0.6} if line else {"linestyle": "none", "marker": GREY.marker, "markersize": 2.2}
    )
    return Line2D([], [], color=GREY.colour, **look, label=f"{number} others")


def name_points(axes: Axes, points: Sequence[tuple[str, float, float, Style]]) -> None:
    """Writes labels beside points `(label, x, y, look)`, above and to the left, each in a row of its own.

    The limits of the axes must stand; a thin line leads from a label to its point.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.get_ylim()  # settles the limits of all axes that share them
    places = axes.transAxes.inverted().transform(axes.transData.transform([(x, y) for _, x, y, _ in points]))
    order = sorted(range(len(points)), key=lambda i: float(places[i][1]))
    height = 1.35 * FONT_SIZE / 72 / (axes.get_position().height * figure.get_size_inches()[1])
    rows = moved_apart([float(places[i][1]) + 0.7 * height for i in order], height)
    for i, row in zip(order, rows, strict=True):
        label, x, y, look = points[i]
        left = float(places[i][0]) > 0.4
        text_x = float(places[i][0]) + (-0.06 if left else 0.02)
        axes.annotate(
            label,
            (x, y),
            (text_x, min(row, 1.0)),
            textcoords="axes fraction",
            ha="right" if left else "left",
            va="center",
            color=look.colour,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": look.colour, "shrinkA": 0, "shrinkB": 2},
            annotation_clip=False,
            zorder=5,
        )


def moved_apart(places: Sequence[float], gap: float) -> list[float]:
    """Places of labels, as near to `places` (ascending) as they can be when each keeps its distance from the next."""
    moved = list(places)
    for _ in range(200):
        for i in range(len(moved) - 1):
            push = max(0.0, gap - (moved[i + 1] - moved[i])) / 2
            moved[i] -= push
            moved[i + 1] += push
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


def training_handle(dashes: Any = "-") -> Line2D:
    """The legend entry of the lighter marks."""
    look: dict[str, Any] = {"color": "0.4", "alpha": _LIGHTER, "marker": "o", "markersize": 3, "linewidth": 0.8}
    return Line2D([], [], **look, linestyle=dashes, label="training alone")


def mark_points(axes: Axes, x: Iterable[float], y: Iterable[float], marks: Iterable[str], look: Style) -> None:
    """The marks of a table beside the points of a method; an empty one leaves its point as it is."""
    for place_x, place_y, mark in zip(x, y, marks, strict=True):
        if mark:
            beside: dict[str, Any] = {"xytext": (2.5, 2.0), "textcoords": "offset points", "color": look.colour}
            axes.annotate(mark, (place_x, place_y), **beside, annotation_clip=False)


def legend_handle(label: str, look: Style, dashes: Any = "none") -> Line2D:
    """The legend entry of a method."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=dashes, label=label)


def source_handles(sources: pd.Series) -> list[Line2D]:
    """Legend entries of filled and hollow markers, where a figure has hollow ones."""
    return [
        Line2D([], [], color="0.4", marker="o", linestyle="none", markerfacecolor=fill, label=source)
        for source, fill in (("measured", "0.4"), ("predicted", "white"))
        if (sources == source).any() and (sources == "predicted").any()
    ]


def finish(
    figure: Figure, path: Path, title: str, caption: str, handles: Sequence[Line2D], notes: Sequence[Line2D] = ()
) -> list[Path]:
    """Place title and legends above the axes and the caption below, without overlap, and write png and pdf.

    Args:
        figure: a figure that holds its axes; its height is that of the axes, and grows by what is added here.
        path: where to write; its suffix is replaced.
        title: one line above all.
        caption: what the figure shows under which protocol; wrapped.
        handles: the legend of the methods.
        notes: a second legend of what else is drawn.
    """
    width, axes_height = figure.get_size_inches()
    line = FONT_SIZE * 1.25 / 72
    wrapped = textwrap.wrap(caption, int(width * 72 / (FONT_SIZE * 0.55)))
    columns = _columns(handles, width)
    legend_rows = -(-len(handles) // columns)
    note_columns = _columns(notes, width)
    note_rows = -(-len(notes) // note_columns)
    titles = textwrap.wrap(title, int(width * 72 / (FONT_SIZE * 0.62)))
    above = (len(titles) + legend_rows + note_rows + 0.9) * line
    below = (len(wrapped) + 0.6) * line
    height = axes_height + above + below
    figure.set_size_inches(width, height)
    figure.set_layout_engine("constrained", rect=(0, below / height, 1, axes_height / height))
    figure.text(0.01, 1 - 0.2 * line / height, "\n".join(titles), va="top", weight="bold", linespacing=1.25)
    figure.text(0.01, 0.3 * line / height, "\n".join(wrapped), va="bottom", color="0.3", linespacing=1.25)
    top = 1 - (len(titles) + 0.45) * line / height
    shared: dict[str, Any] = {"frameon": False, "loc": "upper left", "borderpad": 0, "borderaxespad": 0}
    shared |= {"handlelength": 2.2, "columnspacing": 1.2, "labelspacing": 0.2, "handletextpad": 0.5}
    figure.legend(handles=handles, ncols=columns, bbox_to_anchor=(0.01, top), **shared)
    if notes:
        below_legend = top - legend_rows * line / height
        figure.legend(handles=notes, ncols=note_columns, bbox_to_anchor=(0.01, below_legend), **shared)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, the same in both files
    return [_write(figure, path.with_suffix(suffix)) for suffix in SUFFIXES]


def memory_axis(axes: Axes, name: str, values: pd.Series, num_ticks: int = 9) -> None:
    """A log axis ("x" or "y") of bytes with ticks in MiB and GiB."""
    axes.set(**{f"{name}scale": "log", f"{name}lim": (values.min() / 1.6, values.max() * 1.6)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    narrow = values.max() < 4 * values.min()  # where a power of 4 may lie nowhere
    axis.set_major_locator(LogLocator(base=2 if narrow else 4, numticks=num_ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))


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
    return f"{value / 2**30:.0f} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"


def _columns(handles: Sequence[Line2D], width: float) -> int:
    """How many legend entries fit side by side; the legend is filled column by column."""
    widths = [0.4 + len(str(handle.get_label())) * FONT_SIZE * 0.58 / 72 for handle in handles]
    for columns in range(len(widths), 1, -1):
        rows = -(-len(widths) // columns)
        if sum(max(widths[i : i + rows]) for i in range(0, len(widths), rows)) <= width:
            return -(-len(widths) // rows)
    return 1


def _write(figure: Figure, path: Path) -> Path:
    """Write a figure so that the same figure gives the same bytes.

    By way of the canvas: `savefig` would first draw all of it once more, to lay out what is laid out.
    """
    data = io.BytesIO()
    if path.suffix == ".png":
        FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})
    else:
        FigureCanvasPdf(figure).print_pdf(data, metadata={"CreationDate": None, "ModDate": None, "Producer": None})
    return write_atomic(path, data.getvalue())
