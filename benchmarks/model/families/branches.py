"""Small changes to timm's blocks, after which they compute the same and can be added to."""

from collections.abc import Mapping
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


class Followed(nn.Module):
    """A layer, whatever it takes beside its input, and modules behind it, one after another.

    Args:
        layer: Called with all arguments.
        behind: Each gets what comes out of the one before.
    """

    def __init__(self, layer: nn.Module, *behind: nn.Module) -> None:
        super().__init__()
        self.layer, self.behind = layer, nn.Sequential(*behind)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The last module's output."""
        output: Tensor = self.behind(self.layer(x, *args, **kwargs))
        return output


class Beside(nn.Module):
    """The sum of a branch and a module beside it, of the same input.

    Args:
        branch: What was there; gets whatever else there is.
        module: What is added to it.
    """

    def __init__(self, branch: nn.Module, module: nn.Module) -> None:
        super().__init__()
        self.branch, self.module = branch, module

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Both outputs' sum."""
        output: Tensor = self.branch(x, *args, **kwargs) + self.module(x)
        return output


class ChannelsLast(nn.Module):
    """A module that wants channels last, within a network that has them in front of the places.

    Args:
        module: Gets `(B, H, W, C)`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """From `(B, C, H, W)` to the same."""
        output: Tensor = self.module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return output


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


def joint_rows(layers: Mapping[str, Any]) -> dict[str, tuple[slice, ...]]:
    """The rows of queries and of values in joint projections of queries, keys and values, by the layers' names."""
    thirds = {name: layer.out_features // 3 for name, layer in layers.items()}
    return {name: (slice(0, third), slice(2 * third, 3 * third)) for name, third in thirds.items()}
