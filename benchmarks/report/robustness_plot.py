"""AUC on corrupted images by severity: a panel a corruption, a line a method."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.report.axes import auc_limits, draw_chance
from benchmarks.report.canvas import finish, rc
from benchmarks.report.captions import seeds_said, title
from benchmarks.report.figure_captions import figure_caption
from benchmarks.report.marks import draw_grey_line, draw_points, grey_handle, legend_handle, side_by_side, whiskers
from benchmarks.report.robustness import TITLES
from benchmarks.report.style import OF_EACH_IDEA, PAGE, Style, few_of_many, said_of_few

_COLUMNS = 4


def plot_robustness(part: pd.DataFrame, looks: Mapping[str, Style], path: Path) -> list[Path]:
    """Writes the figure as png and pdf.

    Args:
        part: Rows of `robustness_rows` of one dataset, protocol, resolution and set of images.
        looks: The style of each label, in their order.
        path: Where to write; its suffix is replaced.
    """
    ends = ("mean", "low", "high")
    rows = part[part["severity"].notna()].assign(**{f"auc_{end}": part[f"corrupted_{end}"] for end in ends})
    clean, hurt = rows[rows["severity"] == 0], rows[rows["severity"] > 0]
    names = list(dict.fromkeys(hurt["corruption"]))
    named = few_of_many(clean, "auc_mean", 1)
    shown = {label: look for label, look in looks.items() if label in named}
    limits = auc_limits(rows[rows["label"].isin(named)])
    lines = -(-len(names) // _COLUMNS)
    with matplotlib.rc_context(rc()):
        figure, grid = plt.subplots(lines, _COLUMNS, figsize=(PAGE, 1.7 * lines), sharey=True, squeeze=False)
        panels = list(zip(grid.flat, names, strict=False))
        for place, (axes, name) in enumerate(panels):
            axes.set_title(TITLES.get(name, name), loc="left")
            axes.set_xlim(-0.4, int(hurt["severity"].max()) + 0.4)
            axes.set_xticks(range(int(hurt["severity"].max()) + 1))
            axes.set_ylim(limits)
            if place % _COLUMNS == 0:
                axes.set_ylabel("Test AUC (%)")
        for axes in grid.flat[len(names) :]:
            axes.remove()
        chance = draw_chance([axes for axes, _ in panels], "y", limits)

        def draw() -> None:
            for axes, name in panels:
                _draw_panel(axes, pd.concat([clean, hurt[hurt["corruption"] == name]]), shown)

        left_out = rows["label"].nunique() - len(shown)
        handles = [legend_handle(label, look, look.dashes) for label, look in shown.items()]
        handles += [grey_handle(left_out)] if left_out else []
        heading = f"{title(part)}: corrupted images of {part['data_label'].iloc[0]}, {part['resolution'].iloc[0]} px"
        caption = figure_caption(part, _what(part, chance, left_out), of_auc=False)
        paths = finish(figure, path, heading, caption, handles, draw=draw, x_label="Severity (0: clean)")
        plt.close(figure)
    return paths


def _what(part: pd.DataFrame, chance: str, left_out: int) -> str:
    over = seeds_said(part)
    auc = f"AUC: mean over {over}" if over else "AUC of one seed, so of these trained models"
    named = said_of_few(left_out, OF_EACH_IDEA.format("best on clean images"))
    return (
        f"{auc}; whiskers: its 95 % interval. Severities share their images and models, so whiskers that overlap do "
        f"not show that a drop is none: its paired interval is in the tables. {chance}{named}"
    )


def _draw_panel(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Style]) -> None:
    for label in dict.fromkeys(rows["label"]):
        if label not in looks:
            line = rows[rows["label"] == label]
            draw_grey_line(axes, line["severity"].astype(float), 100 * line["auc_mean"].astype(float))
    known = rows[rows["label"].isin(list(looks))]
    heights = 100 * known["auc_mean"].to_numpy(dtype="float64")
    moved = side_by_side(axes, known["severity"].to_numpy(dtype="float64"), heights, whiskers(known))
    for label, look in looks.items():
        mine = (known["label"] == label).to_numpy()
        if mine.any():
            order = np.flatnonzero(mine)
            reach = whiskers(known)[:, order]
            draw_points(axes, moved[order], heights[order], look, yerr=reach, dashes=look.dashes)
