"""Intervals and tests of AUCs and of their differences, over images and over seeds; arrays only.

The AUC of a method has two sources of variance. Images: a test split of other patients would give another AUC. Seeds:
training anew would, too. Every seed is tested on the same images, as every reader of a multi-reader study reads the
same cases, and the sources are parted as Obuchowski and Rockette part them: what a seed's own errors on these images
add to the spread over seeds is in the variance over images already, and is counted once.

How often it all errs is simulated: `python -m benchmarks.speed.claims`, docs/statistics.md.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmarks.analysis.influence import Floats, Integers

LEVEL = 0.05
_LEAST = 0.75  # of the model's variance: with less, a test split is taken to have been lucky
_NOTHING = 1e-24  # a variance that is one of rounding alone
_LEAST_LOGARITHM = -700.0  # of a chi-square: beyond, its inverse overflows
_SMALLEST = 5e-324  # a chance that is none, beyond 38 standard errors
_HALVINGS = 40
_STEPS, _CLOSE = 50, 1e-10


class Parts(NamedTuple):
    """The variance of means over seeds, by source; each `(P,)`.

    images: from the draw of the test images.
    seeds: from training anew, beyond what is in `images`; 0 for one seed, of which nothing is known.
    told: the share of the whole that the spread over seeds tells, with so few degrees of freedom; images tell the rest.
    df: the degrees of freedom of the seeds.
    """

    images: Floats
    seeds: Floats
    told: Floats
    df: Floats


def variance_parts(values: Floats, each: Floats, mean: Floats) -> Parts:
    """Parts the variance of means over seeds.

    Args:
        values: AUCs, or differences of AUC on the same seeds `(P, S)`.
        each: The variance over images of one seed's value, averaged over the seeds `(P,)`.
        mean: The variance over images of the mean over seeds `(P,)`.

    Source: Obuchowski, Rockette, Communications in Statistics: Simulation 24 (1995), 285-308.
    """
    num_seeds = values.shape[1]
    df = np.full_like(mean, max(num_seeds - 1, 1))
    if num_seeds == 1:
        return Parts(mean, np.zeros_like(mean), np.zeros_like(mean), df)
    own = (each - mean) / (num_seeds - 1)  # what errors that no two seeds share add to the spread over seeds
    spread = values.var(axis=1, ddof=1) / num_seeds
    seeds = np.maximum(spread - own, 0)
    return Parts(mean, seeds, np.minimum(spread / np.maximum(mean + seeds, _NOTHING), 1), df)


def unpaired(first: Parts, second: Parts, images: Floats) -> Parts:
    """The variance of differences between means over seeds that are not the same.

    Args:
        first, second: Of the two means.
        images: The variance over images of the difference, which has the same images `(P,)`.
    """
    seeds = first.seeds + second.seeds
    told = [part.told * (part.images + part.seeds) for part in (first, second)]
    both = told[0] + told[1]
    df = both**2 / np.maximum(told[0] ** 2 / first.df + told[1] ** 2 / second.df, _NOTHING)  # Satterthwaite's
    least = np.minimum(first.df, second.df)
    return Parts(images, seeds, np.minimum(both / np.maximum(images + seeds, _NOTHING), 1), np.maximum(df, least))


def critical_value(level: Floats | float, parts: Parts, image_df: float = np.inf) -> Floats:
    """How many standard errors two-sided `level` allows `(P,)`: the distance whose `tail` is the level.

    Images alone have Student's t of `image_df`, by as much as it is wider than the normal at that level.
    """
    level = np.broadcast_to(np.asarray(level, dtype=np.float64), parts.told.shape)
    normal, images = (-special.stdtrit(df, level / 2) for df in (np.inf, image_df))  # as stats.t.isf, 400 times faster
    wider = images / normal

    def each(half: Floats) -> tuple[Floats, Floats]:
        """The critical values of either part alone."""
        return (
            -np.sqrt(1 - parts.told) * wider * special.ndtri(half),
            -np.sqrt(parts.told) * special.stdtrit(parts.df, half),
        )

    # Either alone is less than both together, and the two one after the other, each at half of the level, are more.
    low, high = np.log(np.maximum(*each(level / 2))), np.log(np.add(*each(level / 4)))
    logarithm = high
    for _ in range(_STEPS):  # Newton's on two logarithms, where Student's tail is a straight line; else halving
        beyond, slope = _tail_and_slope(np.exp(logarithm), parts, wider)
        low, high = np.where(beyond >= level, logarithm, low), np.where(beyond >= level, high, logarithm)
        nearer = logarithm + (np.log(beyond) - np.log(level)) / slope
        nearer = np.where((nearer >= low) & (nearer <= high), nearer, (low + high) / 2)
        if np.abs(nearer - logarithm).max() < _CLOSE:
            break
        logarithm = nearer
    return np.where(parts.told > 0, np.exp(logarithm), images)


def tail(distance: Floats, parts: Parts, wider: Floats | float = 1.0) -> Floats:
    """The chance that chance alone gives as many standard errors, of either sign `(P,)`.

    They are the sum of a normal deviate, what images tell, and of Student's t of the seeds, by the square roots of
    their shares (Behrens and Fisher): where few seeds happen to agree, that they may not is still reckoned with. A
    critical value that is the mean of the two, as Cochran's, lacks this tail, and at the levels of several comparisons
    erred four times as often as it said (results/speed/claims.md).

    Args:
        distance: In standard errors `(P,)`.
        parts: Of the variance.
        wider: By how much what images tell is wider than the normal `(P,)`.

    Source: Fisher, Annals of Eugenics 6 (1935), 391-398; Robinson, Annals of Statistics 4 (1976), 963-971.
    """
    return _tail_and_slope(distance, parts, wider)[0]


def _tail_and_slope(distance: Floats, parts: Parts, wider: Floats | float) -> tuple[Floats, Floats]:
    """The tail, and how fast its logarithm falls with that of the distance, each `(P,)`."""
    p, slope = np.empty_like(distance), np.empty_like(distance)
    images = (1 - parts.told) * np.square(wider)
    for df in np.unique(parts.df):
        alike = parts.df == df
        inverse, weights = _inverse_chi_square(float(df))
        z = distance[alike, None] / np.sqrt(images[alike, None] + parts.told[alike, None] * inverse)  # (P, nodes)
        p[alike] = (2 * special.ndtr(-z)) @ weights
        slope[alike] = (z * np.exp(-(z**2) / 2)) @ weights * math.sqrt(2 / math.pi) / np.maximum(p[alike], _SMALLEST)
    return p, slope


@functools.cache
def _inverse_chi_square(df: float) -> tuple[Floats, Floats]:
    """Nodes and weights of df over chi-square, by which a normal's variance is multiplied to be that of Student's t.

    The trapezoidal rule after a change of variable that lets both ends fall off doubly exponentially.

    Source: Takahasi, Mori, Publications of RIMS 9 (1974), 721-741.
    """
    at = np.linspace(-6, 9, 151)
    width = math.sqrt(2 / df)
    logarithm = width * (at - np.exp(-at) + 1)  # of chi-square over df
    density = np.exp(df / 2 * (logarithm - np.expm1(logarithm))) * (1 + np.exp(-at))
    return np.exp(-np.maximum(logarithm, _LEAST_LOGARITHM)), density / density.sum()


class Split(NamedTuple):
    """How much a test split holds: the units of each class `(C,)`, and of all others, for its design effect."""

    own: Floats
    others: Floats
    fewest: int


def make_split(
    class_images: Integers, class_units: Integers, design_effects: Sequence[float], num_parts: int = 1
) -> Split:
    """The split that models were tested on.

    Args:
        class_images, class_units: Images of each class, and units that have one `(C,)`; part by part.
        design_effects: Of the models' variances; their mean is taken.
        num_parts: Parts of the split whose AUCs are averaged, each of as many classes.
    """
    effect = float(np.mean(design_effects))
    by_part = class_images.reshape(num_parts, -1)
    others = (by_part.sum(axis=1, keepdims=True) - by_part).ravel()
    return Split(class_images / effect, others / effect, int(class_units.min()))


class Means(NamedTuple):
    """AUCs averaged over seeds, each `(P,)`: the mean, its variance by source, and the variance of one seed's."""

    auc: Floats
    parts: Parts
    each: Floats


