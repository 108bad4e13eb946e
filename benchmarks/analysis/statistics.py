"""Corrections and tests of a comparison: Holm, t tests over seeds, ranks with Friedman and Nemenyi; arrays only."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

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


def average_ranks(scores: Floats) -> Floats:
    """Mean rank of each method `(rows, methods) -> (methods,)`; in a row the highest score has rank 1, ties share."""
    return np.asarray(stats.rankdata(-scores, axis=1).mean(axis=0), dtype=np.float64)


def friedman_p(scores: Floats) -> float:
    """p of equal ranks of three or more methods over the rows `(rows, methods)`; 1 where all scores are equal."""
    if (np.ptp(scores, axis=1) == 0).all():
        return 1.0
    return float(stats.friedmanchisquare(*scores.T).pvalue)


def critical_difference(num_methods: int, num_rows: int, level: float = 0.05) -> float:
    """The difference of average ranks from which two methods differ, by Nemenyi's test.

    Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), section 3.2.2.
    """
    quantile = float(stats.studentized_range.ppf(1 - level, num_methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(num_methods * (num_methods + 1) / (6 * num_rows))


def indistinguishable(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """The widest groups of methods whose average ranks all lie within the critical difference.

    Args:
        ranks: Average ranks, rising.
        critical: The critical difference.

    Returns:
        First and last index of each group of two or more.
    """
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < critical)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups
