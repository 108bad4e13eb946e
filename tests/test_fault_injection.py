"""A few random kills of a suite; `python tests/fault_injection.py --kills 200` tries many."""

from pathlib import Path

import pytest
from fault_injection import inject

pytestmark = pytest.mark.process

KILLS = 4


def test_a_suite_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    hit, suites, _ = inject(tmp_path, KILLS, seed=7)
    print(f"{sum(hit.values())} kills in {suites} suites: {dict(hit)}")
    assert sum(hit.values()) == KILLS
