"""What would tell a place's methods apart that its stored results do not: seeds, test images, or both."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from benchmarks.analysis.comparison import SameImages
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.power import Need, needed
from benchmarks.analysis.significance import cell_evidence


class NextStep(NamedTuple):
    """What would tell two methods apart, with a probability of 80 %, were they as far apart as they look."""

    labels: tuple[str, str]
    change: float
    seeds_now: int
    units_now: int
    need: Need


def next_steps(compared: pd.DataFrame, evidence: Mapping[str, Evidence]) -> dict[str, NextStep | None]:
    """By label of each that is not told apart from the best, by AUC: the next step of the place were that the choice.

    Any other choice has the first of them; where all is told there are none.

    Args:
        compared: Rows by AUC, the highest first.
        evidence: By run id.
    """
    rest = _undecided(compared)[1:]
    return {str(row["label"]): next_step(compared, row["label"], evidence) for row in rest}


def _undecided(compared: pd.DataFrame) -> list[pd.Series]:
    """The best and what is not told apart from it; none where one seed is all."""
    undecided = compared[compared["is_best"] | (compared["vs_best_p"] > LEVEL)]
    if len(undecided) < 2 or undecided["seeds_ok"].min() < 2:
        return []
    return [row for _, row in undecided.iterrows()]


def next_step(compared: pd.DataFrame, choice: str | None, evidence: Mapping[str, Evidence]) -> NextStep | None:
    """What would tell the best from the choice or, where that is the best, from the next; None where all is told.

    Args:
        compared: Rows by AUC, the highest first.
        choice: Label of what to use.
        evidence: By run id.
    """
    undecided = _undecided(compared)
    if not undecided:
        return None
    best, *rest = undecided
    other = next((row for row in rest if row["label"] == choice), rest[0])
    found = SameImages([cell_evidence(row, evidence) for row in (best, other)]).variance(0, 1)
    if found is None:
        return None
    change, num_seeds, parts = found
    units = int(best["auc_num_units"])
    need = needed(change, parts, num_seeds, units, LEVEL / (len(compared) - 1))
    return NextStep((str(best["label"]), str(other["label"])), change, num_seeds, units, need)
