"""Figures of stored results: memory over resolution, AUC over memory with the Pareto front, AUC over resolution.

Memory is that of the whole run; a lighter mark beside it is that of training alone, where a run needs more.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.headline import load_wanted, with_scores
from benchmarks.analysis.ranks import Ranking, compare_over_datasets
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import blocks, summary
from benchmarks.choices import one_of
from benchmarks.names import shortened
from benchmarks.records.whole_run import WHOLE_RUN
from benchmarks.report.captions import auc_marks, figure_caption, spread, title, told_apart
from benchmarks.report.memory_plot import draw_memory
from benchmarks.report.option_plot import option_series, plot_options
from benchmarks.report.rank_captions import unranked
from benchmarks.report.rank_plot import plot_ranks
from benchmarks.report.style import (
    COLUMN,
    OF_EACH_IDEA,
    PAGE,
    RC,
    Style,
    draw_grey_line,
    draw_grey_points,
    draw_points,
    draw_training,
    few_of_many,
    finish,
    grey_handle,
    legend_handle,
    mark_points,
    memory_axis,
    method_axis,
    name_points,
    resolution_axis,
    said_of_few,
    source_handles,
    styles,
    training_handle,
)
from benchmarks.report.style import (
    MANY as MANY_LABELS,
)

MANY = 6  # figures for each process: it takes a second to start
MOST_PROCESSES = 4  # each takes a quarter of a gigabyte


def write_plots(results: Path, frame: pd.DataFrame, mix_code: bool = False, option: str | None = None) -> list[Path]:
    """Write the figures of every dataset and protocol to `results/plots`, each as png and pdf.

    The names are `<figure>_<dataset>_<protocol>`, the protocol as the tables name it; the ranks of methods over the
    datasets of a protocol at one resolution are `ranks_<protocol>_<resolution>`; the options in which runs of a method
    differ one at a time `options-<method>_<dataset>_<protocol>`, with the option behind the method where it is asked
    for alone. A figure for which there is nothing to draw is named on stderr with the reason.

    Args:
        results: the results root.
        frame: the runs to show, as `records.runs_frame` gives them.
        mix_code: whether to average runs that different code has trained.
        option: of a method; its figures alone are drawn, with this option alone.

    Raises:
        UserError: no runs differ in that option alone.
        MachineError: the folder cannot be written.
    """
    table, folder = with_scores(summary(frame, mix_code), load_wanted(results, frame)), results / "plots"
    figures = [*_option_figures(results, frame, table, option)]
    if option is None:
        figures = [*_block_figures(folder, table), *_rank_figures(folder, table), *figures]
    return [path for figure, written in zip(figures, _drawn(figures), strict=True) for path in _kept(written, figure)]


Figure = tuple[Path, Callable[[], list[Path] | str]]  # where it goes, and what draws it, or says why there is none


def _block_figures(folder: Path, table: pd.DataFrame) -> Iterator[Figure]:
    """The figures of each dataset and protocol."""
    draws = {"memory": _memory, "auc-over-memory": _auc_over_memory, "auc-over-resolution": _auc_over_resolution}
    places = _places(table)
    for block in blocks(table):
        place = places[block["dataset_label"].iloc[0]]
        for name, draw in draws.items():
            path = folder / f"{name}_{place}_{block['block'].iloc[0]}.png"
            yield path, partial(draw, block, path)


def _rank_figures(folder: Path, table: pd.DataFrame) -> Iterator[Figure]:
    """The figures of ranks over datasets; a line on stderr for each protocol and resolution without ranks."""
    for protocol_name, group in table.groupby("block", sort=False) if len(table) else ():
        comparisons = list(compare_over_datasets(group))
        for found in comparisons:
            if isinstance(found.ranking, Ranking):
                path = folder / f"ranks_{protocol_name}_{found.resolution}.png"
                rows = group[group["resolution"] == found.resolution]
                yield path, partial(plot_ranks, rows, found, found.ranking, path)
        for reason in unranked([found for found in comparisons if found.num_datasets > 1]):
            print(f"no figure ranks_{protocol_name}: {reason}", file=sys.stderr)


def _option_figures(results: Path, frame: pd.DataFrame, table: pd.DataFrame, only: str | None) -> Iterator[Figure]:
    """The figures of options in which stored runs of a method differ one at a time."""
    places = _places(table)
    groups = [
        (cells, option_series(cells))
        for block in blocks(table)
        for _, cells in block.groupby("method", sort=False)
        if cells["variant"].nunique() > 1
    ]
    options = sorted({series.option for _, found in groups for series in found})
    if only is not None:
        one_of("option in which alone stored runs of a method differ", options, only)
    for cells, found in groups:
        drawn = [series for series in found if only in (None, series.option)]
        if drawn:
            first = cells.iloc[0]
            names = "-".join(filter(None, ["options", first["method"], only]))
            name = f"{names}_{places[first['dataset_label']]}_{first['block']}.png"
            evidence, _ = load_evidence(results, frame[frame["run_id"].isin(" ".join(cells["run_ids"]).split())])
            with_intervals = add_significance(cells, evidence)
            drawn = [series for series in option_series(with_intervals) if only in (None, series.option)]
            yield results / "plots" / name, partial(plot_options, cells, drawn, results / "plots" / name)


def _places(table: pd.DataFrame) -> dict[str, str]:
    """What stands for each dataset, by its label, in names of files."""
    digests = dict(zip(table["dataset_label"], table["dataset_digest"].astype(str), strict=True)) if len(table) else {}
    plain = {label: re.sub(r"[^A-Za-z0-9-]+", "-", label).strip("-").lower() for label in digests}
    return told_apart({label: shortened(name) for label, name in plain.items()}, digests)


def _drawn(figures: Sequence[Figure]) -> Iterator[list[Path] | str]:
    """Draws figures in their order, many of them in several processes: one takes half a second."""
    num_processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0)), len(figures) // MANY)
    if num_processes < 2:
        yield from map(_draw, figures)
        return
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        yield from pool.map(_draw, figures)


def _draw(figure: Figure) -> list[Path] | str:
    return figure[1]()


def _kept(written: list[Path] | str, figure: Figure) -> list[Path]:
    if isinstance(written, str):
        print(f"no figure {figure[0].stem}: {written}", file=sys.stderr)
        return []
    return written


def _styles(block: pd.DataFrame) -> dict[str, Style]:
    return styles(zip(block["method"], block["label"], strict=True))


def _memory(block: pd.DataFrame, path: Path) -> list[Path] | str:
    """Peak memory over resolution."""
    points = pd.DataFrame(
        {
            **{name: row[name] for name in ("method", "label", "resolution", "attention")},
            **{"phase": phase, "source": source, "status": row["state"]},
            "peak_allocated_bytes": row[f"{source}_{part}_bytes"],
        }
        for _, row in block.iterrows()
        for phase, part in ((WHOLE_RUN, "whole"), ("train", "train"))
        for source in ("measured", "predicted")
    )
    if not points["peak_allocated_bytes"].notna().any():
        return "no run has a GPU memory, measured or predicted"
    all_predicted = not (points["source"] == "measured")[points["peak_allocated_bytes"].notna()].any()
    what = f"Peak allocated GPU memory of the whole run{', predicted, not measured' if all_predicted else ''}."
    return draw_memory([("", points)], path, title(block), figure_caption(block, what))


def _auc_over_memory(block: pd.DataFrame, path: Path) -> list[Path] | str:
    """AUC over memory, one panel a resolution, with the front of the methods that no other beats in both."""
    rows = block[block["auc_mean"].notna() & block["memory_bytes"].notna()]
    if rows.empty:
        return "no finished run has both an AUC and a GPU memory"
    panels = [(f"{resolution} px", group) for resolution, group in rows.groupby("resolution")]
    style = _styles(rows)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(RC):
        many = len(style) > MANY_LABELS
        size = (COLUMN if columns == 1 else PAGE, (2.8 if many else 2.1) * lines)
        figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, sharex=True, squeeze=False)
        fronts = [_draw_front(axes, group) for axes, (_, group) in zip(grid.flat, panels, strict=False)]
        for axes, front, (name, group) in zip(grid.flat, fronts, panels, strict=False):
            named = _named(group, front) if many else group
            rest = group.drop(named.index)
            draw_grey_points(axes, rest["memory_bytes"], 100 * rest["auc_mean"])
            for _, row in named.iterrows():
                _draw_method(axes, row, style[row["label"]])
            axes.set_title(name, loc="left")
            axes.set_xlabel("Peak GPU memory of the whole run (log)")
            axes.tick_params(labelbottom=True)
        training = pd.Series([_training_alone(row) for _, row in rows.iterrows()], dtype="float64")
        memory_axis(grid[0, 0], "x", pd.concat([rows["memory_bytes"], training.dropna()]), num_ticks=5)
        for axes in grid[:, 0]:
            axes.set_ylabel("Test AUC (%)")
        for axes, front, (_, group) in zip(grid.flat, fronts if many else (), panels, strict=False):
            rows_named = _named(group, front)
            places = zip(rows_named["label"], rows_named["memory_bytes"], 100 * rows_named["auc_mean"], strict=True)
            name_points(axes, [(label, x, y, style[label]) for label, x, y in places])
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        predicted = (rows["memory_source"] == "predicted").all()
        what = f"{spread(block)}; memory: peak allocated in the whole run{', predicted' if predicted else ''}."
        what += " Named: the front and full fine-tuning; small and grey: what something beats in both." * many
        handles = [] if many else [legend_handle(label, look) for label, look in style.items()]
        notes = [
            Line2D([], [], color="0.6", linewidth=0.9, label="Pareto front"),
            *source_handles(rows["memory_source"]),
        ]
        notes += [training_handle()] * bool(training.notna().any())
        paths = finish(figure, path, title(block), figure_caption(block, what), handles, notes)
        plt.close(figure)
    return paths


def _named(rows: pd.DataFrame, front: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """The rows of many that stand on the front, and those of full fine-tuning."""
    places = zip(rows["memory_bytes"], rows["auc_mean"], strict=True)
    on_front = pd.Series([(float(x), float(y)) in front for x, y in places], index=rows.index)
    return rows[(on_front & rows["complete"]) | (rows["method"] == "full")]


def _training_alone(row: pd.Series) -> float | None:
    """Memory of training, of the source of the whole run's, where the run needs more than that."""
    training = row[f"{row['memory_source']}_train_bytes"]
    return None if pd.isna(training) or training >= row["memory_bytes"] else float(training)


