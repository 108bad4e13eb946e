"""Peak memory of a method with each saver, over resolution: of the whole run and, lighter, of training alone."""

from pathlib import Path

import pandas as pd

from benchmarks.memory.table import NO_SAVER, savers_said
from benchmarks.names import title_of
from benchmarks.records.whole_run import WHOLE_RUN
from benchmarks.report.memory_plot import draw_memory, said_of_protocol
from benchmarks.report.style import FULL, Style, nth_style
from methods import TITLES

_ALIKE = 0.04  # relative: below it curves lie upon each other


def plot_savers(points: pd.DataFrame, path: Path) -> list[Path]:
    """Draw memory over resolution, a panel a method and a line a combination of savers; writes png and pdf.

    Args:
        points: as `memory_plot.plot_memory_curves` takes them, and savers: one row for each point and phase.
        path: where to write; its suffix is replaced.

    Raises:
        UserError: there is no memory to draw.
        MachineError: the folder cannot be written.
    """
    shown = points[points["phase"].isin((WHOLE_RUN, "train"))].assign(label=savers_said(points))
    alike = _like_none(shown)
    shown = shown[~shown["label"].isin(alike)]
    looks: dict[str, Style] = {NO_SAVER: FULL}
    for label in shown["label"]:
        looks.setdefault(label, nth_style(len(looks) - 1))
    panels = [(title_of(str(name), TITLES), group) for name, group in shown.groupby("method", sort=False)]
    one = "methods"
    if len(panels) == 1:
        one, panels = panels[0][0], [("", panels[0][1])]
    shared = said_of_protocol(points, ("backbone", "batch_size", "precision"))
    caption = f"Peak allocated GPU memory of the whole run, by what saves memory. {shared}."
    if alike:
        caption += f" Not drawn, as within {100 * _ALIKE:.0f} % of {NO_SAVER}: {', '.join(alike)}."
    return draw_memory(panels, path, f"Peak GPU memory of {one} with each saver", caption, looks, curves=True)


def _like_none(points: pd.DataFrame) -> list[str]:
    """The savers that bring next to nothing, whichever the method, resolution and phase."""
    sizes = points.astype({"peak_allocated_bytes": "float64"}).pivot_table(
        index=["method", "resolution", "attention", "phase"], columns="label", values="peak_allocated_bytes", sort=False
    )
    saved = 1 - sizes.div(sizes[NO_SAVER], axis=0)
    return [str(label) for label in sizes if label != NO_SAVER and saved[label].abs().max() < _ALIKE]
