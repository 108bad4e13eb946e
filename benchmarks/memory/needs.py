"""What a card must have for a run, from the memory that the run allocates, and what a card has."""

import math
import re

from benchmarks.bounds import read_number
from benchmarks.choices import CARDS
from benchmarks.errors import UserError

MARGIN = 0.05  # of what is allocated: fragmentation, and the prediction's error
# CUDA context with the kernels and libraries loaded by each phase: as measured on an H100, driver 580, CUDA 13.0.
# What preparation loads was never measured: taken as preloading's.
_CONTEXT_MIB = {"setup": 610, "preload": 686, "prepare": 686, "train": 758, "eval": 758}
GIB = 2**30
CONTEXT_BYTES = {phase: size * 2**20 for phase, size in _CONTEXT_MIB.items()}


def needed_bytes(highest: int) -> int:
    """What a card must have: the highest peak of a run's phases, the margin and the CUDA context, all in bytes."""
    return int(highest * (1 + MARGIN)) + CONTEXT_BYTES["train"]


def room_on(memory: int) -> int:
    """The highest peak of which `needed_bytes` is within a card's memory, in bytes; below 0 where there is none."""
    return math.floor((memory - CONTEXT_BYTES["train"]) / (1 + MARGIN))


def parse_memory(text: str) -> int:
    """Reads a card's memory, in bytes: `24GB`, `24GiB` and `24` all are 24 GiB, as cards sold as 24 GB hold.

    Args:
        text: An amount, or the name of a card (`RTX 4090`), with its size where it is sold with several (`A100-40GB`).

    Raises:
        UserError: It is neither.
    """
    plain = re.sub(r"nvidia|geforce|tesla|[\s_-]", "", text.lower())
    sized = {f"{card}{size}gb": size for card, sizes in CARDS.items() for size in sizes}
    if plain in CARDS and len(CARDS[plain]) > 1:
        choices = " or ".join(f"{text.strip()}-{size}GB" for size in CARDS[plain])
        raise UserError(f"gpu-memory must say which of this card's sizes, as {choices}, got {text!r}")
    if plain in CARDS or plain in sized:
        return sized.get(plain, CARDS.get(plain, (0,))[0]) * GIB
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:gi?b)?", text.strip().lower())
    if not match:
        raise UserError(f"gpu-memory must be like 24GB, or a card's name like RTX 4090, got {text!r}")
    return int(read_number("gpu_memory", match[1], "gpu-memory in GB") * GIB)