def _draw_method(axes: Axes, row: pd.Series, look: Style) -> None:
    """A method's AUC at the memory of the whole run, joined with a lighter mark at that of training."""
    fill, training = row["memory_source"] == "measured", _training_alone(row)
    if training is not None:
        draw_training(axes, (row["memory_bytes"], training), [100 * row["auc_mean"]] * 2, look, fill=fill)
    draw_points(axes, row["memory_bytes"], 100 * row["auc_mean"], look, yerr=_error(row), fill=fill)
    mark_points(axes, [row["memory_bytes"]], [100 * row["auc_mean"]], [auc_marks(row)], look)


def _auc_over_resolution(block: pd.DataFrame, path: Path) -> list[Path] | str:
    """AUC over resolution, or method by method where there is one resolution only."""
    rows = block[block["auc_mean"].notna()]
    if rows.empty:
        return "no finished run has an AUC"
    style = _styles(rows)
    single = rows["resolution"].nunique() == 1
    named = set(style) if single else few_of_many(rows, "auc_mean", 1)
    num_grey = len(style) - len(named)
    with matplotlib.rc_context(RC):
        figure, axes = plt.subplots(figsize=(COLUMN, 0.5 + 0.19 * len(style) if single else 2.4))
        if single:
            for _, row in rows.iterrows():
                place = list(style).index(row["label"])
                draw_points(axes, 100 * row["auc_mean"], place, style[row["label"]], xerr=_error(row))
                mark_points(axes, [100 * row["auc_mean"]], [place], [auc_marks(row)], style[row["label"]])
            method_axis(axes, list(style))
            axes.margins(x=0.1)
            axes.set_xlabel(f"Test AUC (%) at {rows['resolution'].iloc[0]} px")
        else:
            for _, line in rows[~rows["label"].isin(named)].sort_values("resolution").groupby("label"):
                draw_grey_line(axes, line["resolution"], 100 * line["auc_mean"])
            style = {label: look for label, look in style.items() if label in named}
            _draw_lines(axes, rows, style)
            resolution_axis(axes, rows["resolution"])
            axes.set_ylabel("Test AUC (%)")
        handles = [] if single else [legend_handle(label, look, look.dashes) for label, look in style.items()]
        handles += [grey_handle(num_grey)] * bool(num_grey)
        what = f"{spread(block)}.{said_of_few(num_grey, OF_EACH_IDEA.format('best'))}"
        paths = finish(figure, path, title(block), figure_caption(block, what), handles)
        plt.close(figure)
    return paths


