"""Statistics against scikit-learn, scipy, published values and definitions written out as loops."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.analysis.statistics import (
    auc_of_each_resample,
    bootstrap_p,
    delong_p,
    holm,
    macro_auc,
    percentile_interval,
    placements,
    seeds_p,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def predictions(num_images: int, num_classes: int, seed: int, decimals: int = 1) -> tuple[Integers, Floats]:
    """Labels and rounded, so often tied, probabilities that know something of the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    rng.shuffle(labels)
    scores = rng.random((num_images, num_classes)) + 0.4 * np.eye(num_classes)[labels]
    return labels, np.round(scores / scores.sum(axis=1, keepdims=True), decimals)


def naive_auc(labels: Integers, scores: Floats) -> float:
    return float(np.mean([roc_auc_score(labels == c, scores[:, c]) for c in range(scores.shape[1])]))


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_auc_equals_scikit_learn(num_classes: int) -> None:
    labels, scores = predictions(83, num_classes, seed=2)
    assert macro_auc(labels, scores) == pytest.approx(naive_auc(labels, scores), abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("grouped", [False, True])
def test_bootstrap_equals_a_loop_over_scikit_learn(num_classes: int, grouped: bool) -> None:
    labels, scores = predictions(31, num_classes, seed=3)
    units = np.arange(31) // 3 if grouped else np.arange(31)
    resampled = auc_of_each_resample(labels, scores, units, num_resamples=60, seed=5)
    assert resampled is not None
    num_units = int(units.max()) + 1
    expected = []
    for draw in np.random.default_rng(5).integers(num_units, size=(250, num_units)):
        images = [i for unit in draw for i in np.flatnonzero(units == unit)]
        if len(set(labels[images])) == num_classes:
            expected.append(naive_auc(labels[images], scores[images]))
        if len(expected) == 60:
            break
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=1e-12)


def test_counts_too_large_for_32_bits_are_summed_exactly() -> None:
    num_images, num_units = 99_000, 3  # a draw holds 99,000 images, and up to 99,000 squared / 2 pairs, twice
    labels, scores = predictions(num_images, 2, seed=4, decimals=3)
    units = np.arange(num_images) // (num_images // num_units)
    resampled = auc_of_each_resample(labels, scores, units, num_resamples=4)
    draws = np.random.default_rng(0).integers(num_units, size=(250, num_units))[:4]
    weights = [np.bincount(draw, minlength=num_units)[units] for draw in draws]
    expected = [np.mean([roc_auc_score(labels == c, scores[:, c], sample_weight=w) for c in (0, 1)]) for w in weights]
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=1e-12)  # type: ignore[arg-type]


def test_the_same_images_are_drawn_for_every_model_and_class_counts_may_be_small() -> None:
    labels, scores = predictions(40, 2, seed=0)
    units = np.arange(40)
    one, two = (auc_of_each_resample(labels, values, units) for values in (scores, scores**3))
    np.testing.assert_array_equal(one, two)  # a monotone change of all scores changes no rank
    rare = np.array([1, *[0] * 39])
    resampled = auc_of_each_resample(rare, scores, units, num_resamples=300)
    assert resampled is not None and len(resampled) == 300 and np.isfinite(resampled).all()


def test_classes_too_rare_to_resample_have_no_bootstrap() -> None:
    labels = np.arange(30)  # a draw with all of 30 images is one in 10^12
    assert auc_of_each_resample(labels, np.eye(30), np.arange(30), num_resamples=10) is None


def test_interval_covers_as_often_as_it_says() -> None:
    """Two normal classes one apart have an AUC of Phi(1 / sqrt 2)."""
    truth = stats.norm.cdf(1 / math.sqrt(2))
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 60)
    hits = 0
    for _ in range(150):
        score = rng.normal(size=120) + labels
        resampled = auc_of_each_resample(labels, np.stack([-score, score], 1), np.arange(120), num_resamples=250)
        assert resampled is not None
        low, high = percentile_interval(resampled)
        hits += low <= truth <= high
    assert 0.89 <= hits / 150 <= 0.99  # 0.95 within three standard errors


