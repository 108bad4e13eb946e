"""The savers of memory one by one: each alone, and those that go together at once."""

from dataclasses import replace
from typing import Any

from benchmarks.memory.point import MemoryPoint

# Those that leave all numbers as they are come first.
SAVERS: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute": "cheap"},
    "checkpointing": {"grad_checkpointing": True},
    "offload": {"offload": "activations"},
    "SGD or Lion": {"optimizer": "sgd"},
    "8-bit AdamW": {"optimizer": "adamw8bit"},
    "bf16 weights": {"frozen_weights": "bf16"},
    "all but SGD": {
        **{"grad_checkpointing": True, "offload": "activations"},
        **{"optimizer": "adamw8bit", "frozen_weights": "bf16"},
    },
}


def with_each_saver(point: MemoryPoint) -> list[MemoryPoint]:
    """A point with each of `SAVERS`; weights in bf16 only where it computes in bf16."""
    fits = [savers for savers in SAVERS.values() if point.precision == "bf16" or "frozen_weights" not in savers]
    return [replace(point, **savers) for savers in fits]
