"""SSF, scaling and shifting features (Lian et al., NeurIPS 2022, arXiv 2210.08823): y = gamma x + beta in each channel.

A scale and a shift follow the patch embedding, and in every block both norms, `qkv`, `proj`, `fc1` and `fc2`, and the
final norm. They and the new head train: L * 22 D + 4 D parameters, 205,824 for a ViT-B. Scales start at N(1, 0.02),
shifts at N(0, 0.02), so the model starts near the pretrained one, not at it.

All of it can be folded into the layers before (`merge`), so that inference costs nothing. Training does: every site
keeps its input for its scale's gradient, and that is more than full fine-tuning keeps.

Defaults are the authors' for VTAB-1k, the nearest of theirs to small medical datasets. Departures: no drop path, no
moving average of the weights; where the final norm stands behind the pooling (`fc_norm`), that is the site.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Bounds, ImageModel, Method, Recipe, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of SSF (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    lr: float = 1e-2
    weight_decay: float = 5e-5
    std: Annotated[float, Bounds(at_least=0)] = 0.02


class ScaleShift(nn.Module):
    """A scale and a shift a channel.

    Args:
        width: Number of channels.
        std: Standard deviation of the start, around 1 and 0.
    """

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1 + std * torch.randn(width))
        self.beta = nn.Parameter(std * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scales and shifts.

        Shape:
            - x: `(B, N, width)`
            - Output: `(B, N, width)`
        """
        return x * self.gamma + self.beta


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, puts a scale and a shift behind its layers and attaches the head."""
    freeze(backbone)
    for parent, name, width in list(backbone.scale_sites()):
        setattr(parent, name, nn.Sequential(getattr(parent, name), ScaleShift(width, config.std)))
    return ImageModel(backbone, num_classes)


def merge(model: nn.Module) -> nn.Module:
    """Folds scales and shifts into the layers before them; the model computes the same without them."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Sequential) and isinstance(child[-1], ScaleShift):
                layer, scale_shift = child
                # The patch embedding mostly has no norm: what comes before is its convolution.
                _fold(parent.proj if isinstance(layer, nn.Identity) else layer, scale_shift)
                setattr(parent, name, layer)
    return model


@torch.no_grad()
def _fold(layer: Any, by: Any) -> None:
    bias = by.beta if layer.bias is None else layer.bias * by.gamma + by.beta
    layer.weight *= by.gamma.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.bias = nn.Parameter(bias.clone())


def count(backbone: Backbone, config: Config) -> int:
    """A scale and a shift a channel; L * 22 D + 4 D where the MLP is as wide as usual."""
    return sum(2 * width for _, _, width in backbone.scale_sites())


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Trains by the defaults; is used merged."""
    return Recipe(before_inference=merge)


METHOD = Method(
    "ssf",
    "SSF",
    "Lian et al., NeurIPS 2022, arXiv 2210.08823",
    Config,
    build,
    count,
    recipe=recipe,
    needs=frozenset({"scales"}),
)
