"""What Hugging Face peft adds to a backbone's layers: put there, counted, merged.

peft's own wrapper is not used: its `modules_to_save` would keep a frozen second copy of the head.
"""

import dataclasses
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import ImageModel, OptionError, freeze
from methods.low_rank.merging import exchange

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it misses kernels that none asks for

ADAPTER = "default"  # the name that peft gives what it adds
# Fields of peft's configs that fix a random choice, whatever the seed of the run.
_SEEDS = ("projection_prng_key", "projection_seed", "random_loc_seed", "random_seed")
_READ_VALUES = ("BOFT", "UNILORA")  # of indices they make, so even on the meta device these need some
# What peft raises where a tuner cannot have a layer, or an option.
REFUSALS = (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, UserWarning, ValueError)


class TunedModel(ImageModel):
    """A frozen backbone with peft's additions, and a new head."""

    def train(self, mode: bool = True) -> "TunedModel":
        """As any module's; LoHa and LoKr draw in training whether to leave an update out, which no option asks for."""
        from peft.tuners.lycoris_utils import LycorisLayer

        super().train(mode)
        for layer in tuned_layers(self):
            if isinstance(layer, LycorisLayer):
                layer.train(False)
        return self

    def no_weight_decay(self) -> set[str]:
        """Vectors that peft holds as matrices or kernels of one column."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and parameter.ndim > 1 and sum(size > 1 for size in parameter.shape) <= 1
        }


def add_updates(backbone: Backbone, kind: str, layers: Iterable[str], **options: Any) -> None:
    """Freezes a backbone and adds what a tuner of peft trains to some of its layers.

    Random choices follow torch's seed. On the meta device nothing is drawn or decomposed.

    Args:
        backbone: Its layers are replaced.
        kind: The tuner, a name of `peft.PeftType`.
        layers: Their names in the trunk.
        options: Of the tuner's config.

    Raises:
        OptionError: The tuner cannot have these layers, or not with these options.
    """
    import peft  # slow to import, and few methods need it

    freeze(backbone)
    _compile_nothing()
    device = next(backbone.trunk.parameters()).device
    if device.type == "meta":
        options.pop("init_lora_weights", None)
    try:
        kinds = peft.mapping
        make: Any = kinds.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[kind]]
        fields = {field.name for field in dataclasses.fields(make)}
        options |= {name: torch.initial_seed() % 2**31 for name in _SEEDS if name in fields}
        with warnings.catch_warnings(), torch.device("cpu" if kind in _READ_VALUES else device):
            if "save_projection" in fields:  # shared by all layers, made anew from the seed
                options |= {"save_projection": False}
                warnings.filterwarnings("ignore", message="Specified to not save")
            # peft makes another number than was asked for
            warnings.filterwarnings("error", message="Invalid `|The symmetric initialization")
            config = make(target_modules=pattern(layers), **options)
            kinds.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](backbone.trunk, config, adapter_name=ADAPTER)
    except REFUSALS as error:
        raise OptionError(
            f"options must suit the backbone's layers, but peft's {kind} refuses: {first_line(error)}"
        ) from error
    for layer in tuned_layers(backbone):
        _register(layer)
    backbone.to(device)


def tuned_layers(model: nn.Module) -> Iterator[Any]:
    """The layers that peft has added to."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (module for module in model.modules() if isinstance(module, BaseTunerLayer))


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Adds the updates to the weights; the model computes the same without them."""

    def merged(layer: Any) -> Any:
        layer.merge()
        return layer.get_base_layer()

    exchange(model, set(tuned_layers(model)).__contains__, merged)
    return model


def sizes(layers: Mapping[str, nn.Module]) -> list[tuple[int, int]]:
    """Inputs and outputs of each layer; of a convolution, all inputs within its kernel."""
    found = []
    for layer in layers.values():
        if isinstance(layer, nn.Conv2d):
            found.append((layer.in_channels * math.prod(layer.kernel_size), layer.out_channels))
        else:
            assert isinstance(layer, nn.Linear)
            found.append((layer.in_features, layer.out_features))
    return found


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def pattern(layers: Iterable[str]) -> str:
    """What matches these names and no other, as peft's configs take it."""
    return "|".join(map(re.escape, layers))


def _compile_nothing() -> None:
    """Keeps BOFT from compiling an extension at run time, so that it is the same on every machine."""
    from peft.tuners.boft import layer

    layer._FBD_CUDA = False


def _register(layer: Any) -> None:
    """Makes buffers of tensors that a layer holds in plain dicts, so that they move with it."""
    from peft.tuners._buffer_dict import BufferDict

    for name in layer.other_param_names:
        value = vars(layer).get(name)
        if isinstance(value, dict) and value and all(isinstance(tensor, Tensor) for tensor in value.values()):
            delattr(layer, name)
            setattr(layer, name, BufferDict(value))
