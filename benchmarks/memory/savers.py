"""The savers of memory one by one: each alone, and those that go together at once."""

from dataclasses import replace
from typing import Any

from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.model.method_config import make_config
from benchmarks.model.variants import Variant
from benchmarks.training.savers import check_savers

# Those that leave all numbers as they are come first.
SAVERS: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute": "cheap"},
    "checkpointing": {"grad_checkpointing": True},
    "offload": {"offload": "activations"},
    "SGD or Lion": {"optimizer": "sgd"},
    "8-bit AdamW": {"optimizer": "adamw8bit"},
    "bf16 weights": {"frozen_weights": "bf16"},
    "int8 weights": {"quantize": "int8"},
    "NF4 weights": {"quantize": "nf4"},
    "all but SGD": {
        **{"grad_checkpointing": True, "offload": "activations"},
        **{"optimizer": "adamw8bit", "frozen_weights": "bf16"},
    },
    "all but SGD, NF4 weights": {
        **{"grad_checkpointing": True, "offload": "activations"},
        **{"optimizer": "adamw8bit", "quantize": "nf4"},
    },
}


def with_each_saver(point: MemoryPoint) -> dict[str, MemoryPoint]:
    """A point with each of `SAVERS`, by name; some are refused, see `why_refused`."""
    return {name: replace(point, **savers) for name, savers in SAVERS.items()}


def check_point(point: MemoryPoint) -> None:
    """Refuses savers that do not go together with the method, as commands do that are told them.

    Raises:
        UserError: Which, and what to do.
    """
    variant = Variant(point.method, point.options, point.options, make_config(point.method, dict(point.options)))
    check_savers(vars(point), [point.precision], [variant], point.backbone)


def why_refused(point: MemoryPoint) -> UserError | None:
    """What `check_point` raises."""
    try:
        check_point(point)
    except UserError as error:
        return error
    return None
