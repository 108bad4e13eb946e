"""What is worth its cost: what no other method beats in both AUC and cost, and what is not told apart from the best."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from benchmarks.analysis.inference import LEVEL


class Front(NamedTuple):
    """What is worth its cost: steps of cost and AUC (0-1), and from where a band is all that can be told.

    steps: as `pareto_front` has them, up to the band. members: labels of what is not told apart from the best, and low
    and high their lowest and highest mean AUC; empty where nothing could be tested. start: cost of the cheapest.
    """

    steps: list[tuple[float, float]]
    members: list[str]
    start: float | None = None
    low: float | None = None
    high: float | None = None


def find_front(rows: pd.DataFrame, cost: str = "memory_bytes", source: str | None = "memory_source") -> Front:
    """The front of complete cells: measured ones, or all where none is, as these cannot be compared with predicted.

    Args:
        rows: Of one dataset, protocol and resolution, as `significance.add_significance` has them, all with an AUC and
            the cost.
        cost: Their column of what is paid.
        source: The column that says whether that is `measured` or `predicted`; None of a cost that is always known.
    """
    rivals = rows[rows["complete"].astype(bool)]
    if source is not None:
        wanted = "measured" if (rivals[source] == "measured").any() else "predicted"
        rivals = rivals[rivals[source] == wanted]
    steps = pareto_front(rivals[cost].to_list(), rivals["auc_mean"].to_list())
    if "vs_best_p" not in rivals or not (rivals["vs_best_p"] >= 0).any():
        return Front(steps, [])
    members = rivals[(rivals["is_best"] == True) | (rivals["vs_best_p"] > LEVEL)]  # noqa: E712, missing where unknown
    if members.empty:
        return Front(steps, [])
    start = float(members[cost].min())
    means = members["auc_mean"]
    before = [step for step in steps if step[0] < start]
    return Front(before, members["label"].to_list(), start, float(means.min()), float(means.max()))


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[tuple[float, float]]:
    """The (cost, gain) pairs that no other pair matches at lower cost or at higher gain, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(zip(costs, gains, strict=True), key=lambda pair: (pair[0], -pair[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front
