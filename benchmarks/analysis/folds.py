"""Cross-validation: runs on the folds that `bench.py split --folds` made, as one run on all their test images.

Every patient is tested in one fold. AUCs and other scores are averaged over folds, not made of pooled scores: models of
different folds need not give the same scores the same meaning, and pooling would rank images of one against those of
another.

Source: Parker, Günter, Bedo, BMC Bioinformatics 8 (2007), 326; Forman, Scholz, SIGKDD Explorations 12 (2010), 49-57.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.run_scores import RunScores
from benchmarks.analysis.subgroups import ALL_SCORES, GroupScores, RunGroups
from benchmarks.choices import FEW_UNITS
from benchmarks.records.frame import PROTOCOL

Part = TypeVar("Part")

_FOLD = r"^(?P<family>.+)-fold(?P<fold>\d+)$"  # of a dataset's name, as `split` gives it
_SCORES = ("auc", "accuracy", "balanced_accuracy", "macro_f1", "kappa", "quadratic_kappa", "mae", "loss", "val_auc")


class FoldRuns(NamedTuple):
    """Runs on folds as runs on all of them: a row for each method, protocol, resolution and seed.

    frame: they, as `records.runs_frame` gives runs: scores and times averaged, memory the most. evidence: by their ids,
    where all folds have it. members: the runs of the folds of each that has evidence, by id. problems: a line for each
    that lacks a fold which others of its dataset have, and so is left out.
    """

    frame: pd.DataFrame
    evidence: dict[str, Evidence]
    members: dict[str, list[str]]
    problems: list[str]

    def averaged(self, found: Mapping[str, Part], mean: Callable[[Sequence[Part]], Part]) -> dict[str, Part]:
        """What runs on single folds have, by id, averaged: of the runs of which all folds have it."""
        return {
            run_id: mean([found[member] for member in members])
            for run_id, members in self.members.items()
            if all(member in found for member in members)
        }


def fold_scores(runs: Sequence[RunScores]) -> RunScores:
    """The scores of a mean over folds, in resamples of each fold's patients apart from those of the others."""
    return RunScores(
        images=_digest([run.images for run in runs]),
        values=np.mean([run.values for run in runs], axis=0),
        resampled=np.mean([run.resampled for run in runs], axis=0),
        temperature=float(np.mean([run.temperature for run in runs])),
        fewest=sum(run.fewest for run in runs),
        num_classes=runs[0].num_classes,
    )


def fold_groups(runs: Sequence[RunGroups]) -> RunGroups:
    """Subgroups over folds, likewise: one is scored that is large enough in each fold."""
    nothing = np.full(len(ALL_SCORES), np.nan)
    absent = GroupScores(0, 0, 0, nothing, nothing.astype(np.float32)[None])
    groups = {}
    for value in sorted({value for run in runs for value in run.groups}):
        parts = [run.groups.get(value, absent) for run in runs]
        smallest = min(part.fewest for part in parts)
        enough = smallest >= FEW_UNITS
        groups[value] = GroupScores(
            num_images=sum(part.num_images for part in parts),
            fewest=sum(part.fewest for part in parts) if enough else smallest,
            num_classes=max(part.num_classes for part in parts),
            values=np.mean([part.values for part in parts], axis=0) if enough else nothing,
            resampled=np.mean([part.resampled for part in parts], axis=0) if enough else absent.resampled,
        )
    return RunGroups(_digest([run.images for run in runs]), groups)


def _digest(images: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(images).encode()).hexdigest()


def fold_evidence(runs: Sequence[Evidence]) -> Evidence:
    """The evidence of a mean over folds, whose test images are other patients'.

    The mean's variance over patients is that of means of independent AUCs, so each patient counts by his influence on
    the AUC of his fold, over the number of folds. It is that of these trained models: trainings share most of their
    patients, for which no estimate of a variance is unbiased.

    Source: Bengio, Grandvalet, JMLR 5 (2004), 1089-1105; LeDell, Petersen, van der Laan, Electronic Journal of
    Statistics 9 (2015), 1583-1607.
    """
    return Evidence(
        images=_digest([run.images for run in runs]),
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


def folds_together(frame: pd.DataFrame, evidence: Mapping[str, Evidence]) -> FoldRuns:
    """Runs on folds as runs on all of them. A run of which a fold did not finish has that fold's state.

    Args:
        frame: As `records.runs_frame` gives it.
        evidence: Of its runs by id.
    """
    names = frame["dataset"].astype(str).str.extract(_FOLD)
    runs = frame.assign(family=names["family"], fold=pd.to_numeric(names["fold"]))[names["fold"].notna()]
    rows: list[dict[str, Any]] = []
    found: dict[str, Evidence] = {}
    parts: dict[str, list[str]] = {}
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
                parts[rows[-1]["run_id"]] = ordered["run_id"].tolist()
    averaged = pd.DataFrame(rows, columns=list(frame)).astype(frame.dtypes.to_dict())
    return FoldRuns(averaged, found, parts, problems)


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
