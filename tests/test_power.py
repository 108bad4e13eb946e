"""How many seeds or images would do, against a closed formula and a simulation."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.analysis.inference import Parts, variance_parts
from benchmarks.analysis.power import MOST_SEEDS, needed

LEVEL = 0.025  # one-sided


def parts(images: float, seeds: float) -> Parts:
    whole = images + seeds
    return Parts(*(np.array([value]) for value in (images, seeds, seeds / whole if whole else 0.0, 4.0)))


@pytest.mark.parametrize("change", [0.02, -0.03])
def test_images_alone_follow_the_formula_of_sample_size(change: float) -> None:
    variance, units = 0.03**2, 200
    need = needed(change, parts(variance, 0.0), 5, units, LEVEL)
    factor = (stats.norm.isf(LEVEL) + stats.norm.ppf(0.8)) ** 2 * variance / change**2
    assert need.units == pytest.approx(units * factor, abs=1)
    assert need.seeds is None  # however many: they are no more images


def test_so_many_seeds_tell_in_four_of_five_trials() -> None:
    """Differences of seeds are drawn, and tested by Student's t."""
    change, deviation, now = 0.02, 0.025, 4
    need = needed(change, parts(0.0, deviation**2 / now), now, 200, LEVEL)
    assert need.seeds is not None and need.units is None
    drawn = np.random.default_rng(0).normal(change, deviation, (20_000, need.seeds))
    told = stats.ttest_1samp(drawn, 0.0, axis=1, alternative="greater").pvalue < LEVEL
    assert 0.77 < told.mean() < 0.87
    fewer = stats.ttest_1samp(drawn[:, : need.seeds - 2], 0.0, axis=1, alternative="greater").pvalue < LEVEL
    assert fewer.mean() < 0.77


def test_of_two_sources_each_is_asked_for_alone() -> None:
    many = needed(0.02, parts(0.005**2, 0.009**2), 3, 100, LEVEL)
    assert many.seeds is not None and 3 < many.seeds < MOST_SEEDS
    assert many.units is None  # what seeds leave unsaid no image says
    whole = parts(0.0059**2, 0.0)
    values = np.array([[0.01, 0.02, 0.03]])
    assert variance_parts(values, whole.images, whole.images).seeds[0] == pytest.approx(0.01**2 / 3)


def test_where_neither_does_alone_both_do_together() -> None:
    """Seeds and images are drawn: the mean of so many is told from 0 in four of five trials, and not with half."""
    change, by_image, by_seed, seeds_now, units_now = 0.02, 0.15, 0.02, 4, 50
    stored = parts(by_image**2 / units_now, by_seed**2 / seeds_now)._replace(told=np.array([1.0]))
    need = needed(change, stored, seeds_now, units_now, LEVEL)
    assert need.seeds is None and need.units is None and need.together is not None
    seeds, units = need.together
    assert seeds in (8, 16, 32, 64)
    assert 0.75 < share_told(change, by_image, by_seed, seeds, units) < 0.88
    assert share_told(change, by_image, by_seed, seeds, units // 2) < 0.75


def share_told(change: float, by_image: float, by_seed: float, seeds: int, units: int) -> float:
    """Of 4,000 means over images and seeds, those above what normal variances of known size leave to chance."""
    error = np.sqrt(by_image**2 / units + by_seed**2 / seeds)
    means = np.random.default_rng(0).normal(change, error, 4_000)
    return float((means > stats.norm.isf(LEVEL) * error).mean())


def test_what_no_number_tells_is_said() -> None:
    assert needed(1e-6, parts(0.02**2, 0.01**2), 3, 100, LEVEL) == (None, None, None)
    assert needed(0.0, parts(0.02**2, 0.0), 3, 100, LEVEL) == (None, None, None)


def test_no_fewer_than_there_are() -> None:
    need = needed(0.5, parts(1e-6, 1e-6), 7, 50, LEVEL)
    assert need == (8, 51, None)
