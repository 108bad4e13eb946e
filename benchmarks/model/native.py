"""The network that weights are fitted to: a backbone by name, at the image side that it was pretrained with."""

from typing import Any

import torch
from torch import nn

from benchmarks.errors import UserError, one_line
from benchmarks.model.backbone import create_backbone
from benchmarks.model.published import named_backbone
from benchmarks.model.spec import parse_spec


def make_native(backbone: str) -> nn.Module:
    """The network on the meta device: names and shapes without numbers.

    Args:
        backbone: Its name, with its settings.

    Raises:
        UserError: There is no such backbone, or it cannot be made with these settings.
        MachineError: The hub, which describes it, cannot be reached or refuses.
    """
    spec = parse_spec(backbone)
    named = named_backbone(spec.name)
    with torch.device("meta"):
        if named is None:
            trunk: Any = create_backbone(backbone).trunk
            return trunk
        try:
            return named.create(**spec.args)
        except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
            raise UserError(f"backbone must be one that can be made, got {backbone!r}: {one_line(error)}") from error