def _draw_lines(axes: Axes, rows: pd.DataFrame, style: dict[str, Style]) -> None:
    # With error bars, methods stand side by side, so that one bar does not hide another.
    apart = 0.05 / len(style) if rows["auc_sd"].notna().any() else 0
    for i, (label, look) in enumerate(style.items()):
        line = rows[rows["label"] == label].sort_values("resolution")
        x = line["resolution"] * (1 + apart * (i - (len(style) - 1) / 2))
        error = 100 * line["auc_sd"] if line["auc_sd"].notna().any() else None
        draw_points(axes, x, 100 * line["auc_mean"], look, yerr=error, dashes=look.dashes)
        mark_points(axes, x, 100 * line["auc_mean"], [auc_marks(row) for _, row in line.iterrows()], look)


def _error(row: pd.Series) -> float | None:
    return None if pd.isna(row["auc_sd"]) else 100 * row["auc_sd"]


def _draw_front(axes: Axes, rows: pd.DataFrame) -> list[tuple[float, float]]:
    """The Pareto front: each step is a method with a higher AUC than every other that needs no more memory.

    Returns:
        Memory and AUC of each step.
    """
    complete = rows[rows["complete"]]
    if complete.empty:
        return []
    # A front across measured and predicted memory would compare what cannot be compared.
    source = "measured" if (complete["memory_source"] == "measured").any() else "predicted"
    rivals = complete[complete["memory_source"] == source]
    front = pareto_front(rivals["memory_bytes"].to_list(), rivals["auc_mean"].to_list())
    x = [memory for memory, _ in front] + [rows["memory_bytes"].max() * 1.6]
    y = [100 * auc for _, auc in front] + [100 * front[-1][1]]
    axes.step(x, y, where="post", color="0.6", linewidth=0.9, zorder=1)
    return front


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[tuple[float, float]]:
    """The (cost, gain) pairs that no other pair matches at lower cost or at higher gain, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(zip(costs, gains, strict=True), key=lambda pair: (pair[0], -pair[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front
