"""What a summary of cells gains from per-image probabilities: intervals, comparisons with full and best, ranks."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.analysis.auc_resamples import Evidence, average, compare, interval
from benchmarks.analysis.statistics import average_ranks, critical_difference, friedman_p, holm
from benchmarks.analysis.summary import across_datasets, method_rank

LEVEL = 0.05
REFERENCES = ("full", "best")
_PLACE = ["block", "dataset_label", "resolution"]
_COMPARISON = ("change", "low", "high", "p", "p_holm", "test")


def add_significance(table: pd.DataFrame, evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """A summary with intervals of AUC and comparisons.

    Args:
        table: as `summary.summary` gives it.
        evidence: by run id, as `evidence.load_evidence` gives it.

    Returns:
        The table with auc_low, auc_high (95 % percentile bootstrap of auc_mean), auc_unit (`image` or `group`: what was
        drawn), auc_num_units; and for full fine-tuning and for the cell of the highest AUC, within the same block,
        dataset and resolution, vs_{full,best}_change (AUC less that one's), _low, _high, _p, _p_holm (corrected over
        the comparisons with that one in that resolution), _test, and is_{full,best}: whether the cell is that one.
        Among variants of full fine-tuning the one with the highest validation AUC stands for it. What cannot be known,
        for want of probabilities, is missing.
    """
    cells = [average([evidence.get(run_id) for run_id in str(ids).split()]) for ids in table["run_ids"]]
    columns: list[dict[str, Any]] = [_interval(cell) for cell in cells]
    for _, group in table.reset_index(drop=True).groupby(_PLACE, sort=False, dropna=False):
        finished = group[group["auc_mean"].notna()]
        full = finished[finished["method"] == "full"]
        chosen = {"full": _highest(full, "val_auc_mean"), "best": _highest(finished, "auc_mean")}
        for name, reference in chosen.items():
            for i in group.index:
                columns[i][f"is_{name}"] = i == reference
            others = [i for i in finished.index if i != reference] if reference is not None else []
            found = {i: compare(cells[i], cells[reference]) for i in others if reference is not None}
            known = {i: comparison for i, comparison in found.items() if comparison is not None}
            corrected = holm([comparison.p for comparison in known.values()])
            for (i, comparison), p_holm in zip(known.items(), corrected, strict=True):
                values = (*comparison[:4], p_holm, comparison.test)
                columns[i] |= {f"vs_{name}_{key}": value for key, value in zip(_COMPARISON, values, strict=True)}
    names = ["auc_low", "auc_high", "auc_unit", "auc_num_units"]
    names += [f"is_{name}" for name in REFERENCES]
    names += [f"vs_{name}_{key}" for name in REFERENCES for key in _COMPARISON]
    gained = pd.DataFrame(columns, columns=names, index=table.index)
    gained["auc_num_units"] = gained["auc_num_units"].astype("Int64")
    return pd.concat([table, gained], axis=1)


def _interval(cell: Evidence | None) -> dict[str, Any]:
    ends = interval(cell) if cell else None
    if cell is None or ends is None:
        return {}
    return {"auc_low": ends[0], "auc_high": ends[1], "auc_unit": cell.unit, "auc_num_units": cell.num_units}


def _highest(rows: pd.DataFrame, column: str) -> int | None:
    if rows.empty:
        return None
    return int(rows.index.to_list()[int(rows[column].fillna(-1).to_numpy().argmax())])


class Ranking(NamedTuple):
    """Average ranks of the methods of one protocol.

    methods, labels: of each method, by rising rank; ranks: their average ranks, 1 the best; rows: the (dataset,
    resolution) over which they run; left_out: those that lack a method; critical: Nemenyi's critical difference at
    0.05; p: of Friedman's test.
    """

    methods: list[str]
    labels: list[str]
    ranks: list[float]
    rows: list[tuple[str, int]]
    left_out: list[tuple[str, int]]
    critical: float
    p: float


def ranking(table: pd.DataFrame) -> Ranking | str:
    """Ranks the methods of one protocol by AUC in each dataset and resolution, and averages the ranks.

    Args:
        table: the rows of one block of a summary, all its datasets.

    Returns:
        The ranking over the datasets and resolutions in which every method has an AUC, or why there is none.
    """
    table = table.assign(label=across_datasets(table))
    scores = table.pivot_table("auc_mean", ["dataset_label", "resolution"], ["method", "label"], sort=False)
    complete = scores.dropna()
    if scores.shape[1] < 3:
        return f"ranks need three methods, there are {scores.shape[1]}"
    if len(complete) < 2:
        return f"ranks need two datasets or resolutions in which every method has an AUC, there are {len(complete)}"
    values = complete.to_numpy(dtype=np.float64)
    ranks = average_ranks(values)
    pairs = [(str(column[0]), str(column[1])) for column in scores.columns.to_list()]
    order = sorted(range(len(pairs)), key=lambda i: (ranks[i], method_rank(pairs[i][0]), pairs[i][1]))
    rows, used = ([(str(row[0]), int(row[1])) for row in frame.index.to_list()] for frame in (scores, complete))
    return Ranking(
        methods=[pairs[i][0] for i in order],
        labels=[pairs[i][1] for i in order],
        ranks=[float(ranks[i]) for i in order],
        rows=used,
        left_out=[row for row in rows if row not in used],
        critical=critical_difference(len(pairs), len(used), LEVEL),
        p=friedman_p(values),
    )
