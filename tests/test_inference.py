"""Intervals and tests over images and seeds, against definitions written out, published numbers and simulation."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from benchmarks.analysis.comparison import Comparison, SameImages, _wins, best_p
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import (
    Differences,
    Means,
    Parts,
    Split,
    critical_value,
    interval,
    model_variance,
    tail,
    unpaired,
    variance_parts,
)
from benchmarks.analysis.influence import influence, placements, units_of_classes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def predictions(num_images: int, num_classes: int, seed: int, decimals: int = 1) -> tuple[Integers, Floats]:
    """Labels and rounded, so often tied, scores that know something of the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    rng.shuffle(labels)
    scores = rng.random((num_images, num_classes)) + 0.4 * np.eye(num_classes)[labels]
    return labels, np.round(scores / scores.sum(axis=1, keepdims=True), decimals)


def naive_auc(labels: Integers, scores: Floats) -> float:
    return float(np.mean([roc_auc_score(labels == c, scores[:, c]) for c in range(scores.shape[1])]))


def naive_placements(positive: NDArray[np.bool_], scores: Floats) -> list[float]:
    """The share of the other side that each image outranks, ties counting half, one pair at a time."""
    return [
        float(
            np.mean(
                [
                    0.5 if scores[i] == scores[j] else float((scores[i] > scores[j]) == positive[i])
                    for j in np.flatnonzero(positive != positive[i])
                ]
            )
        )
        for i in range(len(scores))
    ]


def evidence(auc: float, influences: Floats, num_images: tuple[int, ...] = (300, 300)) -> Evidence:
    counts = np.array(num_images)
    return Evidence("d", "image", auc, influences, 1.0, counts, counts)


def means(aucs: list[list[float]], each: float = 4e-4, mean: float = 4e-4) -> Means:
    values = np.array(aucs)
    of_one, of_mean = np.full(len(values), each), np.full(len(values), mean)
    return Means(values.mean(axis=1), variance_parts(values, of_one, of_mean), of_one)


SPLIT = Split(np.array([70.0, 30.0]), np.array([30.0, 70.0]), 30)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_auc_equals_scikit_learn(num_classes: int) -> None:
    labels, scores = predictions(83, num_classes, seed=2)
    found = influence(labels, scores, np.arange(83))
    assert found.auc == pytest.approx(naive_auc(labels, scores), abs=1e-12)
    assert found.design_effect == 1


@pytest.mark.parametrize("seed", range(3))
def test_variance_of_two_classes_is_delongs(seed: int) -> None:
    labels, scores = predictions(41, 2, seed)
    _, others = predictions(41, 2, seed + 10)
    values = [np.array(naive_placements(labels == 1, table[:, 1])) for table in (scores, others)]
    for one, two in itertools.product((0, 1), repeat=2):
        expected = sum(
            np.cov(values[one][labels == side], values[two][labels == side])[0, 1] / (labels == side).sum()
            for side in (0, 1)
        )
        first, second = (influence(labels, table, np.arange(41)) for table in ([scores, others][i] for i in (one, two)))
        assert first.units @ second.units == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(placements(labels == 1, scores[:, 1]), values[0])


