"""Whether what is asked for to save memory can be had."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.errors import UserError
from benchmarks.model.build import Parts, build_parts
from benchmarks.model.variants import Variant
from benchmarks.training.optimizers import check_optimizer
from benchmarks.training.quantized import has_frozen_layers
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
    if settings["quantize"] != "none":
        for variant in variants:
            if reason := why_not_quantized(variant.method, variant.config, backbone):
                raise UserError(
                    f"quantize must be none for {variant.name}, {reason}, got {settings['quantize']!r}; leave out "
                    "--quantize, or the method"
                )
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
    return _starts_from_data(variant.method, variant.config, _on_meta(variant.method, variant.config, backbone))


def _starts_from_data(method: str, config: Any, parts: Parts) -> bool:
    if METHODS[method].gradient_free or METHODS[method].has_extractor:
        return False
    with torch.device("meta"):
        return METHODS[method].recipe(parts.model, config, 1).prepare is not None


def _on_meta(method: str, config: Any, backbone: str) -> Parts:
    with torch.device("meta"):
        return build_parts(method, config, backbone, 2)


@functools.cache
def why_not_quantized(method: str, config: Any, backbone: str) -> str:
    """Why the weights of a backbone cannot be quantised under a method, with its Config; empty where they can."""
    parts = _on_meta(method, config, backbone)
    if _starts_from_data(method, config, parts):
        return "which starts from data with weights in fp32"
    return "" if has_frozen_layers(parts) else "which leaves no linear layer of the backbone frozen"
