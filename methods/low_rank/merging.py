"""Layers with what a method added to them, exchanged for layers that have it in their weights."""

from collections.abc import Callable
from typing import Any

from torch import nn


def exchange(model: nn.Module, is_updated: Callable[[nn.Module], bool], merged: Callable[[Any], nn.Module]) -> None:
    """Puts another module in the place of each that was updated, wherever it stands.

    Args:
        model: Is changed.
        is_updated: Whether a module is one of those.
        merged: `merged(module)`, what takes its place.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_updated(child):
                setattr(parent, name, merged(child))
