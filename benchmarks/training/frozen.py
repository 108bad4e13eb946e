"""Frozen weights in few bits, or in the type that they compute in."""

from collections.abc import Iterable

import torch
from torch import nn

from benchmarks.config import Precision, Quantize, Savers
from benchmarks.model.build import Parts
from benchmarks.training.quantized import quantize_frozen
from benchmarks.training.step import AUTOCAST_DTYPES

# Layers whose weights autocast casts before it uses them, by their exact class: another one, derived from these, may
# use them otherwise, as to standardise them in fp32.
CAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def cast_frozen(module: nn.Module, precision: Precision, spared: Iterable[nn.Parameter] = ()) -> None:
    """Casts once what autocast would cast in every step: frozen weights and biases of linear and convolution layers.

    What such a layer computes under autocast stays the same bit for bit. All else keeps its type: norms, which CUDA's
    autocast computes in fp32, embeddings of positions, scales, and layers of classes that are derived from these. In
    fp32 nothing changes.

    Args:
        module: Holds the weights; best cast before it goes to a GPU, where both types would take memory.
        precision: Of the forward pass that will use them.
        spared: Parameters that stay as they are, as those that something else uses too.
    """
    dtype = AUTOCAST_DTYPES[precision]
    if dtype is None:
        return
    kept = set(spared)
    for layer in module.modules():
        if type(layer) not in CAST_LAYERS:
            kept.update(layer.parameters(recurse=False))
    for parameter in module.parameters():
        if parameter not in kept and not parameter.requires_grad and parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(dtype)


def save_weights(parts: Parts, savers: Savers) -> None:
    """Makes frozen weights of a method that was built as small as is asked for; best before it goes to a GPU."""
    if savers.quantize != "none":
        quantize_frozen(parts, savers.quantize)
    if savers.frozen_weights == "bf16":
        cast_frozen(parts.model, "bf16")


def weights_type(precision: Precision, quantize: Quantize = "none") -> str:
    """The type of frozen weights that are cast or quantised, as records hold it."""
    return str(AUTOCAST_DTYPES[precision] or torch.float32).removeprefix("torch.") if quantize == "none" else quantize