def naive_delong(labels: Integers, first: Floats, second: Floats) -> float:
    """The test as DeLong et al. define it: every pair compared, the covariance matrix of both sides written out."""
    components = []
    for score in (first, second):
        pairs = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in score[labels == 0]] for x in score[labels == 1]]
        components.append((np.mean(pairs, axis=1), np.mean(pairs, axis=0)))
    covariance = sum(
        np.cov(np.stack([components[0][side], components[1][side]])) / len(components[0][side]) for side in (0, 1)
    )
    contrast = np.array([1.0, -1.0])
    aucs = np.array([component[0].mean() for component in components])
    z = contrast @ aucs / math.sqrt(contrast @ covariance @ contrast)
    return float(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("seed", range(4))
def test_delong_equals_its_definition(seed: int) -> None:
    labels, first = predictions(47, 2, seed)
    _, second = predictions(47, 2, seed + 50)
    first[:, 0], second[:, 0] = 1 - first[:, 1], 1 - second[:, 1]
    one, two = placements(labels, first), placements(labels, second)
    for side in (0, 1):
        assert one[labels == side].mean() == pytest.approx(roc_auc_score(labels, first[:, 1]), abs=1e-12)
    assert delong_p(labels, one, two) == pytest.approx(naive_delong(labels, first[:, 1], second[:, 1]), rel=1e-9)
    assert delong_p(labels, one, one) == 1.0


def test_delong_and_paired_bootstrap_agree() -> None:
    labels, first = predictions(400, 2, seed=8, decimals=4)
    second = first + np.random.default_rng(0).normal(scale=0.04, size=first.shape)
    first[:, 0], second[:, 0] = -first[:, 1], -second[:, 1]
    one, two = (auc_of_each_resample(labels, scores, np.arange(400)) for scores in (first, second))
    assert one is not None and two is not None
    exact = delong_p(labels, placements(labels, first), placements(labels, second))
    assert exact is not None and 0.0005 < exact < 0.2
    assert bootstrap_p(one - two) == pytest.approx(exact, abs=0.03)


def test_delong_says_where_it_cannot_tell() -> None:
    labels = np.array([0, 0, 1, 1])
    right, wrong = np.ones(4), np.zeros(4)
    assert delong_p(labels, right, wrong) is None  # no variance
    assert delong_p(np.array([0, 0, 0, 1]), right, np.full(4, 0.5)) is None  # one image of a class


def test_bootstrap_p_counts_the_smaller_tail_twice() -> None:
    assert bootstrap_p(np.array([-1.0, 1, 2, 3, 4, 5, 6, 7, 8])) == pytest.approx(2 * 2 / 10)
    assert bootstrap_p(np.ones(1999)) == pytest.approx(0.001)
    assert bootstrap_p(-np.ones(1999)) == pytest.approx(0.001)
    assert bootstrap_p(np.zeros(99)) == 1


def test_holm_is_the_worked_example() -> None:
    # Four hypotheses at 0.05: the smallest is multiplied by 4, the next by 3, and no value falls below an earlier one.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_are_compared_by_t_tests() -> None:
    one, two = [0.80, 0.82, 0.85], [0.81, 0.84, 0.86]
    assert seeds_p(one, two, paired=True) == pytest.approx(stats.ttest_rel(one, two).pvalue)
    assert seeds_p(one, two[:2], paired=False) == pytest.approx(stats.ttest_ind(one, two[:2], equal_var=False).pvalue)
    assert seeds_p(one, one, paired=True) == seeds_p([0.5, 0.5], [0.5, 0.5], paired=False) == 1
    assert seeds_p([0.5, 0.5], [0.6, 0.6], paired=False) is None
    assert seeds_p([0.5, 0.6], [0.6, 0.7], paired=True) is None
    assert seeds_p([0.5], [0.6], paired=True) is None
