"""Resamples of a test split, as weights of its images: the same ones for every model tested on it; arrays only."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.analysis.influence import Floats, Integers

NUM_RESAMPLES = 200  # a standard error from as many is itself off by 5 %
_DRAWS = 50  # of one stratum, in search of one in which no class is missing


def resample_weights(
    members: NDArray[np.bool_], units: Integers, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Floats:
    """How often each image counts in each bootstrap resample.

    Units (patients, or images) are drawn with replacement within strata: a unit's stratum is the rarest of its classes,
    by the units that have one. Of the n units of a stratum n - 1 are drawn and each counts n / (n - 1) times, without
    which a variance would be too small by that factor (Rao and Wu); one that is alone there counts once. A resample
    that lacks a class, as may happen where patients have images of several, is drawn again; after many draws it is the
    split itself.

    Args:
        members: Which images have which class `(n, K)`; every class occurs, an image may have several.
        units: What was drawn together `(n,)`, 0 to the number of units less one.
        seed: Of the resamples: what is tested on the same images has the same ones.
        num_resamples: How many.

    Shape:
        - Output: `(num_resamples, n)`

    Source: Rao, Wu, Journal of the American Statistical Association 83 (1988), 231-241; Davison, Hinkley, Bootstrap
    Methods and their Application (1997), section 3.2.
    """
    num_units = int(units.max()) + 1
    has = np.zeros((num_units, members.shape[1]), dtype=bool)  # (U, K)
    np.logical_or.at(has, units, members)
    strata = np.where(has, has.sum(axis=0), num_units + 1).argmin(axis=1)
    rng = np.random.default_rng(seed)
    weights = np.ones((num_resamples, num_units))
    lacking = np.arange(num_resamples)
    for _ in range(_DRAWS):
        for stratum in np.unique(strata):
            drawn = np.flatnonzero(strata == stratum)
            weights[np.ix_(lacking, drawn)] = _drawn(len(drawn), len(lacking), rng)
        lacking = lacking[(weights[lacking] @ has == 0).any(axis=1)]
        if len(lacking) == 0:
            break
    weights[lacking] = 1
    return weights[:, units]


def _drawn(num: int, num_resamples: int, rng: np.random.Generator) -> Floats:
    """Weights of the units of a stratum `(num_resamples, num)`."""
    if num == 1:
        return np.ones((num_resamples, 1))
    counts = rng.multinomial(num - 1, np.full(num, 1 / num), num_resamples)
    return np.asarray(counts * (num / (num - 1)))
