"""Soups, the means of the weights of several seeds, as rows beside these: as they were stored when they were made."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.analysis.evidence import Evidence, load_evidence
from benchmarks.records.frame import load_frame
from benchmarks.records.stored import evaluation_results

SOUP = "soup"  # the kind of an evaluation


def members_digest(digests: Sequence[str]) -> str:
    """Tells the members of a soup from others, by the digests of their predictions."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


class Soups(NamedTuple):
    """Those of a results folder, as `records.runs_frame` gives evaluations, and the evidence of each by its id."""

    frame: pd.DataFrame
    evidence: Mapping[str, Evidence]


def load_soups(results: Path, frame: pd.DataFrame) -> Soups:
    """The soups whose members are stored as they were when it was made, with evidence of their predictions.

    Args:
        results: The results root.
        frame: Its runs, as `records.runs_frame` gives them.
    """
    folder = evaluation_results(results)
    found, _ = load_frame(folder)
    found = found[(found["state"] == "ok") & (found["evaluation_kind"] == SOUP)]
    known = dict(zip(frame["run_id"], frame["predictions_sha256"], strict=True))
    digests = [members_digest([str(known.get(name)) for name in members.split()]) for members in found["soup_members"]]
    current = found[found["soup_members_sha256"] == pd.Series(digests, found.index, dtype="object")]
    evidence, _ = load_evidence(folder, current)
    return Soups(current[current["run_id"].isin(evidence)], evidence)


def soups_of(row: pd.Series, soups: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """The soups of a row of the summary, each with its title."""
    own = set(str(row["run_ids"]).split())
    for _, soup in soups.iterrows():
        members, used = soup["soup_members"].split(), soup["soup_used"].split()
        if own.issuperset(members):
            some = f"{len(used)} of {len(members)}" if len(used) < len(members) else f"{len(members)}"
            yield f"{soup['soup_way'].capitalize()} soup of {some} seeds: {row['label']}", soup


def said_of(title: str, soup: pd.Series) -> str:
    """What validation says of a soup beside the best of its members, in one sentence."""
    now, best = soup["val_auc"], soup["soup_best_val_auc"]
    change = (
        "as the best seed alone" if round(now, 12) == round(best, 12) else f"{100 * best:.2f} of the best seed alone"
    )
    return f"{title}: AUC {100 * now:.2f} % on validation, {change}."
