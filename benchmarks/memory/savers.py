"""The savers of memory one by one: each alone, and those that go together at once."""

from dataclasses import replace
from typing import Any

from benchmarks.memory.point import MemoryPoint
from benchmarks.model.method_config import make_config
from benchmarks.training.savers import why_not_quantized

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
    """A point with each of `SAVERS` that it can have, by name.

    Weights in bf16 only where it computes in bf16; quantised ones where its method leaves linear layers frozen.
    """
    config = make_config(point.method, dict(point.options))
    saving = {name: replace(point, **savers) for name, savers in SAVERS.items()}
    return {
        name: one
        for name, one in saving.items()
        if (one.frozen_weights == "fp32" or one.precision == "bf16")
        and (one.quantize == "none" or not why_not_quantized(point.method, config, point.backbone))
    }