def test_variance_of_groups_is_obuchowskis() -> None:
    """The sums over each patient, written out; the patients have images of one class, or of both."""
    labels, scores = predictions(60, 2, seed=4)
    for units in (np.arange(60) // 4, np.where(labels == 1, labels.cumsum() // 3, 100 + np.arange(60) // 5)):
        units = np.unique(units, return_inverse=True)[1]
        values = np.array(naive_placements(labels == 1, scores[:, 1]))
        auc = values[labels == 1].mean()
        parts = {}
        for side in (0, 1):
            holders = sorted(set(units[labels == side]))
            sums = {u: float((values - auc)[(units == u) & (labels == side)].sum()) for u in holders}
            parts[side] = (sums, len(holders), int((labels == side).sum()))
        variance = sum(
            count / (count - 1) * sum(value**2 for value in sums.values()) / num**2
            for sums, count, num in parts.values()
        )
        shared = set(parts[0][0]) & set(parts[1][0])
        factor = math.prod(math.sqrt(count / (count - 1)) for _, count, _ in parts.values())
        variance += 2 * factor * sum(parts[0][0][u] * parts[1][0][u] for u in shared) / (parts[0][2] * parts[1][2])
        assert np.sum(influence(labels, scores, units).units ** 2) == pytest.approx(variance, rel=1e-9)


def test_variance_of_more_classes_is_the_jackknifes() -> None:
    """Leaving out one image at a time, the spread of the AUCs within each class gives its part of the variance."""
    labels, scores = predictions(90, 3, seed=5, decimals=3)
    left_out = np.array(
        [naive_auc(np.delete(labels, i), np.delete(scores, i, axis=0)) for i in range(90)], dtype=np.float64
    )
    expected = sum(
        (count - 1) / count * float(((left_out[labels == c] - left_out[labels == c].mean()) ** 2).sum())
        for c, count in enumerate(np.bincount(labels))
    )
    assert np.sum(influence(labels, scores, np.arange(90)).units ** 2) == pytest.approx(expected, rel=0.02)


def test_copies_of_images_say_nothing_new() -> None:
    """Each patient has the same image six times over: as many images, the information of one each."""
    labels, scores = predictions(40, 2, seed=6)
    once = influence(labels, scores, np.arange(40))
    copied = influence(np.repeat(labels, 6), np.repeat(scores, 6, axis=0), np.repeat(np.arange(40), 6))
    assert np.sum(copied.units**2) == pytest.approx(np.sum(once.units**2))
    assert copied.design_effect == pytest.approx(6, rel=0.2)


def test_a_class_in_a_single_patient_leaves_the_variance_unknown() -> None:
    labels, units = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2])
    assert units_of_classes(labels, units).tolist() == [2, 1]
    assert np.isnan(influence(labels, np.eye(2)[labels], units).units).all()
    run = Evidence("d", "group", 1.0, np.full(3, np.nan), 1.0, np.array([2, 2]), np.array([2, 1]))
    assert SameImages([{0: run}]).intervals() == [None]


def test_variance_is_parted_as_by_two_way_analysis_of_variance() -> None:
    """Scores of seeds on images, both drawn: the variance of their mean has the components in closed form."""
    rng = np.random.default_rng(7)
    num_seeds, num_images, sds = 4, 60, (0.3, 2.0, 1.5)
    found = []
    for _ in range(2000):
        seeds, images = sds[0] * rng.normal(size=num_seeds), sds[1] * rng.normal(size=num_images)
        values = seeds[:, None] + images + sds[2] * rng.normal(size=(num_seeds, num_images))
        centred = values - values.mean(axis=1, keepdims=True)
        factor = num_images / (num_images - 1) / num_images**2
        each = factor * (centred**2).sum(axis=1).mean(keepdims=True)
        mean = factor * (centred.mean(axis=0) ** 2).sum(keepdims=True)
        parts = variance_parts(values.mean(axis=1)[None], each, mean)
        found.append((parts.images[0], parts.seeds[0]))
    images_part, seeds_part = np.mean(found, axis=0)
    assert images_part == pytest.approx(sds[1] ** 2 / 60 + sds[2] ** 2 / (4 * 60), rel=0.02)
    assert seeds_part == pytest.approx(sds[0] ** 2 / num_seeds, rel=0.08)  # cut at 0, so slightly high


def test_one_seed_tells_nothing_of_seeds_and_of_more_the_whole_spread_is_told() -> None:
    one = variance_parts(np.array([[0.8]]), np.array([4e-4]), np.array([4e-4]))
    assert (one.seeds[0], one.told[0]) == (0, 0)
    two = variance_parts(np.array([[0.8, 0.82]]), np.array([4e-4]), np.array([3e-4]))
    assert two.seeds[0] == 0 and two.told[0] == pytest.approx(1e-4 / 3e-4)  # spread 1e-4, all of it own errors


def one_part(told: float, df: float) -> Parts:
    return Parts(np.ones(1), np.ones(1), np.array([told]), np.array([df]))


