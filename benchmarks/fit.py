"""What fits on a card: the largest resolution and batch of a method, and the card that a setting needs; predicted."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.phases import MemoryPoint
from benchmarks.predict import CONTEXT_BYTES, predict_memory

CARDS_GB = (8, 12, 16, 24, 40, 80)
MARGIN = 0.05  # of what is allocated: fragmentation, and the prediction's error
RESOLUTIONS = (128, 224, 256, 320, 384, 448, 512, 576, 640, 768, 896, 1024, 1152, 1280, 1536)
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """The largest settings that fit; None where not even the smallest does."""

    resolution: int | None
    batch_size: int | None


def parse_memory(text: str) -> int:
    """Reads a card's memory, in bytes: `24GB`, `24GiB` and `24` all are 24 GiB, as cards sold as 24 GB hold.

    Raises:
        ValueError: It is no amount of memory.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:gi?b)?", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise ValueError(f"gpu-memory must be like 24GB, got {text!r}")
    return int(float(match[1]) * GIB)


def needed_bytes(point: MemoryPoint) -> int:
    """What a card must have for a point: the highest peak of its phases, the margin and the CUDA context."""
    peak = max(phase.allocated for phase in predict_memory(point).phases.values())
    return int(peak * (1 + MARGIN)) + CONTEXT_BYTES["train"]


def largest_fitting(candidates: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest candidate that fits, by bisection; None if none does.

    Args:
        candidates: In ascending order; below one that fits, all fit.
        fits: Whether a candidate fits.
    """
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if fits(candidates[middle]):
            low = middle + 1
        else:
            high = middle
    return candidates[low - 1] if low else None


def limits(point: MemoryPoint, memory: int) -> Limits:
    """The largest resolution at the point's batch size, and the largest batch at its resolution.

    Inputs and activations grow with the batch, and the rest does not: two batch sizes tell all others.

    Args:
        point: The setting; its resolution and batch size are varied one at a time.
        memory: Bytes of the card.
    """

    def fits(resolution: int) -> bool:
        return needed_bytes(replace(point, resolution=resolution)) <= memory

    small, large = (needed_bytes(replace(point, batch_size=size)) for size in (8, 16))
    batch = 8 + math.floor((memory - small) / ((large - small) / 8))
    return Limits(largest_fitting(RESOLUTIONS, fits), batch if batch >= 1 else None)
