"""What fits on a card: the largest resolution and batch of a method, and the card that a setting needs; predicted."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.memory.needs import CONTEXT_BYTES, MARGIN, needed_bytes
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction
from benchmarks.memory.prediction_cache import predict_point

RESOLUTIONS = (128, 224, 256, 320, 384, 448, 512, 576, 640, 768, 896, 1024, 1152, 1280, 1536)
BATCHES = (*range(1, 32), *range(32, 128, 8), *range(128, 1025, 32))


@dataclass(frozen=True)
class Limits:
    """The largest settings that fit; None where not even the smallest does."""

    resolution: int | None
    batch_size: int | None


def largest_fitting(candidates: Sequence[int], fits: Callable[[int], bool], guess: int) -> int | None:
    """The largest candidate that fits, None if none does; a good guess costs two questions.

    Args:
        candidates: In ascending order; below one that fits, all fit.
        fits: Whether a candidate fits.
        guess: About the largest one that fits.
    """
    place = max(bisect_right(candidates, guess) - 1, 0)
    if fits(candidates[place]):
        while place + 1 < len(candidates) and fits(candidates[place + 1]):
            place += 1
        return candidates[place]
    while place and not fits(candidates[place - 1]):
        place -= 1
    return candidates[place - 1] if place else None


def limits(point: MemoryPoint, memory: int, cache: Path) -> Limits:
    """The largest of `RESOLUTIONS` at the point's batch size, and the largest of `BATCHES` at its resolution.

    Args:
        point: The setting; its resolution and batch size are varied one at a time.
        memory: Bytes of the card.
        cache: Folder of caches, where predictions are kept.
    """

    def fits(other: MemoryPoint) -> bool:
        return needed_bytes(predict_point(other, cache).highest.allocated) <= memory

    growth = max(_growth(predict_point(point, cache), memory), 0.0)
    side = int(point.resolution * math.sqrt(growth))
    return Limits(
        largest_fitting(RESOLUTIONS, lambda resolution: fits(replace(point, resolution=resolution)), side),
        largest_fitting(BATCHES, lambda batch: fits(replace(point, batch_size=batch)), int(point.batch_size * growth)),
    )


def _growth(prediction: Prediction, memory: int) -> float:
    """About how many times a point's images may hold more pixels: all but what belongs to parameters grows alike."""
    room = (memory - CONTEXT_BYTES["train"]) / (1 + MARGIN)
    fixed = {
        name: sum(phase.breakdown.get(purpose, 0) for purpose in ("parameters", "gradients", "optimizer_state"))
        for name, phase in prediction.phases.items()
    }
    return min((room - fixed[name]) / (phase.allocated - fixed[name] + 1) for name, phase in prediction.phases.items())
