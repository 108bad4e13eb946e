"""Trained models on corrupted images: what they lose to clean ones, by corruption and severity.

The clean images are the same, so a drop is a paired difference over images as well as over seeds; that of a mean over
severities is the mean of these, image by image, as AUCs are means of what images contribute (`influence`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.analysis.comparison import SameImages
from benchmarks.analysis.evaluations import data_labels
from benchmarks.analysis.evidence import Evidence, evidence_of, ranked_by
from benchmarks.analysis.kept import FOLDER, Arrays, Kept, load_kept
from benchmarks.analysis.predictions import Predictions

KIND = "corruptions"  # of evaluations that this is about
CLEAN = "test"  # what the clean images are called in a file of predictions
ALL = "all"  # the mean over corruptions
_LAYOUT = "robustness-2"  # of the kept files
_GAINED = (
    *("data", "data_digest", "data_label", "corruption", "severity", "seeds_evaluated", "num_images", "fewest_units"),
    *("corrupted_mean", "corrupted_sd", "corrupted_low", "corrupted_high", "clean_mean"),
    *("drop_change", "drop_low", "drop_high", "drop_p"),
)


class Condition(NamedTuple):
    """A corruption and its severity, 1 to 5."""

    corruption: str
    severity: int


Conditions = Mapping[Condition | None, Evidence]  # None is clean


def read_conditions(data: bytes) -> dict[Condition | None, Evidence]:
    """Evidence of each condition from the content of a file of predictions, clean images first.

    Raises:
        UserError: It is not such a file, or its images lack a class.
    """
    predictions = Predictions(data)
    found: dict[Condition | None, Evidence] = {}
    scored = predictions.split(CLEAN).names
    for name in predictions.splits:
        tested = predictions.split(name)
        parts = tuple(part for part in tested.parts if part.finding in (None, *scored))  # the same on clean images
        found[_condition(name)] = evidence_of(
            tested._replace(parts=parts, names=scored), [ranked_by(part, predictions.are_logits) for part in parts]
        )
    return found


def _condition(split: str) -> Condition | None:
    corruption, _, severity = split.rpartition("-")
    return None if split == CLEAN else Condition(corruption, int(severity))


def mean_drop(found: Conditions) -> tuple[float, str, float]:
    """How much AUC a model loses in the mean over all conditions; which corruption costs most, and how much that is."""
    clean = found[None].auc
    drops = pd.Series({condition: clean - run.auc for condition, run in found.items() if condition is not None})
    by_corruption = drops.groupby(level=0).mean()
    return float(drops.mean()), str(by_corruption.idxmax()), float(by_corruption.max())


def mean_evidence(runs: Sequence[Evidence]) -> Evidence:
    """The evidence of a mean of AUCs of one model on the same images under several conditions."""
    return runs[0]._replace(
        auc=float(np.mean([run.auc for run in runs])),
        influence=np.mean([run.influence for run in runs], axis=0),
        design_effect=float(np.mean([run.design_effect for run in runs])),
    )


def load_conditions(results: Path, frame: pd.DataFrame) -> tuple[dict[str, Conditions], list[str]]:
    """The conditions of evaluations by id, and a line for each file that cannot be read.

    Args:
        results: Where evaluations lie, under which what was read is kept.
        frame: They, as `records.runs_frame` gives them.
    """
    kept = Kept(results / FOLDER, _LAYOUT, _made)
    return load_kept(kept, results, frame, lambda _, arrays: _unpack(arrays))


def _made(data: bytes) -> Arrays:
    found = read_conditions(data)
    clean = found[None]
    names = json.dumps([clean.images, clean.unit, clean.classes, clean.num_parts, list(found)])
    return {
        "names": np.frombuffer(names.encode(), np.uint8),
        "auc": np.array([run.auc for run in found.values()]),
        "design_effect": np.array([run.design_effect for run in found.values()]),
        "influence": np.stack([run.influence for run in found.values()]),
        "confusion": np.stack([run.confusion for run in found.values()]),
        "class_images": clean.class_images,
        "class_units": clean.class_units,
    }


def _unpack(stored: Arrays) -> dict[Condition | None, Evidence]:
    images, unit, classes, num_parts, conditions = json.loads(bytes(stored["names"]).decode())
    return {
        None if condition is None else Condition(*condition): Evidence(
            images, unit, float(stored["auc"][i]), stored["influence"][i], float(stored["design_effect"][i]),
            stored["class_images"], stored["class_units"], tuple(classes), stored["confusion"][i], num_parts,
        )
        for i, condition in enumerate(conditions)
    }  # fmt: skip


def robustness_rows(
    table: pd.DataFrame, evaluations: pd.DataFrame, conditions: Mapping[str, Conditions]
) -> pd.DataFrame:
    """Rows of each cell and set of images: clean, each corruption and severity, and means over these.

    Args:
        table: As `summary.summary` gives it.
        evaluations: Of this kind and current, as `records.runs_frame` gives them.
        conditions: As `load_conditions` gives them.

    Returns:
        The columns of `table`, and: data, data_digest, data_label (names told apart); corruption (missing for clean
        images, `all` for the mean over corruptions), severity (0 for clean, missing for the mean over severities);
        seeds_evaluated, num_images, fewest_units (of the rarest class); corrupted_mean and _sd (AUC, 0-1),
        corrupted_low, _high (its 95 % interval); clean_mean; drop_change (clean less corrupted, of the same models and
        images), drop_low, _high (95 %), drop_p: missing for clean, and where a class has too few units.
    """
    labels = data_labels(evaluations)
    rows = [
        row.to_dict() | {"data": name, "data_digest": digest, "data_label": labels[name, digest]} | found
        for _, row in table.iterrows()
        for (name, digest), runs in _runs_of(row, evaluations, conditions)
        for found in _rows(runs)
    ]
    return pd.DataFrame(rows, columns=[*table.columns, *_GAINED])


Runs = Mapping[int, Conditions]  # by seed


def _runs_of(
    row: pd.Series, evaluations: pd.DataFrame, conditions: Mapping[str, Conditions]
) -> Iterator[tuple[tuple[str, str], Runs]]:
    """A cell's evaluated runs on each set of images, where all have it in one form (names hashed, or not)."""
    seeds = dict(zip(str(row["run_ids"]).split(), map(int, str(row["run_seeds"]).split()), strict=True))
    own = evaluations[evaluations["evaluation_run_id"].isin(seeds) & evaluations["run_id"].isin(conditions)]
    for (name, digest), group in own.groupby(["evaluation_data", "evaluation_data_digest"], sort=True):
        pairs = zip(group["evaluation_run_id"], group["run_id"], strict=True)
        runs = {seeds[run_id]: conditions[other] for run_id, other in sorted(pairs, key=lambda pair: seeds[pair[0]])}
        kinds = {(run[None].images, tuple(run)) for run in runs.values()}
        if len(kinds) == 1:
            yield (str(name), str(digest)), runs


