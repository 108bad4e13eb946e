"""Side-Tuning (Zhang et al., ECCV 2020, arXiv 1912.13503): a frozen network's feature blended with a small network's.

    f(x) = alpha F(x) + (1 - alpha) S(x),    alpha = sigmoid(a), a = 0 at the start

F is the frozen backbone's pooled feature of the image at high resolution, standardised as the linear probe's is; S is
FPT's side ViT on the image at low resolution, joined by no prompts, with a linear map from its width to F's. So it is
FPT without its fusion: what FPT gains over it, the fusion gains. Side network, map, a and head train; as alpha goes to
1, what is left is the linear probe.

Parameters: the side network's (as in `fpt`, one block for each of the backbone's), S F + F of the map, and 1:
1,509,601 on a ViT-B.

Defaults are FPT's, whose ablation this is. The paper leaves the small network to the task; its alpha trains as here.
Departures: the frozen feature is standardised, so that alpha weighs two vectors of a like scale whatever the backbone.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.backbone import Backbone
from methods.contract import Batches, Count, Method, Recipe
from methods.probes.linear import LinearProbe, standardize
from methods.probes.pooled import extractor
from methods.side.fpt import views
from methods.side.fpt_parts.fast_path import fast_path
from methods.side.fpt_parts.lean_layers import lean_blocks
from methods.side.fpt_parts.side_network import build_side_network, count_side_network, init_side


@dataclass(frozen=True)
class Config:
    """Defaults of Side-Tuning, FPT's (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (2e-4, 6e-4, 2e-3, 6e-3, 2e-2)
    lr: float = 2e-3
    weight_decay: float = 0.1
    side_resolution: Count = 224
    side_reduction: Count = 8
    side_patch_size: Count = 16


class SideTuning(nn.Module):
    """The side network, its map to the feature's width, the blend, and a linear probe on it.

    Args:
        side_network: The side ViT; its head is dropped.
        num_features: Width F of the pooled feature.
        num_classes: Number of classes C.
    """

    def __init__(self, side_network: VisionTransformer, num_features: int, num_classes: int) -> None:
        super().__init__()
        side_network.reset_classifier(0)
        self.side_network = side_network
        self.proj = nn.Linear(side_network.embed_dim, num_features)
        self.blend = nn.Parameter(torch.zeros(1))
        self.probe = LinearProbe(num_features, num_classes)
        self.grad_checkpointing = False
        init_side(self.proj)

    @property
    def head(self) -> nn.Module:
        """The classification head."""
        return self.probe.head

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Computes the activations of each side block again in the backward pass."""
        self.grad_checkpointing = enable

    def forward(self, image_low: Tensor, feature: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - image_low: `(B, 3, h, w)` at the side network's resolution
            - feature: `(B, F)`
            - Output: logits `(B, C)`
        """
        side, alpha = self.side_network, self.blend.sigmoid()
        x = side._pos_embed(side.patch_embed(image_low))  # (B, n, S)
        for block in side.blocks:
            x = self._run(block, x)
        own = self.proj(side.norm(x)[:, 0])  # (B, F)
        logits: Tensor = self.head(alpha * self.probe.standardized(feature) + (1 - alpha) * own)
        return logits

    def _run(self, block: nn.Module, x: Tensor) -> Any:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def prepare(model: nn.Module, batches: Batches) -> None:
    """Standardises the frozen feature over the training split."""
    assert isinstance(model, SideTuning)
    standardize(model.probe, batches)


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Trains by the defaults, on features standardised before."""
    return Recipe(prepare=prepare)


def build(backbone: Backbone, num_classes: int, config: Config) -> SideTuning:
    """Builds the side network and the blend; the backbone lives in the extractor."""
    side = build_side_network(backbone, len(backbone.blocks()), num_classes, config, Block)
    if fast_path():
        side.blocks = lean_blocks(side.blocks)
    return SideTuning(side, backbone.num_features, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """The side network, the map S F + F, and the blend's 1."""
    side_dim = backbone.embed_dim // config.side_reduction
    linear = side_dim * backbone.num_features + backbone.num_features
    return count_side_network(side_dim, len(backbone.blocks()), config) + linear + 1


METHOD = Method(
    "side_tuning",
    "Side-Tuning",
    "Zhang et al., ECCV 2020, arXiv 1912.13503",
    Config,
    build,
    count,
    views,
    extractor,
    recipe,
    needs=frozenset({"tokens", "attention"}),
)
