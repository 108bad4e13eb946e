"""Head2Toe, a head on features from everywhere in the network (Evci et al., ICML 2022, arXiv 2201.03529).

The frozen backbone's layers are tapped; each tap is averaged over all places and L2-normalised, and all are joined to T
numbers an image. Two stages:

1. Selection, before training, on the training split alone: a linear head W on all T, trained on the run's loss and the
   group lasso `lambda sum_f |W_f|_2` (a group is a feature's C weights). A feature's score is |W_f|^2; the share `keep`
   of the highest scores stays. With keep 1 there is nothing to select, and no such stage.
2. A new linear head on what was kept, trained as every method is.

Nothing but the head trains, but it is wide: T C + C times `keep`. On ViT-B/16 T = 12 (D + D + 4 D + D) + 4 D = 67,584,
of which 6,758 are kept: 8.8 times the width of a linear probe's head.

Taps of a block: the norm before its attention, the attention, the hidden layer of its MLP, the MLP; beside these the
patch embedding, the tokens with their positions, the last norm and the pooled feature. Of networks whose blocks are not
of these parts, each block's output and the pooled feature.

Departures: the authors' loss is cross-entropy, which a run's is for images of one class each. They tap a class vector
and pre-logits apart, which here are the one pooled feature. They train both stages by Adam at a rate of 0.1 for 500
steps of 128. Here the second trains as all methods do; the first takes 10 passes over the training split in the run's
batches (620 steps of 16 for a thousand images), at a rate of its own that follows half a cosine, pass by pass. Features
are kept in half precision (`feature_dtype`). Where the extractor runs in every step its image is augmented in training;
preloaded features are of the image as it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Bounds, Count, Factor, Method, Recipe, Share, TrainingBatches, freeze, new_head
from methods.probes.last_tokens import DTYPES, TokenDtype


@dataclass(frozen=True)
class Config:
    """Defaults of Head2Toe: share and penalty are the authors', rates ours (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 3e-3
    weight_decay: float = 1e-4
    keep: Share = 0.1
    group_lasso: Annotated[float, Bounds(at_least=0)] = 1e-4
    selection_epochs: Count = 10
    selection_lr: Factor = 1e-3
    feature_dtype: TokenDtype = "float16"


class TappedFeatures(nn.Module):
    """The frozen backbone's taps, pooled, normalised and joined.

    Args:
        backbone: The pretrained backbone; its head is dropped.
        storage: Type of the features.
    """

    def __init__(self, backbone: Backbone, storage: TokenDtype) -> None:
        super().__init__()
        freeze(backbone)
        backbone.drop_head()
        self.backbone = backbone
        self.storage = storage
        self.identity: Mapping[str, Any] = {"feature": "layers, averaged and normalised each", "storage": storage}
        self.parts = None
        self.augment_live = True

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Computes the features.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `features` `(B, T)`
        """
        pooled, taps = self.backbone.tapped(image)
        parts = [F.normalize(part.float(), dim=1) for part in (*taps, pooled)]
        return {"features": torch.cat(parts, dim=1).to(DTYPES[self.storage])}


class SelectedFeatures(nn.Module):
    """A head on some of the features.

    Args:
        num_tapped: Number T of features.
        keep: Share of them that is kept.
        num_classes: Number of classes C.

    Attributes:
        selected: Indices of the features that are kept, ascending; the first ones until `select` has chosen.
    """

    selected: Tensor

    def __init__(self, num_tapped: int, keep: float, num_classes: int) -> None:
        super().__init__()
        self.num_tapped = num_tapped
        self.register_buffer("selected", torch.arange(max(round(keep * num_tapped), 1)))
        self.head = new_head(len(self.selected), num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: a linear layer saves no activations worth recomputing."""

    def forward(self, features: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - features: `(B, T)`
            - Output: logits `(B, C)`
        """
        logits: Tensor = self.head(features[:, self.selected])
        return logits


def select(model: nn.Module, batches: TrainingBatches, config: Config) -> None:
    """Trains a head on all features and keeps those of the highest score.

    Args:
        model: A `SelectedFeatures`.
        batches: Those of `Recipe.prepare`.
        config: Of the method.
    """
    assert isinstance(model, SelectedFeatures)
    if len(model.selected) == model.num_tapped:
        return
    device = model.selected.device
    weight = torch.zeros(model.head.out_features, model.num_tapped, device=device, requires_grad=True)  # (C, T)
    bias = torch.zeros(model.head.out_features, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=config.selection_lr, fused=True)
    with torch.enable_grad():
        for epoch in range(config.selection_epochs):
            factor = (1 + math.cos(math.pi * epoch / config.selection_epochs)) / 2
            optimizer.param_groups[0]["lr"] = config.selection_lr * factor
            for inputs, labels in batches:
                loss = batches.loss(F.linear(inputs["features"].float(), weight, bias), labels)
                (loss + config.group_lasso * group_norms(weight).sum()).backward()
                optimizer.step()
                optimizer.zero_grad()
    best = weight.detach().square().sum(dim=0).topk(len(model.selected)).indices
    model.selected.copy_(best.sort().values)


def group_norms(weight: Tensor) -> Tensor:
    """|W_f|_2 of each feature's weights `(C, T)`, with a gradient of 0 where they are all 0."""
    return (weight.square().sum(dim=0) + torch.finfo(weight.dtype).tiny).sqrt()


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Trains by the defaults, on features selected before."""
    return Recipe(prepare=partial(select, config=config))


def build(backbone: Backbone, num_classes: int, config: Config) -> SelectedFeatures:
    """Builds the head; the backbone lives in the extractor."""
    num_tapped = sum(tap.width for tap in backbone.taps()) + backbone.num_features
    return SelectedFeatures(num_tapped, config.keep, num_classes)


def extractor(backbone: Backbone, config: Config) -> TappedFeatures:
    """The frozen backbone, image to features of its layers."""
    return TappedFeatures(backbone, config.feature_dtype)


def count(backbone: Backbone, config: Config) -> int:
    """Nothing besides the head."""
    return 0


METHOD = Method(
    "head2toe",
    "Head2Toe",
    "Evci et al., ICML 2022, arXiv 2201.03529",
    Config,
    build,
    count,
    extractor=extractor,
    recipe=recipe,
    needs=frozenset({"taps"}),
    starts_with_head_alone=True,
)
