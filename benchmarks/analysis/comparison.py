"""Methods tested on the same images: the interval of each one's AUC, and how they differ, over images and seeds.

A cell is a method's runs, its evidence by seed. Of two cells the seeds they share are compared, pair by pair. With one
shared seed nothing is known of training anew: what is said is then of these trained models, and of no method.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import (
    LEVEL,
    Differences,
    Means,
    Parts,
    Split,
    interval,
    make_split,
    unpaired,
    variance_parts,
)
from benchmarks.analysis.influence import Floats, Integers
from benchmarks.analysis.statistics import holm

Cell = Mapping[int, Evidence]

FEWEST = 5  # units of a class: with fewer, no two methods are compared


class Interval(NamedTuple):
    """The 95 % interval of a mean AUC, and its standard error by source; `seeds` is None for one seed."""

    low: float
    high: float
    images: float
    seeds: float | None


class Comparison(NamedTuple):
    """How the mean AUC of one cell differs from that of another.

    change: first less second; low, high: its interval, at 1 less the level of the comparison; p: two-sided;
    num_seeds: that both have. With one, all this is of two trained models.
    wins: the share of seeds at which the first is higher, ties counting half: an estimate of the probability that a new
        training of it is; wins_low, wins_high: the 95 % interval of that probability. None for one seed, and where
        seeds are not paired.
    """

    change: float
    low: float
    high: float
    p: float
    num_seeds: int
    wins: float | None = None
    wins_low: float | None = None
    wins_high: float | None = None

    def turned(self) -> "Comparison":
        """Second less first."""
        wins = self.wins, self.wins_high, self.wins_low
        return Comparison(
            0 - self.change, 0 - self.high, 0 - self.low, self.p, self.num_seeds,  # 0 less 0 has no sign
            *(None if share is None else 1 - share for share in wins),
        )  # fmt: skip


Pairs = Mapping[tuple[int, int], Comparison | None]  # of cells by their numbers, each pair once


def between(compared: Pairs, first: int, second: int) -> Comparison | None:
    """How the first cell differs from the second, whichever way round the pair was compared."""
    found = compared.get((second, first))
    return found.turned() if found else compared.get((first, second))


class SameImages:
    """Cells whose runs were all tested on the same images.

    Args:
        cells: Each with at least one run.

    Raises:
        ValueError: The images are not the same.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        runs = [run for cell in cells for run in cell.values()]
        if len({run.images for run in runs}) != 1:
            raise ValueError("cells must be tested on the same images, got others")
        numbers = iter(range(len(runs)))
        self._places = [{seed: next(numbers) for seed in cell} for cell in cells]
        self._aucs = np.array([run.auc for run in runs])
        influences = np.array([run.influence for run in runs])
        self._products = influences @ influences.T
        first, effects = runs[0], [run.design_effect for run in runs]
        self._split = make_split(first.class_images, first.class_units, effects, first.num_parts)

    @property
    def fewest(self) -> int:
        """Units of the rarest class."""
        return self._split.fewest

    def intervals(self) -> list[Interval | None]:
        """Of each cell; None where a class sits in a single unit."""
        if self._split.fewest < 2:
            return [None] * len(self._places)
        found: list[Interval | None] = [None] * len(self._places)
        for num_seeds in {len(places) for places in self._places}:
            alike = [i for i, places in enumerate(self._places) if len(places) == num_seeds]
            means = self._means(np.array([list(self._places[i].values()) for i in alike]))
            low, high = interval(means, self._split)
            images, seeds = (np.sqrt(part) for part in means.parts[:2])
            for k, i in enumerate(alike):
                of_seeds = float(seeds[k]) if num_seeds > 1 else None
                found[i] = Interval(float(low[k]), float(high[k]), float(images[k]), of_seeds)
        return found

    def compare(self, pairs: Sequence[tuple[int, int]], level: float = LEVEL) -> list[Comparison | None]:
        """Compares cells by their numbers; None for those that share no seed, and where a class has too few units."""
        found: list[Comparison | None] = [None] * len(pairs)
        if self._split.fewest < FEWEST:
            return found
        shared = [[seed for seed in self._places[i] if seed in self._places[j]] for i, j in pairs]
        for num_seeds in {len(seeds) for seeds in shared} - {0}:
            alike = [k for k, seeds in enumerate(shared) if len(seeds) == num_seeds]
            sides = [
                np.array([[self._places[pairs[k][side]][seed] for seed in shared[k]] for k in alike]) for side in (0, 1)
            ]
            differences = self._differences(*sides)
            low, high = differences.interval(self._split, level=level)
            p_values = differences.p_value(self._split)
            for number, k in enumerate(alike):
                ends = float(low[number]), float(high[number])
                wins = _wins(self._aucs[sides[0][number]] - self._aucs[sides[1][number]])
                change = float(differences.change[number])
                found[k] = Comparison(change, *ends, float(p_values[number]), num_seeds, *wins)
        return found

    def variance(self, first: int, second: int) -> tuple[float, int, Parts] | None:
        """How two cells differ at the seeds that both have: first less second, the number of seeds, its variance."""
        shared = [seed for seed in self._places[first] if seed in self._places[second]]
        if not shared:
            return None
        sides = [np.array([[self._places[cell][seed] for seed in shared]]) for cell in (first, second)]
        found = self._differences(*sides)
        images = np.maximum(found.variance(self._split)(found.change) - found.parts.seeds, 0)
        return float(found.change[0]), len(shared), found.parts._replace(images=images)

    def by_seed(self, first: int, second: int) -> tuple[Floats, float]:
        """First less second at each of two or more shared seeds, and the mean's variance over images if endless."""
        shared = [seed for seed in self._places[first] if seed in self._places[second]]
        one, two = ([self._places[cell][seed] for seed in shared] for cell in (first, second))
        products = sum(
            sign * self._products[np.ix_(rows, columns)]
            for sign, rows, columns in ((1, one, one), (1, two, two), (-1, one, two), (-1, two, one))
        )
        between_seeds = (products.sum() - np.trace(products)) / (len(shared) * (len(shared) - 1))
        return self._aucs[one] - self._aucs[two], max(float(between_seeds), 0.0)

    def compare_unpaired(self, first: int, second: int) -> Comparison | None:
        """Compares two cells over all their seeds, which have nothing to do with each other."""
        if self._split.fewest < FEWEST:
            return None
        places = [np.array([list(self._places[cell].values())]) for cell in (first, second)]
        means = [self._means(place) for place in places]
        covariance = self._products[np.ix_(places[0][0], places[1][0])].mean(keepdims=True)[0]
        images = means[0].parts.images + means[1].parts.images - 2 * covariance
        num_seeds = min(place.shape[1] for place in places)
        parts = unpaired(means[0].parts, means[1].parts, images)
        if num_seeds == 1:
            parts = variance_parts(np.zeros((1, 1)), images, images)
        differences = Differences(means[0], means[1], covariance, parts)
        low, high = differences.interval(self._split)
        p = float(differences.p_value(self._split)[0])
        return Comparison(float(differences.change[0]), float(low[0]), float(high[0]), p, num_seeds)

    def mean_of(self, seeds: Sequence[int]) -> tuple[Means, Floats, Split]:
        """Of the only cell: the mean over some seeds, their AUCs `(1, S)`, and the split that it was tested on."""
        (places,) = self._places
        rows = np.array([[places[seed] for seed in seeds]])
        return self._means(rows), self._aucs[rows], self._split

    def _means(self, places: Integers) -> Means:
        """The means over runs `(P, S)`."""
        blocks = self._products[places[:, :, None], places[:, None, :]]  # (P, S, S)
        each, mean = np.trace(blocks, axis1=1, axis2=2) / places.shape[1], blocks.mean(axis=(1, 2))
        aucs = self._aucs[places]
        return Means(aucs.mean(axis=1), variance_parts(aucs, each, mean), each)

    def _differences(self, first: Integers, second: Integers) -> Differences:
        """The differences between means over runs `(P, S)`, the seeds in the same order."""
        means = self._means(first), self._means(second)
        blocks = self._products[first[:, :, None], second[:, None, :]]
        covariance = blocks.mean(axis=(1, 2))
        together = np.trace(blocks, axis1=1, axis2=2) / first.shape[1]
        each = means[0].each + means[1].each - 2 * together
        mean = means[0].parts.images + means[1].parts.images - 2 * covariance
        parts = variance_parts(self._aucs[first] - self._aucs[second], np.maximum(each, 0), np.maximum(mean, 0))
        return Differences(*means, covariance, parts)


