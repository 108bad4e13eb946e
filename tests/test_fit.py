"""What fits on a card: the search, and its limits against direct predictions."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.memory.card_fit import BATCHES, RESOLUTIONS, largest_fitting, limits
from benchmarks.memory.needs import CONTEXT_BYTES, GIB, needed_bytes, parse_memory, room_on
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory

POINT = MemoryPoint("vpt", 224, 16, "vit_tiny_patch16_224", precision="bf16", attention="sdpa")


@pytest.mark.parametrize("text", ["24GB", "24GiB", "24", "24 gb"])
def test_memory_is_read_as_sold(text: str) -> None:
    assert parse_memory(text) == 24 * GIB


@pytest.mark.parametrize("text", ["", "0GB", "-8GB", "8TB", "much"])
def test_other_amounts_are_refused(text: str) -> None:
    unknown = "gpu-memory must be like 24GB, or a card's name like RTX 4090, got"
    with pytest.raises(ValueError, match=rf"{unknown}|gpu-memory in GB must be above 0, got .0.$"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("name", "size"), [("RTX 4090", 24), ("nvidia t4", 16), ("A100-40GB", 40), ("a100 80gb", 80), ("H200", 141)]
)
def test_a_card_is_known_by_its_name(name: str, size: int) -> None:
    assert parse_memory(name) == size * GIB


def test_a_card_of_several_sizes_is_asked_for_its_own() -> None:
    with pytest.raises(ValueError, match=r"this card's sizes, as A100-40GB or A100-80GB, got 'A100'$"):
        parse_memory("A100")


@pytest.mark.parametrize("limit", range(9))
@pytest.mark.parametrize("guess", [0, 1, 4, 7, 99])
def test_the_largest_is_found_wherever_it_is(limit: int, guess: int) -> None:
    candidates = [1, 2, 3, 4, 5, 6, 7]
    expected = min(limit, 7) or None
    assert largest_fitting(candidates, lambda candidate: candidate <= limit, guess) == expected


def test_a_good_guess_takes_two_questions() -> None:
    asked: list[int] = []

    def fits(batch: int) -> bool:
        asked.append(batch)
        return batch <= 50

    assert largest_fitting(BATCHES, fits, 51) == 48
    assert asked == [48, 56]


def test_what_is_needed_has_a_margin_and_the_context() -> None:
    prediction = predict_memory(POINT)
    peak = max(phase.allocated for phase in prediction.phases.values())
    assert needed_bytes(prediction.highest.allocated) == int(peak * 1.05) + CONTEXT_BYTES["train"]


@pytest.mark.slow
def test_limits_fit_and_the_next_do_not(tmp_path: Path) -> None:
    memory = int(1.6 * GIB)
    found = limits(POINT, memory, tmp_path)
    assert found.batch_size is not None and found.resolution is not None
    batch = BATCHES[BATCHES.index(found.batch_size) + 1]
    resolution = RESOLUTIONS[RESOLUTIONS.index(found.resolution) + 1]
    for point in (replace(POINT, batch_size=found.batch_size), replace(POINT, resolution=found.resolution)):
        assert needed_bytes(predict_memory(point).highest.allocated) <= memory
    for point in (replace(POINT, batch_size=batch), replace(POINT, resolution=resolution)):
        assert needed_bytes(predict_memory(point).highest.allocated) > memory


def test_a_card_may_be_too_small_for_anything(tmp_path: Path) -> None:
    found = limits(POINT, CONTEXT_BYTES["train"], tmp_path)
    assert (found.resolution, found.batch_size) == (None, None)


@pytest.mark.parametrize("memory", [GIB, 8 * GIB, 8 * GIB + 1, 24 * GIB - 7])
def test_room_on_a_card_is_the_most_that_it_needs_no_more_for(memory: int) -> None:
    assert needed_bytes(room_on(memory)) <= memory < needed_bytes(room_on(memory) + 2)
    assert room_on(CONTEXT_BYTES["train"] - 1) < 0
