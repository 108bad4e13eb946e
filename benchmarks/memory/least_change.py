"""The least that must change for a setting to train on a card: savers, tried in the order of their cost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.errors import UserError
from benchmarks.memory.needs import needed_bytes
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import predict_point

Settings = dict[str, Any]

# Those that leave all numbers as they are, by the time that they cost.
KEEPING: dict[str, Settings] = {
    "": {},
    "selective checkpointing": {"recompute": "cheap"},
    "checkpointing": {"grad_checkpointing": True},
    "offloaded": {"offload": "activations"},
    "checkpointing, offloaded": {"grad_checkpointing": True, "offload": "activations"},
}
# Those that change numbers, the least first. Lion and SGD keep more than AdamW in 8 bits and want other rates.
CHANGING: dict[str, Settings] = {
    "": {},
    "bf16 weights": {"frozen_weights": "bf16"},
    "8-bit AdamW": {"optimizer": "adamw8bit"},
    "bf16 weights, 8-bit AdamW": {"frozen_weights": "bf16", "optimizer": "adamw8bit"},
    "int8 weights": {"quantize": "int8"},
    "int8 weights, 8-bit AdamW": {"quantize": "int8", "optimizer": "adamw8bit"},
    "NF4 weights": {"quantize": "nf4"},
    "NF4 weights, 8-bit AdamW": {"quantize": "nf4", "optimizer": "adamw8bit"},
    "Lion": {"optimizer": "lion"},
    "bf16 weights, Lion": {"frozen_weights": "bf16", "optimizer": "lion"},
    "SGD": {"optimizer": "sgd"},
    "bf16 weights, SGD": {"frozen_weights": "bf16", "optimizer": "sgd"},
}


@dataclass(frozen=True)
class Change:
    """What is changed in a setting.

    Attributes:
        words: It in words; empty where nothing is.
        settings: Fields of `MemoryPoint`.
        keeps_numbers: Whether a run computes the same with it.
    """

    words: str
    settings: Settings
    keeps_numbers: bool


@dataclass(frozen=True)
class LeastChange:
    """What the search found.

    Attributes:
        change: None where the setting fits with no combination.
        needed_bytes: What a card must have with the change; without one, the least of all that was tried.
    """

    change: Change | None
    needed_bytes: int


def changes(point: MemoryPoint, may_checkpoint: bool, may_bf16: bool) -> Iterator[Change]:
    """Every combination that differs from a point by what it lacks, in the order of their cost, each once.

    Args:
        point: What is changed.
        may_checkpoint: Whether gradient checkpointing is among the changes.
        may_bf16: Whether a point in fp32 may be run in bf16.
    """
    seen: list[Settings] = []
    for precision in ("", "bf16") if may_bf16 and point.precision == "fp32" else ("",):
        for changing, changed in CHANGING.items():
            base: Settings = {"precision": precision} if precision else {}
            if "frozen_weights" in changed and (precision or point.precision) != "bf16":
                continue
            for keeping, kept in KEEPING.items():
                if {"grad_checkpointing", "recompute"} & {*kept} and not may_checkpoint:
                    continue
                wanted = base | changed | kept
                settings = {name: value for name, value in wanted.items() if getattr(point, name) != value}
                if settings not in seen and len(settings) == len(wanted):
                    seen.append(settings)
                    words = ", ".join(filter(None, (precision, changing, keeping)))
                    yield Change(words, settings, not (precision or changing))


def least_change(
    point: MemoryPoint,
    memory: int,
    cache: Path,
    tried: Iterator[Change],
    check: Callable[[MemoryPoint], None],
) -> LeastChange:
    """The first change with which a point fits a card.

    What a method or its backbone refuses, as an optimiser beside its own, is no change for it.

    Args:
        point: The setting; it must be one that its method can work with.
        memory: Bytes of the card.
        cache: Folder of caches, where predictions are kept.
        tried: Changes in the order of their cost; the first is none.
        check: Raises UserError where savers do not go together with the method.

    Raises:
        PredictionError: The memory of the point cannot be predicted.
        UserError: The point itself is refused.
    """
    least: int | None = None
    for change in tried:
        changed = replace(point, **change.settings)
        try:
            check(changed)
            needed = needed_bytes(predict_point(changed, cache).highest.allocated)
        except UserError:
            if not change.settings:
                raise
            continue
        if needed <= memory:
            return LeastChange(change, needed)
        least = needed if least is None else min(least, needed)
    assert least is not None
    return LeastChange(None, least)