@pytest.mark.parametrize("df", [1, 2, 4, 47])
@pytest.mark.parametrize("distance", [0.3, 3.0, 30.0])
def test_tail_ends_at_the_normals_and_students(df: int, distance: float) -> None:
    where = np.array([distance])
    assert tail(where, one_part(0.0, df))[0] == pytest.approx(2 * stats.norm.sf(distance), rel=1e-9)
    assert tail(where, one_part(1.0, df))[0] == pytest.approx(2 * stats.t.sf(distance, df), rel=1e-5)


@pytest.mark.parametrize("df", [1, 2, 9])
@pytest.mark.parametrize("told", [0.01, 0.3, 0.9])
def test_tail_is_that_of_a_sum_of_a_normal_and_a_students_deviate(df: int, told: float) -> None:
    """Integrated over the normal one by SciPy."""
    for distance in (0.5, 2.5, 8.0):

        def above(z: float, distance: float = distance) -> float:
            sides = (stats.t.sf((distance - s * math.sqrt(1 - told) * z) / math.sqrt(told), df) for s in (1, -1))
            return float(stats.norm.pdf(z)) * sum(map(float, sides))

        expected, _ = integrate.quad(above, -12, 12, limit=200)
        assert tail(np.array([distance]), one_part(told, df))[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("level", [0.05, 0.05 / 54, 1e-9])
@pytest.mark.parametrize("told", [0.0, 1e-6, 0.01, 0.2, 0.9, 1.0])
def test_critical_value_has_the_level_as_its_tail(level: float, told: float) -> None:
    parts = one_part(told, 2.0)
    assert tail(critical_value(level, parts), parts)[0] == pytest.approx(level, rel=1e-3 if level < 1e-6 else 1e-8)
    assert critical_value(level, one_part(0.0, 2.0), 29)[0] == pytest.approx(stats.t.isf(level / 2, 29))


def test_many_equal_methods_of_three_seeds_are_told_apart_no_more_often_than_said() -> None:
    """Images in plenty, so that seeds are what differs; Cochran's critical value failed in a fifth of the trials."""
    rng = np.random.default_rng(12)
    pairs = list(itertools.combinations(range(7), 2))
    wrong = 0
    for _ in range(300):
        runs = 0.004 / 20 * (0.8 * rng.normal(size=400) + 0.6 * rng.normal(size=(7, 3, 400)))  # SE over images 0.004
        aucs = 0.85 + 0.02 * rng.normal(size=(7, 3)) + runs.sum(axis=2)
        cells = [{seed: evidence(aucs[i, seed], runs[i, seed], (5000, 5000)) for seed in range(3)} for i in range(7)]
        compared = dict(zip(pairs, SameImages(cells).compare(pairs), strict=True))
        wrong += min(best_p(compared, range(7)).values()) < 0.05
    assert wrong <= 24  # 15 expected at most, SE 3.8


def test_unpaired_differences_have_the_variances_of_both() -> None:
    """Where seeds are all there is, it is Welch's t test."""
    rng = np.random.default_rng(8)
    values = [rng.normal(0.8, 0.02, 4), rng.normal(0.79, 0.01, 6)]
    sides = [variance_parts(side[None], np.array([1e-12]), np.array([1e-12])) for side in values]
    parts = unpaired(sides[0], sides[1], np.array([1e-12]))
    welch = stats.ttest_ind(*values, equal_var=False)
    assert parts.df[0] == pytest.approx(welch.df, rel=1e-3)
    assert (values[0].mean() - values[1].mean()) / math.sqrt(parts.images[0] + parts.seeds[0]) == pytest.approx(
        welch.statistic, rel=1e-3
    )


def test_model_variance_is_hanley_and_mcneils() -> None:
    """Their formula written out; for 58 normal and 51 abnormal cases at 0.893 their own example has an SE of 0.032."""
    split = Split(np.array([51.0, 58.0]), np.array([58.0, 51.0]), 51)
    area, q1, q2 = 0.893, 0.893 / (2 - 0.893), 2 * 0.893**2 / (1 + 0.893)
    expected = (area * (1 - area) + 50 * (q1 - area**2) + 57 * (q2 - area**2)) / (51 * 58)
    sides = [expected, (area * (1 - area) + 57 * (q1 - area**2) + 50 * (q2 - area**2)) / (51 * 58)]
    found = model_variance(np.array([0.893]), split)[0]
    assert found == pytest.approx(np.mean(np.sqrt(sides)) ** 2)
    assert math.sqrt(found) == pytest.approx(0.032, abs=0.001)


def test_interval_holds_what_the_score_test_does_not_reject() -> None:
    found = means([[0.9], [1.0], [0.6]])
    low, high = interval(found, SPLIT)
    assert ((low < found.auc) & (high >= found.auc)).all() and high[1] == 1
    inner = [0, 2]  # at an AUC of 1 the variance of the estimate is none, and the model's stands alone
    scale = np.maximum(found.parts.images[inner] / model_variance(found.auc[inner], SPLIT), 0.75)
    for ends in (low[inner], high[inner]):
        expected = stats.t.isf(0.025, 59) * np.sqrt(scale * model_variance(ends, SPLIT))
        np.testing.assert_allclose(np.abs(found.auc[inner] - ends), expected, rtol=1e-6)
    # Of 30 and 70 images all told apart, an AUC of 0.94 or so would still be no surprise, and one of 0.8 would.
    assert 0.9 < low[1] < 0.97
    wider = interval(means([[0.88, 0.92, 0.90], [0.90, 0.90, 0.90]]), SPLIT)
    assert wider[0][0] < wider[0][1] and wider[1][0] > wider[1][1]


def test_interval_and_p_never_contradict_each_other() -> None:
    rng = np.random.default_rng(9)
    num = 400
    first, second = (means([[value] * 3 for value in rng.uniform(0.6, 1, num)]) for _ in range(2))
    spread = rng.normal(0, 0.03, (num, 3))
    values = (first.auc - second.auc)[:, None] + spread
    parts = variance_parts(values, np.full(num, 3e-4), np.full(num, 2e-4))
    differences = Differences(first, second, rng.uniform(0, 3e-4, num), parts)
    p = differences.p_value(SPLIT)
    for level in (0.05, 0.05 / 6):
        low, high = differences.interval(SPLIT, level=level)
        zero_inside = (low <= 0) & (high >= 0)
        clear = np.abs(p - level) > 1e-6
        np.testing.assert_array_equal(zero_inside[clear], (p >= level)[clear])
    assert 0.2 < zero_inside.mean() < 0.97


def test_with_many_images_and_one_seed_p_is_delongs() -> None:
    rng = np.random.default_rng(10)
    labels = np.repeat([0, 1], [400, 200])
    shared = rng.normal(size=600) + 1.2 * labels
    tables = [shared + noise * rng.normal(size=600) for noise in (0.5, 0.9)]
    found = [influence(labels, np.stack([-table, table], axis=1), np.arange(600)) for table in tables]
    cells = [{0: Evidence("d", "image", *run, np.array([400, 200]), np.array([400, 200]))} for run in found]
    (comparison,) = SameImages(cells).compare([(0, 1)])
    assert comparison is not None and comparison.num_seeds == 1 and comparison.wins is None
    z = (found[0].auc - found[1].auc) / math.sqrt(np.sum((found[0].units - found[1].units) ** 2))
    assert comparison.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.25)
    assert comparison.change == pytest.approx(found[0].auc - found[1].auc)


