"""Small changes to timm's blocks, after which they compute the same and can be added to."""

from typing import Any

from torch import Tensor, nn


class ChannelScale(nn.Module):
    """A layer scale as a layer of its own; None scales nothing.

    Args:
        gamma: A factor a channel, the last axis.
    """

    def __init__(self, gamma: nn.Parameter | None) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """Scales the channels."""
        return x if self.gamma is None else self.gamma * x


def move_scale(block: Any, name: str) -> ChannelScale:
    """Takes a layer scale that a block applies by itself out of it, or gives one that scales nothing."""
    scale = ChannelScale(getattr(block, name))
    setattr(block, name, None)
    return scale


def separate_bias(attn: Any) -> None:
    """Has an attention layer call its projection as a module and add the biases of queries and values after it.

    timm reads its weight otherwise, and what is added to the module is passed over without a word.
    """
    if getattr(attn, "q_bias", None) is not None:
        attn.qkv_bias_separate = True
