"""How many seeds, or test images, would tell two methods apart that are as far apart as they look."""

import math
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from benchmarks.analysis.inference import LEVEL, Parts, critical_value
from benchmarks.analysis.influence import Floats

POWER = 0.8
MOST_SEEDS = 100  # more are not worth asking for
_MOST_TIMES = 1000  # as many test units


class Need(NamedTuple):
    """What would do: seeds in all or test units in all, the other as it is, or, where neither does, both together.

    None where no number would, and `together` where one of them does alone.
    """

    seeds: int | None
    units: int | None
    together: tuple[int, int] | None

    @property
    def seeds_to_run(self) -> int | None:
        """Seeds in all that are asked for, be it alone or together with test units."""
        return self.together[0] if self.together else self.seeds


def needed(change: float, parts: Parts, num_seeds: int, num_units: int, level: float) -> Need:
    """What would tell a difference, which is not told now, from none with a probability of `POWER`.

    It is taken to be as large as it looks.

    The variance over images falls with test units, that over seeds with seeds. What seeds tell is taken to be what
    these few have told: two differ from run to run, and so does the answer. Of both together it is the pair, seeds
    doubled and doubled again, of the least product.

    Args:
        change: The difference of mean AUC (0-1), of either sign.
        parts: Its variance by source, arrays `(1,)`.
        num_seeds: That it is the mean of; two or more, as one says nothing of training anew.
        num_units: Of the test split.
        level: One-sided, after any correction for several comparisons.
    """
    images, seeds = float(parts.images[0]), float(parts.seeds[0])
    own = max(float(parts.told[0]) * (images + seeds) - seeds, 0.0)  # of the spread over seeds, what images add to it

    def does(seeds_in_all: int, times: float) -> bool:
        by_images, by_seeds = images / times, seeds * num_seeds / seeds_in_all
        whole = by_images + by_seeds
        spread = by_seeds + own / times * num_seeds / seeds_in_all
        share = np.array([min(spread / whole, 1.0) if whole else 0.0])
        planned = Parts(np.array([by_images]), np.array([by_seeds]), share, np.array([seeds_in_all - 1.0]))
        reach = float(critical_value(2 * level, planned)[0]) + float(ndtri(POWER))
        return abs(change) >= reach * math.sqrt(whole)

    enough = next((number for number in range(num_seeds + 1, MOST_SEEDS + 1) if does(number, 1.0)), None)
    most = _MOST_TIMES * num_units

    def units(seeds_in_all: int) -> int | None:
        fewest = bisect_left(range(most + 1), True, num_units + 1, key=lambda n: does(seeds_in_all, n / num_units))
        return fewest if fewest <= most else None

    alone = units(num_seeds)
    if enough is not None or alone is not None:
        return Need(enough, alone, None)
    pairs = [(seeds_in_all, units(seeds_in_all)) for seeds_in_all in _doubled(num_seeds)]
    found = [(seeds_in_all, fewest) for seeds_in_all, fewest in pairs if fewest is not None]
    return Need(None, None, min(found, key=math.prod, default=None))


def _doubled(num_seeds: int) -> list[int]:
    """Twice as many seeds, and twice as many again, up to `MOST_SEEDS`."""
    return [num_seeds * 2**times for times in range(1, MOST_SEEDS.bit_length()) if num_seeds * 2**times <= MOST_SEEDS]


def within_reach(differences: Floats, images: float, level: float) -> bool:
    """Whether more seeds, on the same images, may yet show that a difference is above 0.

    Endless seeds leave the variance over images, and the mean that seeds have on these. That is taken to be as high as
    the seeds so far let it be at 95 %: what looks out of reach from a few may not be so.

    Args:
        differences: Of AUC (0-1) by seed, two or more.
        images: The variance over images of their mean over endless seeds.
        level: One-sided, after any correction for several comparisons.
    """
    num_seeds = len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(num_seeds)
    highest = float(np.mean(differences)) + float(-stdtrit(num_seeds - 1, LEVEL)) * error
    return highest >= float(-ndtri(level)) * math.sqrt(images)