def test_with_seeds_alone_p_is_the_paired_t_tests() -> None:
    rng = np.random.default_rng(11)
    aucs = rng.normal(0.8, 0.05, (2, 5))
    cells = [{seed: evidence(auc, np.full(600, 1e-12)) for seed, auc in enumerate(row)} for row in aucs]
    (found,) = SameImages(cells).compare([(0, 1)])
    assert found is not None and found.num_seeds == 5
    assert found.p == pytest.approx(stats.ttest_rel(*aucs).pvalue, rel=1e-9)


def test_seeds_that_both_have_are_compared_and_pairs_too_few_are_not() -> None:
    rng = np.random.default_rng(12)
    runs = [
        {seed: evidence(0.8 + 0.01 * seed, rng.normal(0, 1e-3, 600)) for seed in seeds}
        for seeds in ((0, 1, 2), (1, 2, 3), (7,))
    ]
    found = SameImages(runs).compare([(0, 1), (0, 2)])
    assert found[0] is not None and found[0].num_seeds == 2 and found[0].change == 0
    assert found[1] is None
    few = [{0: evidence(0.9, np.full(600, 1e-3), (4, 596))}, {0: evidence(0.8, np.full(600, 2e-3), (4, 596))}]
    assert SameImages(few).compare([(0, 1)]) == [None]
    other = evidence(0.9, np.full(600, 1e-3))._replace(images="other")
    with pytest.raises(ValueError, match="same images"):
        SameImages([runs[0], {0: other}])


