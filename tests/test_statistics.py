"""Corrections, ranks and t tests against scipy and published values."""

import pytest
from scipy import stats

from benchmarks.analysis.statistics import (
    holm,
    seeds_p,
)


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
