"""SimpleShot, the nearest class mean (Wang et al., arXiv 1911.04623), its form CL2N.

Nothing trains. The frozen backbone's pooled features are centred by the mean of all training images, then L2-normalised
(CL2N); the class is that of the nearest mean mu_c of its training images. Logits are -|z - mu_c|^2, as they are: at a
temperature of 1, so that their order, which AUC goes by, is the distances'.

Every class counts alike, however many images it has. A class without any has no mean: it gets -4, which is the largest
squared distance that there can be, as features and means lie within the unit ball.

Of several findings each is a task of two classes, with it and without it, whose means are those of the images of which
it is known: its logit is the difference of the two classes' logits, |z - mu_without|^2 - |z - mu_with|^2.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Batches, Method, Recipe
from methods.probes.pooled import extractor

FARTHEST = 4.0  # squared, of two points of the unit ball


@dataclass(frozen=True)
class Config:
    """The nearest class mean has no options."""


class NearestMean(nn.Module):
    """The mean of all training features, and each class's of those that are centred and normalised.

    Args:
        num_features: Width F of the pooled feature.
        num_classes: Number of classes C.

    Attributes:
        centre: Mean of the training features `(F,)`.
        means: Of each class `(C, F)`; of findings those without and with each `(2, C, F)`.
        known: Which of them have training images `(C,)` or `(2, C)`; none until `average` has seen them.
    """

    centre: Tensor
    means: Tensor
    known: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("means", torch.zeros(num_classes, num_features))
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: there is no backward pass."""

    def forward(self, feature: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - feature: `(B, F)`
            - Output: logits `(B, C)`
        """
        with torch.autocast(feature.device.type, enabled=False):
            z = F.normalize(feature.float() - self.centre, dim=1)
            places = z[:, None] if self.means.ndim == 2 else z[:, None, None]
            distances = (places - self.means).square().sum(dim=-1)  # (B, C) or (B, 2, C)
            logits = torch.where(self.known, -distances, -FARTHEST)
            return logits if logits.ndim == 2 else logits[:, 1] - logits[:, 0]


@torch.no_grad()
def average(model: nn.Module, batches: Batches) -> None:
    """Sets the means by the training split, in two passes, summed in float64.

    Args:
        model: A `NearestMean`.
        batches: Those of `Recipe.prepare`, at least one.
    """
    assert isinstance(model, NearestMean)
    total, count = torch.zeros_like(model.centre, dtype=torch.float64), 0
    for inputs, _ in batches:
        total, count = total + inputs["feature"].double().sum(dim=0), count + len(inputs["feature"])
    model.centre.copy_(total / count)
    num_classes = model.means.shape[-2]
    sums: Tensor | float = 0.0
    sizes: Tensor | float = 0.0
    for inputs, labels in batches:
        z = F.normalize(inputs["feature"].double() - model.centre, dim=1)
        if labels.ndim == 2:
            members = torch.stack([labels == 0, labels == 1], dim=1).double()  # (B, 2, C)
        else:
            members = F.one_hot(labels, num_classes).double()  # (B, C)
        sums = sums + torch.einsum("b...,bf->...f", members, z)
        sizes = sizes + members.sum(dim=0)
    assert isinstance(sums, Tensor) and isinstance(sizes, Tensor)
    model.means = (sums / sizes.clamp(min=1).unsqueeze(-1)).float()
    model.known = sizes > 0


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Averages the training split."""
    return Recipe(prepare=average)


def build(backbone: Backbone, num_classes: int, config: Config) -> NearestMean:
    """Builds the means, all zero yet; the backbone lives in the extractor."""
    return NearestMean(backbone.num_features, num_classes)


def count(backbone: Backbone, config: Any) -> int:
    """Nothing trains."""
    return 0


METHOD = Method(
    "simpleshot",
    "SimpleShot",
    "Wang et al., 2019, arXiv 1911.04623",
    Config,
    build,
    count,
    extractor=extractor,
    recipe=recipe,
    gradient_free=True,
)
