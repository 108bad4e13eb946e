"""Statistics of a comparison: bootstrap and DeLong for AUC, Holm; arrays only.

AUC is everywhere the macro one-vs-rest area: the mean over classes of the chance that an image of the class scores
higher for it than an image of another class, ties counting half.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NUM_RESAMPLES = 2000
_CHUNK = 250  # resamples at a time: their weights and running sums stay near the processor
_MAX_DRAWS = 40  # times the resamples asked for, before a class is taken to be too rare to resample


def macro_auc(labels: Integers, scores: Floats) -> float:
    """AUC of class indices `(n,)` and scores `(n, C)`; every class occurs."""
    once = [np.ones((len(labels), 1), dtype=np.int64)]
    return float(np.mean([_weighted_auc(labels == index, scores[:, index], once) for index in range(scores.shape[1])]))


def auc_of_each_resample(
    labels: Integers, scores: Floats, units: Integers, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Floats | None:
    """AUC on bootstrap resamples of the test images.

    Units are drawn with replacement, as many as there are; a draw that lacks a class, for which AUC is undefined, is
    drawn again. The draws depend on `labels`, `units` and `seed` only: probabilities of several models for the same
    images are resampled alike, so that their resampled AUCs are paired.

    Args:
        labels: Class indices `(n,)`; every class occurs.
        scores: `(n, C)`, higher for the likelier class.
        units: What is drawn together `(n,)`, 0 to the number of units less one: one a patient, or one an image.
        num_resamples: How many.
        seed: Of the draws.

    Returns:
        `(num_resamples,)`, or None where a class sits in so few units that nearly no draw has all classes.
    """
    num_classes = scores.shape[1]
    drawn = _draws(labels.tobytes(), units.tobytes(), num_classes, num_resamples, seed)
    if drawn is None:
        return None
    aucs = [_weighted_auc(labels == index, scores[:, index], drawn) for index in range(num_classes)]
    return np.asarray(np.mean(aucs, axis=0), dtype=np.float64)


@functools.lru_cache(maxsize=1)  # the runs of a dataset come one after the other, and share its test images
def _draws(
    labels_bytes: bytes, units_bytes: bytes, num_classes: int, num_resamples: int, seed: int
) -> list[Integers] | None:
    """How often each image is in each resample, some resamples at a time `[(n, B), ...]`."""
    labels, units = np.frombuffer(labels_bytes, np.int64), np.frombuffer(units_bytes, np.int64)
    num_units = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    parts: list[Integers] = []
    found = 0
    for _ in range(-(-_MAX_DRAWS * num_resamples // _CHUNK)):
        drawn = rng.integers(num_units, size=(_CHUNK, num_units)) + num_units * np.arange(_CHUNK)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=_CHUNK * num_units).reshape(_CHUNK, num_units)
        weights = counts.T[units]  # (n, chunk)
        present = [(weights[labels == index] > 0).any(axis=0) for index in range(num_classes)]
        weights = weights[:, np.all(present, axis=0)][:, : num_resamples - found]
        # Twice the weighted pairs of one class and the others, at most total² / 2, are what must fit.
        fits = weights.sum(axis=0).max(initial=0) < 2**16
        parts.append(np.ascontiguousarray(weights, dtype=np.int32 if fits else np.int64))
        found += weights.shape[1]
        if found == num_resamples:
            return parts
    return None


def _weighted_auc(positive: NDArray[np.bool_], scores: Floats, parts: Sequence[Integers]) -> Floats:
    """The area under the ROC curve where image i counts `weights[i, b]` times `[(n, B), ...] -> (sum of B,)`.

    Sums are of integers: exact, and several times faster than of floats.
    """
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    lower, upper = (np.searchsorted(scores[negatives], scores[positive], side) for side in ("left", "right"))
    areas = []
    for weights in parts:
        below = np.zeros((len(negatives) + 1, weights.shape[1]), weights.dtype)  # row i: weight of the i lowest
        np.cumsum(weights[negatives], axis=0, dtype=weights.dtype, out=below[1:])
        mine = weights[positive]
        pairs = np.einsum("ib,ib->b", mine, below[lower] + below[upper]) / 2
        areas.append(pairs / (mine.sum(axis=0, dtype=np.int64) * below[-1]))
    return np.concatenate(areas)


def placements(labels: Integers, scores: Floats) -> Floats:
    """The placement value of each image of two classes `(n,)`: the structural components of DeLong et al.

    For one class against the other, that of an image of the class is the share of the others that it outranks; that of
    another is the share of the class that outranks it. Their mean over either side is the AUC. As AUC is, they are
    averaged over the two classes, whose scores may round differently.

    Args:
        labels: 0 or 1 `(n,)`.
        scores: `(n, 2)`.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988), 837-845.
    """
    return np.mean([_placements(labels == index, scores[:, index]) for index in (0, 1)], axis=0)


def _placements(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    values = np.empty(len(scores))
    for side in (True, False):
        others = np.sort(scores[positive != side])
        mine = scores[positive == side]
        below = (np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")) / (2 * len(others))
        values[positive == side] = below if side else 1 - below
    return values


def delong_p(labels: Integers, first: Floats, second: Floats) -> float | None:
    """Two-sided p of equal AUC of two models on the same images of two classes, by DeLong's test.

    Args:
        labels: 0 or 1 `(n,)`.
        first, second: `placements` of the two models `(n,)`.

    Returns:
        None where the variance is zero and the AUCs differ, or a class has fewer than two images: no such test then.
    """
    difference = first - second
    sides = [difference[labels == side] for side in (0, 1)]
    if min(map(len, sides)) < 2:
        return None
    variance = sum(float(side.var(ddof=1)) / len(side) for side in sides)
    distance = abs(float(sides[1].mean()))
    if distance < 1e-12:
        return 1.0
    return float(2 * stats.norm.sf(distance / math.sqrt(variance))) if variance > 1e-24 else None


def bootstrap_p(differences: Floats) -> float:
    """Two-sided p of no difference by a paired bootstrap: the level at which the percentile interval ends at 0.

    Args:
        differences: Of a statistic on the same resamples `(B,)`.

    Returns:
        At least 2 / (B + 1), at most 1.
    """
    tail = min(int((differences <= 1e-12).sum()), int((differences >= -1e-12).sum()))  # equal but for rounding is equal
    return min(1.0, 2 * (tail + 1) / (len(differences) + 1))


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval between two percentiles of the resampled statistic."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
