"""Any tuner that the installed Hugging Face peft offers, with peft's own defaults: `type` is its name in peft.

It stands where LoRA stands (`methods/low_rank/lora.py`); what it adds and the new head train. Some change the frozen
weights or do not start as the pretrained model, see peft's documentation of each. The model is used as it is, without
merging, which some cannot.

Refused, with the reason: what a tuner of text needs (prompts, tasks, decoders), what needs calls of its own in
training, what has an option that peft cannot guess, what cannot have the backbone's layers, and what reads the weights
while it is built, as its size or memory could not be known ahead. What is a method here is to be asked for by its name.

GraLoRA (Jung et al., arXiv 2505.20355) is the default since it runs on most backbones: W is cut into k x k blocks, k
= 2, of which each has an update of rank R / k, so R (o + i) numbers a layer, R = 32.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.backbone import Backbone
from methods.contract import Method, OptionError
from methods.low_rank.peft_layers import REFUSALS, TunedModel, add_updates, first_line, sizes, tuned_layers

# Tuners that do something else by the same name, or need more than their layers: the method to ask for instead.
ELSEWHERE = {"ADALORA": "adalora", "IA3": "ia3", "LN_TUNING": "layernorm", "SHIRA": "shira"}


@dataclass(frozen=True)
class Config:
    """LoRA's rates; all else is peft's."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    shorthand: ClassVar[str] = "type"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    type: str = "GRALORA"


def build(backbone: Backbone, num_classes: int, config: Config) -> TunedModel:
    """Freezes the backbone, adds the tuner's layers and attaches the head.

    Raises:
        OptionError: peft has no such tuner, or it cannot be used here; the message says why.
    """
    _add(backbone, config)
    return TunedModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """R (D + 3 D) L for GraLoRA on fused projections; of another tuner, what it makes of layers of that size."""
    if config.type == "GRALORA":
        return sum(32 * sum(pair) for pair in sizes(backbone.projections()))
    tuned = copy.deepcopy(backbone)
    _add(tuned, config)
    return sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)


def _add(backbone: Backbone, config: Config) -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    known = sorted(kind.name for kind in PEFT_TYPE_TO_TUNER_MAPPING)
    if config.type not in known:
        raise OptionError(f"type must be one of {', '.join(known)}, got {config.type!r}")
    if config.type in ELSEWHERE:
        raise OptionError(
            f"type must be a tuner that is used as it is, got {config.type!r}; ask for the method "
            f"{ELSEWHERE[config.type]}"
        )
    try:
        add_updates(backbone, config.type, backbone.projections())
        _try(next(tuned_layers(backbone)))
    except OptionError as error:
        raise OptionError(f"type must suit images and the backbone, got {config.type!r}: {error}") from error


def _try(layer: Any) -> None:
    """Runs a layer, as some tuners ask for more than its input; on the meta device it may lack numbers for that."""
    weight: Tensor = layer.get_base_layer().weight
    try:
        with torch.no_grad():
            layer.eval()(torch.zeros(1, 1, weight.shape[1], device=weight.device))
    except REFUSALS as error:
        if not (weight.is_meta and isinstance(error, RuntimeError)):
            raise OptionError(f"its layers cannot be run: {first_line(error)}") from error


METHOD = Method(
    "peft",
    "peft",
    "the tuners of Hugging Face peft",
    Config,
    build,
    count,
    needs=frozenset({"linear_projections", "attention_layers"}),  # some take sequences alone
)
