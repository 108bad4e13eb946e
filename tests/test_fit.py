"""What fits on a card: the search, and its limits against direct predictions."""

from dataclasses import replace

import pytest

from benchmarks.fit import GIB, RESOLUTIONS, largest_fitting, limits, needed_bytes, parse_memory
from benchmarks.phases import MemoryPoint
from benchmarks.predict import CONTEXT_BYTES, predict_memory

POINT = MemoryPoint("vpt", 224, 16, "vit_tiny_patch16_224", precision="bf16", attention="sdpa")


@pytest.mark.parametrize("text", ["24GB", "24GiB", "24", "24 gb"])
def test_memory_is_read_as_sold(text: str) -> None:
    assert parse_memory(text) == 24 * GIB


@pytest.mark.parametrize("text", ["", "0GB", "-8GB", "8TB", "much"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="gpu-memory must be like 24GB, got"):
        parse_memory(text)


@pytest.mark.parametrize("limit", range(9))
def test_the_largest_is_found_wherever_it_is(limit: int) -> None:
    candidates = [1, 2, 3, 4, 5, 6, 7]
    expected = min(limit, 7) or None
    assert largest_fitting(candidates, lambda candidate: candidate <= limit) == expected


def test_what_is_needed_has_a_margin_and_the_context() -> None:
    peak = max(phase.allocated for phase in predict_memory(POINT).phases.values())
    assert needed_bytes(POINT) == int(peak * 1.05) + CONTEXT_BYTES["train"]


def test_limits_fit_and_the_next_do_not() -> None:
    memory = int(1.6 * GIB)
    found = limits(POINT, memory)
    assert found.batch_size is not None and found.resolution is not None
    assert needed_bytes(replace(POINT, batch_size=found.batch_size)) <= memory * 1.01
    assert needed_bytes(replace(POINT, batch_size=found.batch_size + 4)) > memory * 0.99
    larger = RESOLUTIONS[RESOLUTIONS.index(found.resolution) + 1]
    assert needed_bytes(replace(POINT, resolution=found.resolution)) <= memory * 1.01
    assert needed_bytes(replace(POINT, resolution=larger)) > memory * 0.99


def test_a_card_may_be_too_small_for_anything() -> None:
    found = limits(POINT, CONTEXT_BYTES["train"])
    assert (found.resolution, found.batch_size) == (None, None)
