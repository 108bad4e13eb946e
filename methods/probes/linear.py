"""Linear probe: a linear classifier on the frozen backbone's pooled feature, standardised.

Only the head trains (0 parameters besides the head). Where its extractor runs in every step, the image is augmented as
every method's is; a feature that is computed once and kept in the feature cache is of the image as it is, so that a
probe on preloaded features trains without augmentation. Pooling is the backbone's own.

Each of the feature's F numbers is shifted and scaled to mean 0 and standard deviation 1 over the training split, as its
scale differs from backbone to backbone by a factor of ten and more, and a rate that suits one would not suit another.
Mean and deviation belong to the model: buffers, which do not train.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Batches, Method, Recipe, new_head
from methods.probes.pooled import extractor


@dataclass(frozen=True)
class Config:
    """Defaults of the linear probe (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 3e-3
    weight_decay: float = 1e-4


class LinearProbe(nn.Module):
    """One linear layer on the standardised feature.

    Args:
        num_features: Width F of the pooled feature.
        num_classes: Number of classes C.

    Attributes:
        mean, std: Of the feature over the training split `(F,)`; 0 and 1 until `standardize` has seen it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        self.head = new_head(num_features, num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: a linear layer saves no activations worth recomputing."""

    def standardized(self, feature: Tensor) -> Tensor:
        """Features `(B, F)` of mean 0 and deviation 1 over the training split."""
        return (feature - self.mean) / self.std

    def forward(self, feature: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - feature: `(B, F)`
            - Output: logits `(B, C)`
        """
        logits: Tensor = self.head(self.standardized(feature))
        return logits


@torch.no_grad()
def standardize(model: nn.Module, batches: Batches) -> None:
    """Sets mean and standard deviation to those of the training split's features, accumulated in float64.

    Batches are merged by the update of Chan, Golub & LeVeque (1979), which cancels nothing where a feature's mean is
    large beside its deviation. A number that is the same for all images, up to the rounding of fp32, is only shifted.

    Args:
        model: A `LinearProbe`.
        batches: Those of `Recipe.prepare`, at least one.
    """
    assert isinstance(model, LinearProbe)
    count = 0
    mean = squares = torch.zeros_like(model.mean, dtype=torch.float64)
    for inputs, _ in batches:
        feature = inputs["feature"].double()  # (B, F)
        own = feature.mean(dim=0)
        total = count + len(feature)
        squares = squares + (feature - own).square().sum(dim=0) + (own - mean).square() * (count * len(feature) / total)
        mean, count = mean + (own - mean) * (len(feature) / total), total
    std = (squares / count).sqrt()
    varies = std > torch.finfo(torch.float32).eps * mean.abs()
    model.mean.copy_(mean)
    model.std.copy_(torch.where(varies, std, 1.0))


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Trains by the defaults, on features standardised before."""
    return Recipe(prepare=standardize)


def build(backbone: Backbone, num_classes: int, config: Config) -> LinearProbe:
    """Builds the classifier; the backbone lives in the extractor."""
    return LinearProbe(backbone.num_features, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """Nothing besides the head."""
    return 0


METHOD = Method(
    "linear",
    "Linear probe",
    "a classifier on frozen features",
    Config,
    build,
    count,
    extractor=extractor,
    recipe=recipe,
    starts_with_head_alone=True,
)