def _wins(differences: Floats) -> tuple[float, float, float] | tuple[None, None, None]:
    """The share of seeds that the first wins, and the exact 95 % interval of the probability behind it.

    Source: Bouthillier et al., MLSys 2021; Clopper, Pearson, Biometrika 26 (1934), 404-413.
    """
    num = len(differences)
    if num == 1:
        return None, None, None
    ties = int((np.abs(differences) < 1e-12).sum())
    won = int((differences >= 1e-12).sum())
    low = float(betaincinv(won, num - won + 1, LEVEL / 2)) if won else 0.0
    high = float(betaincinv(won + ties + 1, num - won - ties, 1 - LEVEL / 2)) if won + ties < num else 1.0
    return (won + ties / 2) / num, low, high


def best_p(compared: Pairs, cells: Sequence[int]) -> dict[int, float]:
    """Of each cell the p that it is as good as every other: small where some other is better, whichever that is.

    Hsu's comparison with the best, by Bonferroni over a cell's rivals; and Holm over the cells, so that among methods
    that are all alike the chance to call any of them worse than the best stays at the level, however the best turned
    out to be which.

    Args:
        compared: All pairs of the cells.
        cells: Which to compare.

    Returns:
        By cell; without those that could not be compared with all others.

    Source: Hsu, Multiple Comparisons (1996), chapter 4; Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    worse: dict[int, float] = {}
    for cell in cells:
        against = [found for other in cells if (found := between(compared, cell, other))]
        sides = [found.p / 2 if found.change < 0 else 1 - found.p / 2 for found in against]
        if sides and len(sides) == len(cells) - 1:
            worse[cell] = min(1.0, len(sides) * min(sides))
    return dict(zip(worse, holm(list(worse.values())), strict=True))