@pytest.mark.parametrize(("won", "num"), [(0, 3), (3, 3), (2, 5), (10, 10)])
def test_the_probability_to_win_has_the_exact_interval(won: int, num: int) -> None:
    share, low, high = _wins(np.array([0.1] * won + [-0.1] * (num - won)))
    expected = stats.binomtest(won, num).proportion_ci(method="exact")
    assert (share, low, high) == pytest.approx((won / num, expected.low, expected.high))


def test_ties_count_half_and_widen_the_interval() -> None:
    share, low, high = _wins(np.array([0.1, 0.0, -0.1]))
    assert share == 0.5
    assert low == pytest.approx(stats.binomtest(1, 3).proportion_ci(method="exact").low)
    assert high == pytest.approx(stats.binomtest(2, 3).proportion_ci(method="exact").high)
    assert _wins(np.array([0.1])) == (None, None, None)


def test_best_is_the_worked_example() -> None:
    """Three methods: B beats A at p .02 and C at .2, A beats C at .9; one-sided halves, two rivals, Holm over three."""

    def pair(change: float, p: float) -> Comparison:
        return Comparison(change, change - 1, change + 1, p, 3)

    compared = {(0, 1): pair(-0.2, 0.02), (0, 2): pair(0.1, 0.9), (1, 2): pair(0.3, 0.2)}
    # A: min(.01, .55) * 2 = .02; B: min(.99, .9) * 2 > 1; C: min(.45, .1) * 2 = .2; Holm: 3 * .02, then 2 * .2.
    assert best_p(compared, [0, 1, 2]) == pytest.approx({0: 0.06, 1: 1.0, 2: 0.4})
    assert best_p(compared | {(1, 2): None}, [0, 1, 2]) == {0: pytest.approx(0.02)}


@pytest.mark.slow
def test_methods_that_are_alike_are_told_apart_as_seldom_as_stated() -> None:
    """Seven equal methods, three seeds with noise of their own: the chance of any false claim, over 200 trials."""
    rng = np.random.default_rng(13)
    labels = np.repeat([0, 1], [140, 60])
    against_full = to_best = pairs_rejected = 0
    for _ in range(200):
        scores = rng.normal(size=200) * math.sqrt(0.5) + 0.5 * rng.normal(size=(7, 1, 200))
        scores = scores + 0.5 * rng.normal(size=(7, 3, 200)) + labels * rng.normal(1.466, 0.06, (7, 3, 1))
        cells = []
        for method in scores:
            found = [influence(labels, np.stack([-row, row], axis=1), np.arange(200)) for row in method]
            counts = np.array([140, 60])
            cells.append({seed: Evidence("d", "image", *run, counts, counts) for seed, run in enumerate(found)})
        tested = SameImages(cells)
        pairs = list(itertools.combinations(range(7), 2))
        compared = dict(zip(pairs, tested.compare(pairs), strict=True))
        p = [compared[0, i].p for i in range(1, 7)]  # type: ignore[union-attr]
        pairs_rejected += sum(value < 0.05 for value in p)
        against_full += min(p) < 0.05 / 6
        to_best += min(best_p(compared, list(range(7))).values()) < 0.05
    assert 0.005 < pairs_rejected / (6 * 200) < 0.065
    assert against_full / 200 < 0.075 and to_best / 200 < 0.075
