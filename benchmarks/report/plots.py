"""Figures of stored results: memory by resolution, AUC over memory, AUC by resolution and by labels, ranks, options."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.headline import load_wanted, with_scores
from benchmarks.analysis.label_curves import label_curves
from benchmarks.analysis.ranks import Ranking, compare_over_datasets
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import blocks, summary
from benchmarks.choices import one_of
from benchmarks.environment import num_cores
from benchmarks.names import shortened
from benchmarks.records.whole_run import WHOLE_RUN
from benchmarks.report.auc_plot import plot_auc
from benchmarks.report.captions import title, told_apart
from benchmarks.report.figure_captions import figure_caption
from benchmarks.report.labels_plot import plot_labels
from benchmarks.report.memory_plot import draw_memory
from benchmarks.report.option_plot import option_series, plot_options
from benchmarks.report.rank_captions import unranked
from benchmarks.report.rank_plot import plot_ranks
from benchmarks.report.robustness import load_robustness
from benchmarks.report.robustness_plot import plot_robustness
from benchmarks.report.style import Style, styles
from benchmarks.report.trade_off_plot import plot_trade_off

NO_EVIDENCE: Mapping[str, Evidence] = MappingProxyType({})
MANY = 6  # figures for each process: it takes a second to start
MOST_PROCESSES = 4  # each takes a quarter of a gigabyte


def write_plots(
    results: Path,
    frame: pd.DataFrame,
    evidence: Mapping[str, Evidence] = NO_EVIDENCE,
    mix_code: bool = False,
    option: str | None = None,
) -> list[Path]:
    """Write the figures of every dataset and protocol to `results/plots`, each as png and pdf.

    The names are `<figure>_<dataset>_<protocol>`, the protocol as the tables name it, that of the most labels where
    a figure is over numbers of labels; the ranks of methods over the
    datasets of a protocol at one resolution are `ranks_<protocol>_<resolution>`; AUC on corrupted images
    `robustness_<dataset>_<protocol>_<resolution>_<digest of the images>`; the options in which runs of a method
    differ one at a time `options-<method>_<dataset>_<protocol>`, with the option behind the method where it is asked
    for alone. A figure for which there is nothing to draw is named on stderr with the reason.

    Args:
        results: the results root.
        frame: the runs to show, as `records.runs_frame` gives them.
        evidence: their probabilities, as `evidence.load_evidence` gives them; a run without has no whiskers.
        mix_code: whether to average runs that different code has trained.
        option: of a method; its figures alone are drawn, with this option alone.

    Raises:
        UserError: no runs differ in that option alone.
        MachineError: the folder cannot be written.
    """
    table, folder = summary(frame, mix_code), results / "plots"
    if len(table):
        table = with_scores(add_significance(table, evidence), load_wanted(results, frame))
    looks = styles(zip(table["method"], table["label"], strict=True)) if len(table) else {}
    figures = [*_option_figures(folder, table, looks, option)]
    if option is None:
        labels = _label_figures(folder, table, evidence)
        corrupted = _robustness_figures(folder, load_robustness(results, frame, table)[0], looks)
        ranks = _rank_figures(folder, table)
        figures = [*_block_figures(folder, table, looks), *labels, *ranks, *corrupted, *figures]
    return [path for figure, written in zip(figures, _drawn(figures), strict=True) for path in _kept(written, figure)]


Figure = tuple[Path, Callable[[], list[Path] | str]]  # where it goes, and what draws it, or says why there is none


def _block_figures(folder: Path, table: pd.DataFrame, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """The figures of each dataset and protocol."""
    draws = {"memory": _memory, "auc-over-memory": plot_trade_off, "auc-over-resolution": plot_auc}
    places = _places(table)
    for block in blocks(table):
        place = places[block["dataset_label"].iloc[0]]
        for name, draw in draws.items():
            path = folder / f"{name}_{place}_{block['block'].iloc[0]}.png"
            yield path, partial(draw, block, _of(block, looks), path)


def _label_figures(folder: Path, table: pd.DataFrame, evidence: Mapping[str, Evidence]) -> Iterator[Figure]:
    """The figures of methods over the number of training labels, under the protocol of their largest number."""
    places = _places(table)
    for curves in label_curves(table):
        last = curves.rows.sort_values("num_train").iloc[-1]
        name = "auc-over-labels-steps" if curves.keep_steps else "auc-over-labels"
        path = folder / f"{name}_{places[last['dataset_label']]}_{last['block']}.png"
        needed = {run_id for run_ids in curves.rows["run_ids"] for run_id in str(run_ids).split()}
        yield path, partial(plot_labels, curves, {name: evidence[name] for name in needed & evidence.keys()}, path)


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


def _option_figures(
    folder: Path, table: pd.DataFrame, looks: Mapping[str, Style], only: str | None
) -> Iterator[Figure]:
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
            path = folder / f"{names}_{places[first['dataset_label']]}_{first['block']}.png"
            yield path, partial(plot_options, cells, drawn, looks[first["label"]], path)


def _robustness_figures(folder: Path, rows: pd.DataFrame, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """The figures of corrupted images, one for each dataset, protocol, resolution and set of images."""
    places = _places(rows)
    for block in blocks(rows):
        for (resolution, digest), part in block.groupby(["resolution", "data_digest"], sort=True):
            names = [places[block["dataset_label"].iloc[0]], block["block"].iloc[0], str(resolution), f"{digest:.6}"]
            path = folder / f"{'_'.join(['robustness', *names])}.png"
            yield path, partial(plot_robustness, part, _of(part, looks), path)


def _of(rows: pd.DataFrame, looks: Mapping[str, Style]) -> dict[str, Style]:
    """The styles of rows alone, in their order among all."""
    there = set(rows["label"])
    return {label: look for label, look in looks.items() if label in there}


def _places(table: pd.DataFrame) -> dict[str, str]:
    """What stands for each dataset, by its label, in names of files."""
    digests = dict(zip(table["dataset_label"], table["dataset_digest"].astype(str), strict=True)) if len(table) else {}
    plain = {label: re.sub(r"[^A-Za-z0-9-]+", "-", label).strip("-").lower() for label in digests}
    return told_apart({label: shortened(name) for label, name in plain.items()}, digests)


def _drawn(figures: Sequence[Figure]) -> Iterator[list[Path] | str]:
    """Draws figures in their order, many of them in several processes: one takes half a second."""
    num_processes = min(MOST_PROCESSES, num_cores(), len(figures) // MANY)
    if num_processes < 2:
        yield from map(_draw, figures)
        return
    with ProcessPoolExecutor(num_processes - 1, get_context("spawn")) as pool:
        begun = [pool.submit(_draw, figure) for figure in figures]
        # This process takes from the other end what none has begun: it has imported all that drawing needs.
        own = {i: _draw(figures[i]) for i in reversed(range(len(figures))) if begun[i].cancel()}
        yield from (own[i] if i in own else begun[i].result() for i in range(len(figures)))


def _draw(figure: Figure) -> list[Path] | str:
    return figure[1]()


def _kept(written: list[Path] | str, figure: Figure) -> list[Path]:
    if isinstance(written, str):
        print(f"no figure {figure[0].stem}: {written}", file=sys.stderr)
        return []
    return written


def _memory(block: pd.DataFrame, looks: Mapping[str, Style], path: Path) -> list[Path] | str:
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
    return draw_memory([("", points)], path, title(block), figure_caption(block, what, of_auc=False), looks)
