"""Ranks over datasets against scipy and published examples."""

import math

import numpy as np
import pytest
from fixed_records import make_record
from scipy import stats

from benchmarks.analysis.ranks import (
    Ranking,
    average_ranks,
    critical_difference,
    friedman_p,
    indistinguishable,
    ranking,
)
from benchmarks.analysis.summary import summary
from benchmarks.records.frame import runs_frame


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


def test_ranks_run_over_what_every_method_has() -> None:
    aucs = {"full": (0.9, 0.8, 0.9), "lora": (0.8, 0.9, 0.8), "vpt": (0.7, 0.7, None)}
    records = [
        make_record(method, side, auc=auc)
        for method, values in aucs.items()
        for side, auc in zip((224, 448, 896), values, strict=True)
        if auc is not None
    ]
    found = ranking(summary(runs_frame(records)))
    assert isinstance(found, Ranking)
    assert (found.methods, found.ranks) == (["full", "lora", "vpt"], [1.5, 1.5, 3.0])
    assert (found.rows, found.left_out) == ([("Demo", 224), ("Demo", 448)], [("Demo", 896)])
    assert found.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / 12), abs=1e-3)
    assert ranking(summary(runs_frame(records[:6]))) == "ranks need three methods, there are 2"
    one = summary(runs_frame([make_record(method) for method in aucs]))
    assert ranking(one) == ("ranks need two datasets or resolutions in which every method has an AUC, there are 1")
