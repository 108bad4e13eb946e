"""Trained models on other images than their test split: by cell, beside what they scored there."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.analysis.comparison import FEWEST, Cell, Comparison, SameImages
from benchmarks.analysis.evidence import Evidence, FindingEvidence, joined
from benchmarks.analysis.inference import Differences, variance_parts
from benchmarks.names import told_apart
from benchmarks.records.frame import load_frame
from benchmarks.records.stored import evaluation_results

_NAMES = ("data", "data_digest", "data_label")
_NUMBERS = ("internal_mean", "internal_sd", "external_mean", "external_sd", "external_low", "external_high")
_DROP = ("change", "low", "high", "p")


def drop(internal: Cell, external: Cell) -> Comparison | None:
    """How much lower the mean AUC of the same models is on other images than on their test split.

    The images are independent samples; seeds are paired, as a model is the same on both. With one seed all this is of
    one trained model.

    Args:
        internal, external: Of a cell, by seed; seeds that both have are compared.

    Returns:
        The difference, internal less external; None where a class has too few units on either side.
    """
    seeds = [seed for seed in internal if seed in external]
    sides = [SameImages([{seed: cell[seed] for seed in seeds}]).mean_of(seeds) for cell in (internal, external)]
    (inside, inside_aucs, inside_split), (outside, outside_aucs, outside_split) = sides
    if min(inside_split.fewest, outside_split.fewest) < FEWEST:
        return None
    parts = variance_parts(
        inside_aucs - outside_aucs, inside.each + outside.each, inside.parts.images + outside.parts.images
    )
    differences = Differences(inside, outside, np.zeros(1), parts)
    low, high = differences.interval(inside_split, outside_split)
    p = differences.p_value(inside_split, outside_split)
    return Comparison(float(differences.change[0]), float(low[0]), float(high[0]), float(p[0]), len(seeds))


def load_evaluations(results: Path, frame: pd.DataFrame, kind: str) -> tuple[pd.DataFrame, list[str]]:
    """The finished evaluations of a kind, of runs as they are now.

    Args:
        results: The results root.
        frame: Its runs, as `records.runs_frame` gives them.
        kind: Of the evaluations.

    Returns:
        They, as `records.runs_frame` gives them; and a line for each record that is damaged or of a model that is there
        no more.
    """
    found, problems = load_frame(evaluation_results(results))
    found = found[(found["state"] == "ok") & (found["evaluation_kind"] == kind)]
    current = is_current(found, frame)
    problems += [
        f"evaluation must be of a stored run as it is now, got {name} of another: evaluate again, or delete its record"
        for name in found.loc[~current, "run_id"]
    ]
    return found[current], problems


def is_current(evaluations: pd.DataFrame, frame: pd.DataFrame) -> pd.Series:
    """Of each evaluation whether its run is stored, with the predictions that it had then.

    Args:
        evaluations, frame: Those of a results folder, and its runs, as `records.runs_frame` gives them.
    """
    known = dict(zip(frame["run_id"], frame["predictions_sha256"], strict=True))
    return evaluations["evaluation_run_predictions_sha256"] == evaluations["evaluation_run_id"].map(known)


def evaluation_rows(
    table: pd.DataFrame,
    evidence: Mapping[str, Evidence],
    evaluations: pd.DataFrame,
    outside: Mapping[str, Evidence],
    findings: Mapping[str, FindingEvidence],
) -> pd.DataFrame:
    """A row for each cell and each other set of images that models of it were evaluated on.

    Of findings it is of their mean, over those that can be scored in both, and a row for each of these follows.

    Args:
        table: As `summary.summary` gives it.
        evidence: Of runs by id.
        evaluations: Of one kind, as `records.runs_frame` gives them.
        outside: The evidence of evaluations by id.
        findings: That of each finding, of runs and of evaluations by id; none of classes.

    Returns:
        The columns of `table`, and: data, data_digest, data_label (names told apart); finding (which one a row is of),
        scored_findings (those that a mean is over, with commas between); seeds_evaluated (how many of the
        cell's runs), num_images; {internal,external}_mean and _sd (AUC of these runs, 0-1), external_low, _high (its
        95 % interval); external_fewest_units (of the rarest class);
        drop_change (internal less external), drop_low, _high (95 %), drop_p. Missing where predictions are.
    """
    labels = data_labels(evaluations)
    rows = [
        row.to_dict() | {"data": name, "data_digest": digest, "data_label": labels[name, digest]} | found
        for _, row in table.iterrows()
        for (name, digest), found in _of_cell(row, evidence, evaluations, outside, findings)
    ]
    gained = (
        *_NAMES,
        "finding",
        "scored_findings",
        "seeds_evaluated",
        "num_images",
        *_NUMBERS,
        "external_fewest_units",
    )
    columns = [*table.columns, *gained, *(f"drop_{name}" for name in _DROP)]
    return pd.DataFrame(rows, columns=columns)


def data_labels(evaluations: pd.DataFrame) -> dict[tuple[str, str], str]:
    """What each set of images is called, by its name and digest: its name, told apart where several have it."""
    places = evaluations[["evaluation_data", "evaluation_data_digest"]].drop_duplicates()
    several = places["evaluation_data"].duplicated(keep=False)
    return {
        (name, digest): told_apart(name, digest) if apart else name
        for (name, digest), apart in zip(places.itertuples(index=False, name=None), several, strict=True)
    }


def _of_cell(
    row: pd.Series,
    evidence: Mapping[str, Evidence],
    evaluations: pd.DataFrame,
    outside: Mapping[str, Evidence],
    findings: Mapping[str, FindingEvidence],
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """What is known of a cell's runs on each set of images that any of them was evaluated on."""
    seeds = dict(zip(str(row["run_ids"]).split(), map(int, str(row["run_seeds"]).split()), strict=True))
    own = evaluations[evaluations["evaluation_run_id"].isin(seeds)]
    for (name, digest), group in own.groupby(["evaluation_data", "evaluation_data_digest"], sort=True):
        whose = dict(zip(group["evaluation_run_id"], group["run_id"], strict=True))
        internal = {seeds[run_id]: evidence[run_id] for run_id in whose if run_id in evidence}
        external = {seeds[run_id]: outside[other] for run_id, other in whose.items() if other in outside}
        known = [findings[run_id] for ids in whose.items() for run_id in ids if run_id in findings]
        shared = {"seeds_evaluated": len(group)}
        if len(known) < 2 * len(whose) or not all(one.scored for one in known):  # of classes, or not to be read
            yield (str(name), str(digest)), shared | _numbers(internal, external, group["auc"].tolist())
            continue
        common = [each for each in known[0].scored if all(each in one.scored for one in known)]
        for chosen in [common, *([each] for each in common)]:
            inside, outer = (
                {seeds[run_id]: joined([findings[one].scored[each] for each in chosen]) for run_id, one in pairs}
                for pairs in (zip(whose, whose, strict=True), whose.items())
            )
            which = {"scored_findings": ", ".join(common)} if chosen is common else {"finding": chosen[0]}
            aucs = [run.auc for run in outer.values()]
            yield (str(name), str(digest)), shared | which | _numbers(inside, outer, aucs)


def _numbers(internal: Cell, external: Cell, aucs: Sequence[float]) -> dict[str, Any]:
    found: dict[str, Any] = {"external_mean": np.mean(aucs), "external_sd": _deviation(aucs)}
    if not external or len({run.images for run in external.values()}) > 1:
        return found
    tested = SameImages([external])
    found |= {"num_images": next(iter(external.values())).num_images}
    found |= {"external_fewest_units": tested.fewest}
    if interval := tested.intervals()[0]:
        found |= {"external_low": interval.low, "external_high": interval.high}
    if internal.keys() >= external.keys() and len({run.images for run in internal.values()}) == 1:
        inside = [internal[seed].auc for seed in external]
        found |= {"internal_mean": np.mean(inside), "internal_sd": _deviation(inside)}
        if change := drop(internal, external):
            found |= {f"drop_{name}": getattr(change, name) for name in _DROP}
    return found


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