def model_variance(auc: Floats, split: Split) -> Floats:
    """The variance over images that an AUC has if scores are exponential, as Hanley and McNeil; of the macro mean.

    Classes are taken to err together. For two, whose AUCs are one, that is exact.

    Shape:
        - auc: `(P,)`
        - Output: `(P,)`

    Source: Hanley, McNeil, Radiology 143 (1982), 29-36.
    """
    auc = np.clip(auc, 1e-9, 1)[:, None]
    above, below = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    pairs = auc * (1 - auc) + (split.own - 1) * (above - auc**2) + (split.others - 1) * (below - auc**2)
    return np.asarray(np.mean(np.sqrt(np.maximum(pairs, 0) / (split.own * split.others)), axis=1) ** 2)


def _scale(means: Means, split: Split) -> Floats:
    """How many times `model_variance` the variance over images of each mean is taken to be `(P,)`."""
    known = means.each > _NOTHING
    single = np.maximum(means.each / np.maximum(model_variance(means.auc, split), _NOTHING), _LEAST)
    single = np.where(known & (means.auc < 1), single, 1.0)
    return single * np.where(known, means.parts.images / np.maximum(means.each, _NOTHING), 1)


def interval(means: Means, split: Split, level: float = LEVEL) -> tuple[Floats, Floats]:
    """The interval of each mean AUC: the values it lies within its critical value of, their own variance taken.

    A score interval, as Newcombe's, so that an AUC of 1 has one too; scaled to the variance that images show.

    Source: Newcombe, Statistics in Medicine 25 (2006), 559-573, method 5.
    """
    critical = critical_value(level, means.parts, 2 * split.fewest - 1)
    modelled = np.maximum(model_variance(means.auc, split), _NOTHING)
    scale = np.where(means.auc < 1, np.maximum(means.parts.images / modelled, _LEAST), 1)

    def inside(value: Floats) -> NDArray[np.bool_]:
        variance = scale * model_variance(value, split) + means.parts.seeds
        return np.asarray(np.abs(means.auc - value) <= critical * np.sqrt(variance))

    return _edge(inside, means.auc, np.zeros_like(means.auc)), _edge(inside, means.auc, np.ones_like(means.auc))


