"""Holm's correction, and t tests over seeds alone; arrays only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of one family, corrected so that the chance of any false rejection stays at the level.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[i]))
        corrected[i] = largest
    return corrected


def seeds_p(first: Sequence[float], second: Sequence[float], paired: bool) -> float | None:
    """Two-sided p of equal means over seeds: a paired t test, or Welch's where the seeds are not the same.

    Returns:
        None with fewer than two seeds a side, or where a difference has no spread to be judged by.
    """
    from scipy import stats  # takes half a second, and tables need none of it

    one, two = np.asarray(first), np.asarray(second)
    if min(len(one), len(two)) < 2:
        return None
    if paired:
        return _no_spread(one - two) if np.ptp(one - two) < 1e-12 else float(stats.ttest_rel(one, two).pvalue)
    if max(np.ptp(one), np.ptp(two)) < 1e-12:
        return _no_spread(one.mean() - two.mean())
    return float(stats.ttest_ind(one, two, equal_var=False).pvalue)


def _no_spread(difference: Floats) -> float | None:
    return 1.0 if np.abs(difference).max() < 1e-12 else None
