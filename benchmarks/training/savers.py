"""Whether what is asked for to save memory can be had."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.errors import UserError
from benchmarks.model.build import build_parts
from benchmarks.model.variants import Variant
from benchmarks.training.optimizers import check_optimizer
from methods import METHODS


def check_savers(
    settings: Mapping[str, Any], precisions: Sequence[str], variants: Sequence[Variant], backbone: str
) -> None:
    """Refuses what is not installed, or does not go together.

    Args:
        settings: The fields of `config.Savers`, and maybe more.
        precisions: Those that will be run.
        variants: The methods that will be run.
        backbone: Its name, with its settings.

    Raises:
        UserError: Which setting must be another.
    """
    check_optimizer(settings["optimizer"])
    _check_recompute(settings)
    if settings["frozen_weights"] == "fp32":
        return
    others = [precision for precision in precisions if precision != "bf16"]
    if others:
        raise UserError(
            f"frozen weights in bf16 must have precision bf16, got {others[0]!r}; add --precision bf16, or leave out "
            "--frozen-weights"
        )
    for variant in variants:
        if starts_from_data(variant, backbone):
            raise UserError(
                f"frozen weights must lie in fp32 for {variant.name}, which starts from data in fp32, got bf16; leave "
                "out --frozen-weights, or the method"
            )


def _check_recompute(settings: Mapping[str, Any]) -> None:
    if settings["recompute"] == "none":
        return
    for name, off in (("grad_checkpointing", False), ("offload", "none"), ("compile", "none")):
        value = settings.get(name, off)
        if value != off and not isinstance(value, list):  # of a grid, which leaves out what does not go together
            raise UserError(
                f"{name} must be left out with recompute cheap, whose blocks keep on the device what is dear to "
                f"compute, got {value}; or leave out --recompute"
            )


def starts_from_data(variant: Variant, backbone: str) -> bool:
    """Whether a method that trains puts training images through the backbone before; found on the meta device."""
    method = METHODS[variant.method]
    if method.gradient_free or method.has_extractor:
        return False
    with torch.device("meta"):
        model = build_parts(variant.method, variant.config, backbone, 2).model
        return method.recipe(model, variant.config, 1).prepare is not None
