"""The order of the tests: long files first, so that no worker is left with one at the end."""

import pytest

LONG_FIRST = ("cluster", "process", "browser", "slow", "fuzz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests are marked as long come first; within a file nothing moves."""
    rank: dict[object, int] = {}
    for item in items:
        marked = [LONG_FIRST.index(mark.name) for mark in item.iter_markers() if mark.name in LONG_FIRST]
        rank[item.path] = min([rank.get(item.path, len(LONG_FIRST)), *marked])
    items.sort(key=lambda item: rank[item.path])
