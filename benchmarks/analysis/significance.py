"""What a summary of cells gains from per-image probabilities: intervals, comparisons with full and best."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.analysis.auc_resamples import Evidence, average, compare, interval
from benchmarks.analysis.statistics import holm

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
