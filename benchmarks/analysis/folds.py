"""Cross-validation: runs on the folds that `bench.py split --folds` made, as one run on all their test images.

Every patient is tested in one fold. AUCs are averaged over folds, not made of pooled scores: models of different folds
need not give the same scores the same meaning, and pooling would rank images of one against those of another.

Source: Parker, Günter, Bedo, BMC Bioinformatics 8 (2007), 326; Forman, Scholz, SIGKDD Explorations 12 (2010), 49-57.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.analysis.evidence import Evidence
from benchmarks.records.frame import PROTOCOL

_FOLD = r"^(?P<family>.+)-fold(?P<fold>\d+)$"  # of a dataset's name, as `split` gives it
_SCORES = ("auc", "accuracy", "balanced_accuracy", "macro_f1", "kappa", "quadratic_kappa", "mae", "loss", "val_auc")


def fold_evidence(runs: Sequence[Evidence]) -> Evidence:
    """The evidence of a mean over folds, whose test images are other patients'.

    The mean's variance over patients is that of means of independent AUCs, so each patient counts by his influence on
    the AUC of his fold, over the number of folds. It is that of these trained models: trainings share most of their
    patients, for which no estimate of a variance is unbiased.

    Source: Bengio, Grandvalet, JMLR 5 (2004), 1089-1105; LeDell, Petersen, van der Laan, Electronic Journal of
    Statistics 9 (2015), 1583-1607.
    """
    return Evidence(
        images=hashlib.sha256(" ".join(run.images for run in runs).encode()).hexdigest(),
        unit="group" if any(run.unit == "group" for run in runs) else "image",
        auc=float(np.mean([run.auc for run in runs])),
        influence=np.concatenate([run.influence for run in runs]) / len(runs),
        design_effect=float(np.mean([run.design_effect for run in runs])),
        class_images=np.sum([run.class_images for run in runs], axis=0),
        class_units=np.sum([run.class_units for run in runs], axis=0),
        classes=runs[0].classes,
        confusion=np.sum([run.confusion for run in runs], axis=0),
        num_parts=runs[0].num_parts,
    )


def folds_together(
    frame: pd.DataFrame, evidence: Mapping[str, Evidence]
) -> tuple[pd.DataFrame, dict[str, Evidence], list[str]]:
    """Runs on folds as runs on all of them: a row for each method, protocol, resolution and seed.

    Args:
        frame: As `records.runs_frame` gives it.
        evidence: Of its runs by id.

    Returns:
        The runs, their scores and memory averaged over folds; their evidence, where all folds have it; and a line for
        each that lacks a fold which others of its dataset have, and so is left out. A run of which a fold did not
        finish has that fold's state.
    """
    names = frame["dataset"].astype(str).str.extract(_FOLD)
    runs = frame.assign(family=names["family"], fold=pd.to_numeric(names["fold"]))[names["fold"].notna()]
    rows: list[dict[str, Any]] = []
    found: dict[str, Evidence] = {}
    problems = []
    for family, members in runs.groupby("family", sort=True):
        known = sorted(members["fold"].unique())
        digest = hashlib.sha256(" ".join(sorted(members["dataset_digest"].astype(str).unique())).encode()).hexdigest()
        place = [*PROTOCOL, "method", "variant", "resolution", "seed"]
        for _, group in members.groupby(place, dropna=False, sort=False):
            ordered = group.sort_values("fold")
            first = ordered.iloc[0]
            if ordered["fold"].tolist() != known:
                lacking = ", ".join(f"{fold:.0f}" for fold in known if fold not in set(ordered["fold"])) or "none"
                problems.append(
                    f"runs must be one on each fold of {family} to be averaged, got {first['method']} at "
                    f"{first['resolution']} px with seed {first['seed']} on {len(ordered)} (lacking: {lacking}): run "
                    "it on the others too"
                )
                continue
            rows.append(_row(ordered) | {"dataset": str(family), "dataset_digest": digest})
            theirs = [evidence[run_id] for run_id in ordered["run_id"] if run_id in evidence]
            if len(theirs) == len(ordered) and len({one.classes for one in theirs}) == 1:  # the same findings scored
                found[rows[-1]["run_id"]] = fold_evidence(theirs)
    return pd.DataFrame(rows, columns=list(frame)).astype(frame.dtypes.to_dict()), found, problems


def _row(folds: pd.DataFrame) -> dict[str, Any]:
    bad = folds[folds["state"] != "ok"]
    first = (folds if bad.empty else bad).iloc[0].drop(["family", "fold"])
    row: dict[str, Any] = {str(name): value for name, value in first.items()}
    title = f"{folds['family'].iloc[0]}, {len(folds)} folds"
    row |= {"run_id": "+".join(folds["run_id"]), "dataset_title": title}
    for name in row:
        if bad.empty and (name in _SCORES or name.startswith("seconds_")):
            row[name] = folds[name].mean()
        elif name.endswith("_bytes"):
            row[name] = folds[name].max()
    return row