def _rows(runs: Runs) -> Iterator[dict[str, Any]]:
    """Clean, every condition, the mean of each corruption, and that of all."""
    every = [condition for condition in next(iter(runs.values())) if condition is not None]
    groups: dict[tuple[str, int | None], list[Condition]] = {(c.corruption, c.severity): [c] for c in every}
    for corruption in dict.fromkeys(condition.corruption for condition in every):
        groups[corruption, None] = [condition for condition in every if condition.corruption == corruption]
    groups[ALL, None] = every
    cells = [{seed: run[None] for seed, run in runs.items()}]
    cells += [
        {seed: mean_evidence([run[condition] for condition in group]) for seed, run in runs.items()}
        for group in groups.values()
    ]
    tested = SameImages(cells)
    drops = tested.compare([(0, i) for i in range(1, len(cells))])
    clean = float(np.mean([run.auc for run in cells[0].values()]))
    images = next(iter(cells[0].values())).num_images
    shared = {"seeds_evaluated": len(runs), "num_images": images, "fewest_units": tested.fewest, "clean_mean": clean}
    names: list[tuple[str | None, int | None]] = [(None, 0), *groups]
    for place, cell, interval, drop in zip(names, cells, tested.intervals(), [None, *drops], strict=True):
        aucs = [run.auc for run in cell.values()]
        row: dict[str, Any] = shared | dict(zip(("corruption", "severity"), place, strict=True))
        row |= {"corrupted_mean": np.mean(aucs), "corrupted_sd": np.std(aucs, ddof=1) if len(aucs) > 1 else None}
        if interval is not None:
            row |= {"corrupted_low": interval.low, "corrupted_high": interval.high}
        if drop is not None:
            row |= {f"drop_{name}": getattr(drop, name) for name in ("change", "low", "high", "p")}
        yield row
