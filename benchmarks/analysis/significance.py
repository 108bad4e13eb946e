"""What a summary of cells gains from per-image predictions: intervals, comparisons with full and best."""

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.analysis.comparison import Cell, Interval, SameImages, best_p, between
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.summary import highest

REFERENCES = ("full", "best")
_PLACE = ["block", "dataset_label", "resolution"]
_AUC = ("auc_low", "auc_high", "auc_se_images", "auc_se_seeds")
_FULL = ("change", "low", "high", "p", "seeds", "wins", "wins_low", "wins_high")
_BEST = ("change", "p", "seeds")


def add_significance(table: pd.DataFrame, evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """A summary with intervals of AUC and comparisons.

    Args:
        table: as `summary.summary` gives it.
        evidence: by run id, as `evidence.load_evidence` gives it.

    Returns:
        The table with auc_low, auc_high (95 % interval of auc_mean, over images and seeds), auc_se_images, auc_se_seeds
        (its standard error by source; of one seed nothing is known of the second), auc_unit (`image` or `group`: what
        was drawn), auc_num_units, auc_fewest_units (of the rarest class); is_{full,best}: whether the cell is full
        fine-tuning, among its variants the one with the highest validation AUC, or the one with the highest AUC.
        Of complete cells, within the same block, dataset and resolution:
        vs_full_change (AUC less that of full fine-tuning), _low, _high and _p (both together for all methods there,
        by Bonferroni: the one primary family), _seeds (that both have; with one, this is of two trained models),
        _wins, _wins_low, _wins_high (the probability that a new training beats one of full fine-tuning);
        vs_best_change, vs_best_p (that the cell is as good as every other, see `comparison.best_p`), vs_best_seeds.
        What cannot be known, for want of predictions, is missing.
    """
    columns: list[dict[str, Any]] = [{} for _ in range(len(table))]
    for _, group in table.reset_index(drop=True).groupby(_PLACE, sort=False, dropna=False):
        _add_place(group, evidence, columns)
    names = [*_AUC, "auc_unit", "auc_num_units", "auc_fewest_units", *(f"is_{name}" for name in REFERENCES)]
    names += [*(f"vs_full_{key}" for key in _FULL), *(f"vs_best_{key}" for key in _BEST)]
    gained = pd.DataFrame(columns, columns=names, index=table.index)
    whole = ["auc_num_units", "auc_fewest_units", "vs_full_seeds", "vs_best_seeds"]
    return pd.concat([table, gained.astype(dict.fromkeys(whole, "Int64"))], axis=1)


def _add_place(group: pd.DataFrame, evidence: Mapping[str, Evidence], columns: list[dict[str, Any]]) -> None:
    """The columns of the cells of one dataset and resolution."""
    cells = {i: cell for i in group.index if (cell := cell_evidence(group.loc[i], evidence))}
    finished = group[group["auc_mean"].notna() & group["complete"]]
    chosen = {
        "full": highest(finished[finished["method"] == "full"], "val_auc_mean"),
        "best": highest(finished, "auc_mean"),
    }
    for i, (name, reference) in itertools.product(group.index, chosen.items()):
        columns[i][f"is_{name}"] = i == reference
    by_images: dict[str, list[int]] = {}
    for i, cell in cells.items():
        by_images.setdefault(next(iter(cell.values())).images, []).append(i)
    for members in by_images.values():
        tested = SameImages([cells[i] for i in members])
        for i, found in zip(members, tested.intervals(), strict=True):
            columns[i] |= _interval(found, cells[i], tested.fewest)
        complete = {i: number for number, i in enumerate(members) if i in finished.index}
        _compare(complete, tested, chosen, columns)


def cell_evidence(row: pd.Series, evidence: Mapping[str, Evidence]) -> Cell:
    """The evidence of a cell's averaged runs by seed; empty where one has none, or other images than another."""
    runs = list(zip(str(row["run_seeds"]).split(), str(row["run_ids"]).split(), strict=True))
    known = {int(seed): evidence[run_id] for seed, run_id in runs if run_id in evidence}
    alike = len(known) == len(runs) and len({found.images for found in known.values()}) == 1
    return known if alike else {}


def _interval(found: Interval | None, cell: Cell, fewest: int) -> dict[str, Any]:
    run = next(iter(cell.values()))
    units = {"auc_unit": run.unit, "auc_num_units": len(run.influence), "auc_fewest_units": fewest}
    return units | (dict(zip(_AUC, found, strict=True)) if found else {})


def _compare(
    complete: Mapping[int, int], tested: SameImages, chosen: Mapping[str, int | None], columns: list[dict[str, Any]]
) -> None:
    """Compares complete cells, each with its number in `tested`, with full fine-tuning and with the best."""
    references = {name: complete[i] for name, i in chosen.items() if i is not None and i in complete}
    if not references:
        return
    # Simultaneous intervals: together they hold at 95 %, so that one excludes 0 exactly where its p is under 0.05.
    num_others = max(len(complete) - 1, 1)
    pairs = list(itertools.combinations(complete.values(), 2))
    compared = dict(zip(pairs, tested.compare(pairs, LEVEL / num_others), strict=True))
    p_of_best = best_p(compared, list(complete.values()))
    for i, number in complete.items():
        to = {name: between(compared, number, reference) for name, reference in references.items()}
        if full := to.get("full"):
            values = full._replace(p=min(1.0, num_others * full.p))
            columns[i] |= {f"vs_full_{key}": value for key, value in zip(_FULL, values, strict=True)}
        if (best := to.get("best")) and number in p_of_best:
            best_values = (best.change, p_of_best[number], best.num_seeds)
            columns[i] |= {f"vs_best_{key}": value for key, value in zip(_BEST, best_values, strict=True)}
