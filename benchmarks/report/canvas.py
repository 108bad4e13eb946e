"""From axes to files: what figures are drawn with, a title and legends above, a caption below, and png and pdf."""

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, or wanted

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.report.fonts import families
from benchmarks.report.style import FONT_SIZE
from benchmarks.storage.files import write_atomic

_BETWEEN = 0.07  # inches beside each axes
SUFFIXES = (".png", ".pdf")  # of the files that a figure is written to
_RC: dict[Any, Any] = {
    **{"font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE, "axes.labelsize": FONT_SIZE, "legend.fontsize": FONT_SIZE},
    **{"xtick.labelsize": FONT_SIZE, "ytick.labelsize": FONT_SIZE, "lines.linewidth": 1.1, "lines.markersize": 4.5},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "pdf.fonttype": 42},
    **{"axes.grid": True, "grid.color": "0.92", "grid.linewidth": 0.5},
    **{"axes.axisbelow": True, "figure.dpi": 300, "text.parse_math": False},
}


def rc() -> dict[Any, Any]:
    """What every figure is drawn with, for `matplotlib.rc_context`."""
    return _RC | {"font.family": families()}


def finish(
    figure: Figure,
    path: Path,
    title: str,
    caption: str,
    handles: Sequence[Artist] = (),
    notes: Sequence[Artist] = (),
    draw: Callable[[], None] | None = None,
    x_label: str = "",
) -> list[Path]:
    """Place title and legends above the axes and the caption below, without overlap, and write png and pdf.

    Args:
        figure: a figure that holds its axes; its height is that of the axes, and grows by what is added here.
        path: where to write; its suffix is replaced.
        title: one line above all.
        caption: what the figure shows under which protocol; wrapped.
        handles: the legend of the methods.
        notes: a second legend of what else is drawn.
        draw: draws into axes that have their limits and their place on the page, which it must not change.
        x_label: what all x axes show.
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
    below = (len(wrapped) + 0.6 + 1.3 * bool(x_label)) * line
    height = axes_height + above + below
    figure.set_size_inches(width, height)
    # Laid out once, the same in both files, before there is much in it that would be asked for its size.
    ConstrainedLayoutEngine(rect=(0, below / height, 1, axes_height / height), w_pad=_BETWEEN).execute(figure)
    if draw is not None:
        draw()
    figure.text(0.01, 1 - 0.2 * line / height, "\n".join(titles), va="top", weight="bold", linespacing=1.25)
    figure.text(0.01, 0.3 * line / height, "\n".join(wrapped), va="bottom", color="0.3", linespacing=1.25)
    if x_label:
        sides = [axes.get_position() for axes in figure.axes]
        middle = (min(side.x0 for side in sides) + max(side.x1 for side in sides)) / 2
        figure.text(middle, (below - 0.3 * line) / height, x_label, ha="center", va="top")
    top = 1 - (len(titles) + 0.45) * line / height
    shared: dict[str, Any] = {"frameon": False, "loc": "upper left", "borderpad": 0, "borderaxespad": 0}
    shared |= {"handlelength": 2.2, "columnspacing": 1.2, "labelspacing": 0.2, "handletextpad": 0.5}
    for entries, num_columns, rows_above in ((handles, columns, 0), (notes, note_columns, legend_rows)):
        if entries:
            place = (0.01, top - rows_above * line / height)
            figure.legend(handles=list(entries), ncols=num_columns, bbox_to_anchor=place, **shared)
    return [_write(figure, path.with_suffix(suffix)) for suffix in SUFFIXES]


def _columns(handles: Sequence[Artist], width: float) -> int:
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
