"""The model that weights are fitted to: a backbone by name, at the image side that it was pretrained with."""

import timm
import torch
from torch import nn

from benchmarks.model.backbone import BACKBONES
from benchmarks.model.medical import MEDICAL
from benchmarks.model.named import NamedBackbone
from benchmarks.model.published import is_published, published_backbone


def named_backbone(name: str) -> NamedBackbone | None:
    """What a name stands for that is not timm's; None for timm's own.

    Raises:
        UserError: It is of a repository or folder that describes no timm model.
        MachineError: The hub cannot be reached or refuses.
    """
    return published_backbone(name) if is_published(name) else MEDICAL.get(name)


def make_native(name: str) -> nn.Module:
    """The model on the meta device: names and shapes without numbers.

    Raises:
        UserError: As `named_backbone` says.
        MachineError: Likewise.
    """
    named = named_backbone(name)
    with torch.device("meta"):
        if named is not None:
            return named.create()
        return BACKBONES[name].create() if name in BACKBONES else timm.create_model(name, pretrained=False)
