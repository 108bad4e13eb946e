"""What is worth its cost at a place, for each cost that the page draws AUC against: the fronts of the plots."""

from collections.abc import Hashable, Mapping

import pandas as pd

from benchmarks.analysis.front import find_front

# What AUC is drawn against: its column, and the one that says whether it was measured or predicted.
COSTS: dict[str, tuple[str, str | None]] = {
    "run": ("memory_bytes", "memory_source"),
    "train": ("train_memory_bytes", "train_memory_source"),
    "trainable": ("trainable_total", None),
}


def page_fronts(rows: pd.DataFrame, numbers: Mapping[Hashable, int]) -> dict[str, dict[str, list[int]]]:
    """The fronts of a place.

    Args:
        rows: Of one dataset, protocol and resolution, as `significance.add_significance` has them.
        numbers: By the index of a row its number on the page.

    Returns:
        By cost the numbers of rows: `steps` of the front up to the band, by rising cost, and `members` of the band,
        which is not told apart from the best.
    """
    return {cost: _front(rows, numbers, *columns) for cost, columns in COSTS.items()}


def _front(rows: pd.DataFrame, numbers: Mapping[Hashable, int], cost: str, source: str | None) -> dict[str, list[int]]:
    known = rows[rows["auc_mean"].notna() & rows[cost].notna()]
    front = find_front(known, cost, source)
    rivals = known[known["complete"].astype(bool)]
    places = dict(zip(rivals.index, zip(rivals[cost], rivals["auc_mean"], strict=True), strict=True))
    return {
        "steps": [next(numbers[i] for i, place in places.items() if place == step) for step in front.steps],
        "members": [numbers[i] for i in rivals.index[rivals["label"].isin(front.members)]],
    }
