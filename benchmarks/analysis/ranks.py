"""Methods compared over datasets, a row each: average ranks, and the signed-rank test against full fine-tuning."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from benchmarks.analysis.headline import headline_of, headline_scores
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.statistics import holm
from benchmarks.analysis.summary import across_datasets, highest, method_rank

NUM_ORDERS = 20_000
MIN_DATASETS = 5  # of four, no two-sided signed-rank p is under 0.125
_DECIMALS = 12  # AUCs that are equal but for rounding are equal
_NORMAL_ENDS, _NORMAL_STEPS = 9.0, 64  # where an integral over normal variables ends, and its steps a unit
_HALVINGS = 60

Floats = NDArray[np.float64]


def average_ranks(scores: Floats) -> Floats:
    """Mean rank of each method `(rows, methods) -> (methods,)`; in a row the highest score has rank 1, ties share."""
    return np.asarray(_ranked(scores).mean(axis=0))


def _ranked(scores: Floats) -> Floats:
    """As `scipy.stats.rankdata` of what is less where scores are more; importing that takes half a second."""
    one, other = scores[:, :, None], scores[:, None, :]
    return np.asarray(1 + (other > one).sum(axis=2) + ((other == one).sum(axis=2) - 1) / 2)


def friedman_chi_square(ranks: Floats) -> float:
    """Friedman's statistic of ranks `(rows, methods)`, corrected for ties; not every row is one tie.

    Source: Conover, Practical Nonparametric Statistics (1999), section 5.8, equation 3.
    """
    num_methods = ranks.shape[1]
    middle = (num_methods + 1) / 2
    between_methods = np.square((ranks - middle).sum(axis=0)).sum()
    return float((num_methods - 1) * between_methods / np.square(ranks - middle).sum())


def iman_davenport_f(chi_square: float, num_rows: int, num_methods: int) -> float:
    """The F statistic of Friedman's chi-square; infinite where all rows agree.

    Source: Iman and Davenport, Communications in Statistics A9 (1980), 571-595.
    """
    largest = num_rows * (num_methods - 1)
    if math.isclose(chi_square, largest):
        return math.inf
    return (num_rows - 1) * chi_square / (largest - chi_square)


def iman_davenport(scores: Floats, num_orders: int = NUM_ORDERS) -> tuple[float, float]:
    """F of equal ranks of three methods or more over the rows `(rows, methods)`, and its p by permutation.

    p is the share of drawn orders whose F is as high, each row's ranks in random order, the observed order among them.
    Friedman's chi-square distribution rejects far too seldom at few rows (never at two), the F distribution too often
    (7 % at 5 rows of 4 methods): `python -m benchmarks.speed.ranks`.

    Returns:
        (0, 1) where each row is one tie.
    """
    ranks = _ranked(scores)
    if np.ptp(ranks) == 0:
        return 0.0, 1.0
    f = iman_davenport_f(friedman_chi_square(ranks), *ranks.shape)
    orders = np.broadcast_to(ranks, (num_orders, *ranks.shape))
    drawn = np.random.default_rng(0).permuted(orders, axis=2).sum(axis=1)  # (orders, methods)
    # For given ties F rises with the spread of the methods' sums of ranks; these are halves, and squared exactly.
    as_high = int(((drawn**2).sum(axis=1) >= (ranks.sum(axis=0) ** 2).sum()).sum())
    return f, (1 + as_high) / (1 + num_orders)


def critical_difference(num_methods: int, num_rows: int, level: float = LEVEL) -> float:
    """The difference of average ranks from which two methods differ, by Nemenyi's test.

    Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), section 3.2.2.
    """
    quantile = range_quantile(1 - level, num_methods) / math.sqrt(2)
    return quantile * math.sqrt(num_methods * (num_methods + 1) / (6 * num_rows))


def range_quantile(share: float, number: int) -> float:
    """The value that the range of so many normal variables stays under with a probability, by halving.

    It is the studentized range's with endless degrees of freedom: of each place of the highest variable the chance that
    all others lie at most the range below it.
    """
    highest_at = np.arange(-_NORMAL_ENDS, _NORMAL_ENDS, 1 / _NORMAL_STEPS)
    density = np.exp(-(highest_at**2) / 2) / math.sqrt(2 * math.pi) / _NORMAL_STEPS
    low, high = 0.0, 2 * _NORMAL_ENDS
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = number * float(density @ (ndtr(highest_at) - ndtr(highest_at - middle)) ** (number - 1))
        low, high = (middle, high) if inside < share else (low, middle)
    return low


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


class SignedRank(NamedTuple):
    """Paired differences by Wilcoxon's signed-rank test, exact.

    median: the Hodges-Lehmann estimate, the median of the averages of all pairs of differences, each with itself too;
    low, high: the interval that inverts the test, None where so few differences have none at that level; p: two-sided.
    """

    median: float
    low: float | None
    high: float | None
    p: float


def signed_rank(differences: Floats, level: float = LEVEL) -> SignedRank:
    """Wilcoxon's test that differences are spread evenly about 0, with the estimate and the interval that belong to it.

    A difference of zero, and a tie, count against either direction: p is then no smaller than any way of breaking them
    gives, and it is at most `level` where, and only where, the interval leaves out 0.

    Args:
        differences: `(n,)`, in units that make them comparable.
        level: one less the coverage of the interval.

    Source: Hollander, Wolfe and Chicken, Nonparametric Statistical Methods (2014), sections 3.1 to 3.3.
    """
    one, other = np.triu_indices(len(differences))
    averages = np.sort(np.round((differences[one] + differences[other]) / 2, _DECIMALS))
    chances = _signed_rank_distribution(len(differences))
    against = min(int((averages <= 0).sum()), int((averages >= 0).sum()))
    outside = int((chances <= level / 2).sum())  # averages left out at each side
    return SignedRank(
        median=float(np.median(averages)),
        low=float(averages[outside - 1]) if outside else None,
        high=float(averages[-outside]) if outside else None,
        p=min(1.0, 2 * float(chances[against])),
    )


def _signed_rank_distribution(num: int) -> Floats:
    """The chance that the ranks 1 to num, each taken with chance 1/2, sum to at most 0, 1, ..., all `(sums,)`."""
    chances = np.zeros(num * (num + 1) // 2 + 1)
    chances[0] = 1
    for rank in range(1, num + 1):
        taken = np.concatenate([np.zeros(rank), chances[:-rank]])
        chances = (chances + taken) / 2
    return np.cumsum(chances)


class Ranking(NamedTuple):
    """Average ranks over datasets.

    methods, labels: by rising rank; ranks: their average ranks, 1 the best; datasets: over which they run; critical:
    Nemenyi's critical difference at LEVEL; f, p: of Iman and Davenport's test.
    """

    methods: list[str]
    labels: list[str]
    ranks: list[float]
    datasets: list[str]
    critical: float
    f: float
    p: float


class ToFull(NamedTuple):
    """The differences of AUC (0-1) of a method to full fine-tuning over datasets; p_holm: over all such methods."""

    num_datasets: int
    differences: SignedRank
    p_holm: float


class DatasetsComparison(NamedTuple):
    """The methods of one protocol at one resolution, compared over datasets.

    labels: of every method, in the order of the table of methods; num_datasets: in which any was tried; ranking: or why
    there is none; to_full: by label, of the methods that share MIN_DATASETS datasets or more with full fine-tuning;
    lacking: the cells that took no part, in words; metrics: by which methods were ranked, by dataset.
    """

    resolution: int
    labels: list[str]
    num_datasets: int
    ranking: Ranking | str
    to_full: dict[str, ToFull]
    lacking: list[str]
    metrics: dict[str, str]


def compare_over_datasets(table: pd.DataFrame) -> Iterator[DatasetsComparison]:
    """Compare the methods of one protocol by the means of their complete cells, at one resolution after the other.

    Ranks are by the headline metric of each dataset, differences to full fine-tuning everywhere of AUC.

    A row is a dataset: resolutions of one dataset are no independent rows, and are never taken together. A cell is
    complete where every seed that was tried in its dataset has finished. A ranking runs over the datasets where every
    method that is complete anywhere at that resolution is complete. Among variants of full fine-tuning the one with the
    highest validation AUC stands for it in each dataset.

    Args:
        table: the rows of one block of a summary, all its datasets, without baselines, with the scores that are
            headline metrics.
    """
    for resolution, group in table.groupby("resolution"):
        group = group.assign(label=across_datasets(group))
        complete = group[group["auc_mean"].notna() & group["complete"]]
        methods = dict(zip(group["label"], group["method"], strict=True))
        labels = sorted(methods, key=lambda label: (method_rank(methods[label]), label))
        places = complete[["dataset_label", "label"]]
        scores, headlines = (
            places.assign(score=values).pivot_table("score", "dataset_label", "label", sort=False).round(_DECIMALS)
            for values in (complete["auc_mean"], headline_scores(complete))
        )
        scores, headlines = (part[[label for label in labels if label in part]] for part in (scores, headlines))
        yield DatasetsComparison(
            resolution=int(str(resolution)),
            labels=labels,
            num_datasets=group["dataset_label"].nunique(),
            ranking=_ranking(headlines, methods),
            to_full=_to_full(scores, complete[complete["method"] == "full"]),
            lacking=list(_lacking(group, complete)),
            metrics={str(name): headline_of(rows) for name, rows in complete.groupby("dataset_label", sort=False)},
        )


def _ranking(scores: pd.DataFrame, methods: Mapping[str, str]) -> Ranking | str:
    """The ranking of scores, a row a dataset and a column a label, or why there is none."""
    whole = scores.dropna()
    num_datasets, num_methods = whole.shape
    if num_methods < 3:
        return f"ranks need three methods with a complete cell, there {_are(num_methods)}"
    critical = critical_difference(num_methods, num_datasets) if num_datasets else math.inf
    if num_datasets < MIN_DATASETS or critical > num_methods - 1:
        need = f"ranks need {MIN_DATASETS} datasets in which every method is complete, there {_are(num_datasets)}"
        # So few that not even the first and the last in every dataset would differ.
        beyond = f": Nemenyi's critical difference, {critical:.2f}, exceeds {num_methods - 1}, the largest there can be"
        return need + (beyond if num_datasets > 1 and critical > num_methods - 1 else "")
    values = whole.to_numpy(dtype=np.float64)
    ranks = average_ranks(values)
    f, p = iman_davenport(values)
    order = np.argsort(ranks, kind="stable").tolist()
    labels = [str(whole.columns[i]) for i in order]
    return Ranking(
        methods=[methods[label] for label in labels],
        labels=labels,
        ranks=[float(ranks[i]) for i in order],
        datasets=[str(label) for label in whole.index],
        critical=critical,
        f=f,
        p=p,
    )


def _to_full(scores: pd.DataFrame, full: pd.DataFrame) -> dict[str, ToFull]:
    """Each method against full fine-tuning, over the datasets where both have a score."""
    chosen = [highest(rows, "val_auc_mean") for _, rows in full.groupby("dataset_label")]
    reference = full.loc[chosen].set_index("dataset_label")["auc_mean"]
    found: dict[str, tuple[int, SignedRank]] = {}
    for label in (str(name) for name in scores if name not in set(full["label"])):
        differences = (scores[label] - reference).dropna().to_numpy(dtype=np.float64)
        if len(differences) >= MIN_DATASETS:
            found[label] = (len(differences), signed_rank(differences))
    corrected = holm([test.p for _, test in found.values()])
    return {label: ToFull(*parts, p) for (label, parts), p in zip(found.items(), corrected, strict=True)}


def _lacking(group: pd.DataFrame, complete: pd.DataFrame) -> Iterator[str]:
    """The cells that are not complete, in words, and the methods that have no other."""
    datasets = group["dataset_label"].unique()
    for label, rows in group.groupby("label", sort=False):
        there = set(complete.loc[complete["label"] == label, "dataset_label"])
        cells = rows.drop_duplicates("dataset_label").set_index("dataset_label")
        if not there and len(datasets) > 1:
            yield f"{label} everywhere"
            continue
        for dataset in (name for name in datasets if name not in there):
            yield f"{label} on {dataset} ({_state(cells.loc[dataset]) if dataset in cells.index else 'not run'})"


def _state(cell: pd.Series) -> str:
    seeds = f"{cell['seeds_ok']} of {cell['seeds_asked']} seeds"
    return "trained by different code" if cell["seeds_ok"] == cell["seeds_asked"] else seeds


def _are(number: int) -> str:
    return f"{'is' if number == 1 else 'are'} {number}"
