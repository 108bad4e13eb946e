"""Ranks of methods over several datasets: Friedman, Nemenyi, and the ranking of a protocol's methods."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from benchmarks.analysis.summary import across_datasets, method_rank

LEVEL = 0.05

Floats = NDArray[np.float64]


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


class Ranking(NamedTuple):
    """Average ranks of the methods of one protocol.

    methods, labels: of each method, by rising rank; ranks: their average ranks, 1 the best; rows: the (dataset,
    resolution) over which they run; left_out: those that lack a method; critical: Nemenyi's critical difference at
    0.05; p: of Friedman's test.
    """

    methods: list[str]
    labels: list[str]
    ranks: list[float]
    rows: list[tuple[str, int]]
    left_out: list[tuple[str, int]]
    critical: float
    p: float


def ranking(table: pd.DataFrame) -> Ranking | str:
    """Ranks the methods of one protocol by AUC in each dataset and resolution, and averages the ranks.

    Args:
        table: the rows of one block of a summary, all its datasets.

    Returns:
        The ranking over the datasets and resolutions in which every method has an AUC, or why there is none.
    """
    table = table.assign(label=across_datasets(table))
    scores = table.pivot_table("auc_mean", ["dataset_label", "resolution"], ["method", "label"], sort=False)
    complete = scores.dropna()
    if scores.shape[1] < 3:
        return f"ranks need three methods, there are {scores.shape[1]}"
    if len(complete) < 2:
        return f"ranks need two datasets or resolutions in which every method has an AUC, there are {len(complete)}"
    values = complete.to_numpy(dtype=np.float64)
    ranks = average_ranks(values)
    pairs = [(str(column[0]), str(column[1])) for column in scores.columns.to_list()]
    order = sorted(range(len(pairs)), key=lambda i: (ranks[i], method_rank(pairs[i][0]), pairs[i][1]))
    rows, used = ([(str(row[0]), int(row[1])) for row in frame.index.to_list()] for frame in (scores, complete))
    return Ranking(
        methods=[pairs[i][0] for i in order],
        labels=[pairs[i][1] for i in order],
        ranks=[float(ranks[i]) for i in order],
        rows=used,
        left_out=[row for row in rows if row not in used],
        critical=critical_difference(len(pairs), len(used), LEVEL),
        p=friedman_p(values),
    )
