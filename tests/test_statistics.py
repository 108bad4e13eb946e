"""Corrections, ranks and t tests against scipy and published values."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.analysis.statistics import (
    average_ranks,
    critical_difference,
    friedman_p,
    holm,
    indistinguishable,
    seeds_p,
)


def test_holm_is_the_worked_example() -> None:
    # Four hypotheses at 0.05: the smallest is multiplied by 4, the next by 3, and no value falls below an earlier one.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_critical_difference_is_the_published_one() -> None:
    published = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)  # Demsar 2006, table 5 (a), 0.05
    for num_methods, quantile in enumerate(published, start=2):
        factor = math.sqrt(num_methods * (num_methods + 1) / 6)
        assert critical_difference(num_methods, 1) / factor == pytest.approx(quantile, abs=1e-3)
    tenth = (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)  # the same table at 0.10
    for num_methods, quantile in enumerate(tenth, start=2):
        factor = math.sqrt(num_methods * (num_methods + 1) / 6)
        assert critical_difference(num_methods, 1, level=0.1) / factor == pytest.approx(quantile, abs=1e-3)
    assert critical_difference(4, 14, level=0.1) == pytest.approx(1.12, abs=5e-3)  # its example of section 3.2.3
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)


def test_ranks_and_friedman_equal_scipy() -> None:
    scores = np.array([[0.9, 0.8, 0.7], [0.9, 0.9, 0.1], [0.5, 0.6, 0.4], [0.3, 0.3, 0.3]])
    assert average_ranks(scores).tolist() == [(1 + 1.5 + 2 + 2) / 4, (2 + 1.5 + 1 + 2) / 4, (3 + 3 + 3 + 2) / 4]
    assert friedman_p(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert friedman_p(np.full((4, 3), 0.5)) == 1.0


def test_groups_within_the_critical_difference() -> None:
    ranks = [1.964, 2.0, 2.893, 3.143]  # those of Demsar 2006, table 6
    assert indistinguishable(ranks, 1.25) == [(0, 3)]  # 3.143 - 1.964 = 1.179
    assert indistinguishable(ranks, 1.15) == [(0, 2), (1, 3)]
    assert indistinguishable(ranks, 1.0) == [(0, 2), (2, 3)]
    assert indistinguishable(ranks, 0.1) == [(0, 1)]
    assert indistinguishable([1.0, 2.0, 3.0], 0.5) == []


def test_seeds_are_compared_by_t_tests() -> None:
    one, two = [0.80, 0.82, 0.85], [0.81, 0.84, 0.86]
    assert seeds_p(one, two, paired=True) == pytest.approx(stats.ttest_rel(one, two).pvalue)
    assert seeds_p(one, two[:2], paired=False) == pytest.approx(stats.ttest_ind(one, two[:2], equal_var=False).pvalue)
    assert seeds_p(one, one, paired=True) == seeds_p([0.5, 0.5], [0.5, 0.5], paired=False) == 1
    assert seeds_p([0.5, 0.5], [0.6, 0.6], paired=False) is None
    assert seeds_p([0.5, 0.6], [0.6, 0.7], paired=True) is None
    assert seeds_p([0.5], [0.6], paired=True) is None