def _edge(inside: Callable[[Floats], NDArray[np.bool_]], start: Floats, end: Floats) -> Floats:
    """The last value from `start` towards `end` that is inside, by halving."""
    near, far = start.copy(), end.copy()
    far_inside = inside(far)
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        is_inside = inside(middle)
        near, far = np.where(is_inside, middle, near), np.where(is_inside, far, middle)
    return np.where(far_inside, end, near)


class Differences(NamedTuple):
    """How the mean AUCs of first methods differ from those of second ones on the same images, each `(P,)`.

    first, second: the means.
    covariance: over images, of the two means.
    parts: the variance of the difference, by source.
    """

    first: Means
    second: Means
    covariance: Floats
    parts: Parts

    @property
    def change(self) -> Floats:
        """First less second."""
        return self.first.auc - self.second.auc

    def variance(self, *splits: Split) -> Callable[[Floats], Floats]:
        """The variance that the difference has, as a function of what the true one is `(P,) -> (P,)`.

        The larger of what images show, as DeLong et al., and of what they would at AUCs that far apart and as near as
        can be to those observed.

        Args:
            splits: The one that both were tested on, or that of the first and that of the second.
        """
        sides = [(self.first, splits[0]), (self.second, splits[-1])]
        middle = (self.first.auc + self.second.auc) / 2
        scales = [_scale(means, split) for means, split in sides]
        product = self.first.parts.images * self.second.parts.images
        known = product > _NOTHING**2
        correlation = np.where(known, self.covariance / np.sqrt(np.where(known, product, 1)), 0)
        correlation = np.clip(correlation, -1, 1)

        def of(change: Floats) -> Floats:
            aucs = np.stack([middle + change / 2, middle - change / 2])
            aucs -= np.maximum(aucs.max(axis=0) - 1, 0)
            one, other = (
                scale * model_variance(auc, split) for scale, auc, (_, split) in zip(scales, aucs, sides, strict=True)
            )
            expected = one + other - 2 * correlation * np.sqrt(one * other)
            return np.asarray(np.maximum(self.parts.images, expected) + self.parts.seeds)

        return of

    def interval(self, *splits: Split, level: float = LEVEL) -> tuple[Floats, Floats]:
        """All differences that two-sided `level` does not reject: 0 is among them where `p_value` exceeds the level."""
        critical, variance = critical_value(level, self.parts), self.variance(*splits)

        def inside(change: Floats) -> NDArray[np.bool_]:
            return np.asarray(np.abs(self.change - change) <= critical * np.sqrt(variance(change)))

        limit = np.ones_like(self.change)
        return _edge(inside, self.change, -limit), _edge(inside, self.change, limit)

    def p_value(self, *splits: Split) -> Floats:
        """Two-sided p of no difference `(P,)`."""
        variance = self.variance(*splits)(np.zeros_like(self.change))
        distance = np.abs(self.change) / np.sqrt(np.maximum(variance, _NOTHING))
        return np.where(distance > 1e-9, tail(distance, self.parts), 1.0)
