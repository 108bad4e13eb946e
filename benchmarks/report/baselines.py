"""Rows of a table that no run stands behind: what answers that ignore the image would score."""

from typing import Any

import pandas as pd

from benchmarks.analysis.ensembles import ENSEMBLE
from benchmarks.records.frame import PROTOCOL

BASELINE = "baseline"  # the state of these rows
APART = (BASELINE, ENSEMBLE)  # states of rows that are no method's
_PLACE = ["block", "dataset_label", "resolution"]
_SHARED = (*_PLACE, *PROTOCOL, "synthetic", "device_type", "majority_share", "num_classes")


def of_methods(table: pd.DataFrame) -> pd.Series:
    """Of each row whether it is a method's: neither a baseline nor an ensemble."""
    return ~table["state"].isin(APART)


def add_baselines(table: pd.DataFrame) -> pd.DataFrame:
    """A summary with two rows more for each block, dataset and resolution whose test counts are known.

    `majority` always answers the largest class of the test split, `chance` each class alike; both have the state
    `baseline`, the AUC of every answer that ignores the image, and no costs. Nothing ranks them.
    """
    parts = []
    for _, group in table.groupby(_PLACE, sort=False, dropna=False):
        parts.append(group.astype("object"))
        known = group.dropna(subset=["majority_share", "num_classes"])
        if len(known):
            kappas = [name for name in ("kappa_mean", "quadratic_kappa_mean") if group[name].notna().any()]
            parts.append(pd.DataFrame(_baselines(known.iloc[0], kappas), columns=table.columns, dtype="object"))
    return pd.concat(parts, ignore_index=True)


def _baselines(row: pd.Series, kappas: list[str]) -> list[dict[str, Any]]:
    one_of_classes = 1 / int(row["num_classes"])
    same = {name: row[name] for name in row.index if name in _SHARED or str(name).startswith("dataset")}
    same |= {name: 0 for name in row.index if str(name).startswith("seeds_")}
    same |= {"state": BASELINE, "complete": False, "auc_mean": 0.5, "balanced_accuracy_mean": one_of_classes}
    same |= dict.fromkeys(kappas, 0.0)
    return [
        same | {"method": method, "label": label, "accuracy_mean": accuracy, "fallback": False}
        for method, label, accuracy in (
            ("majority", "Majority class (baseline)", row["majority_share"]),
            ("chance", "Chance (baseline)", one_of_classes),
        )
    ]
