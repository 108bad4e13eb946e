"""Res-Tuning-Bypass (Jiang et al., NeurIPS 2023, arXiv 2310.19859): adapters on a path beside the frozen backbone.

    b_0 = x_0
    b_l = T_l(x_l) + V_l(b_{l-1}),    T_l(u), V_l(u) = u + up(GELU(down(u))),  l = 1 .. L

x_0 are the backbone's tokens behind the position embedding, x_l the output of its block l. b_L takes the place of x_L:
the backbone's own norm and pooling, frozen, and the head read it. The 2 L bottlenecks of width R and the head train:
2 L (2 D R + R + D). No gradient enters the backbone; nothing merges.

As in the authors' code both maps start Xavier uniform and biases at N(0, 1e-6), R 10. b_L holds x_0 + ... + x_L, so the
norm sees other statistics than the pretrained one did. Rate and weight decay are ours. Departure: the paper's learned
factor between both paths is not in the authors' default, and not here.

Nothing but x_0 .. x_L is kept for the backward pass: the path is computed again there, for a few images at a time.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Method, freeze, new_head
from methods.side.block_outputs import FeatureDtype, all_outputs
from methods.side.lean import linear, remade


@dataclass(frozen=True)
class Config:
    """Defaults of Res-Tuning-Bypass (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    bottleneck_dim: Count = 10
    feature_dtype: FeatureDtype = "float16"


class ResTuner(nn.Module):
    """A bottleneck: what it adds to its input.

    Args:
        embed_dim: Width D of the tokens.
        bottleneck_dim: Width R.
    """

    def __init__(self, embed_dim: int, bottleneck_dim: int) -> None:
        super().__init__()
        self.down_proj = nn.Linear(embed_dim, bottleneck_dim)
        self.up_proj = nn.Linear(bottleneck_dim, embed_dim)
        for layer in (self.down_proj, self.up_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, u: Tensor) -> Tensor:
        """From `(B, N, D)` to what is added, `(B, N, D)`."""
        output: Tensor = self.up_proj(F.gelu(linear(u, self.down_proj.weight, self.down_proj.bias)))
        return output


class Bypass(nn.Module):
    """The path beside a frozen backbone, and what stands behind the backbone's blocks.

    Args:
        backbone: Gives sizes, norm and pooling.
        num_classes: Number of classes C.
        bottleneck_dim: Width R.
    """

    def __init__(self, backbone: Backbone, num_classes: int, bottleneck_dim: int) -> None:
        super().__init__()
        depth = len(backbone.blocks())
        self.of_blocks, self.of_path = (
            nn.ModuleList(ResTuner(backbone.embed_dim, bottleneck_dim) for _ in range(depth)) for _ in range(2)
        )
        self.backbone = backbone.tail(depth)
        freeze(self.backbone)
        self.head = new_head(backbone.num_features, num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: the path is computed again in the backward pass in any case."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - outputs: `(B, L + 1, N, D)`, of the backbone's blocks
            - Output: logits `(B, C)`
        """
        held = outputs[0].numel() + 6 * outputs[0, 0].numel()  # of an image: every b_l, and one step's work
        (features,) = remade(lambda part: (self._features(part),), outputs, numbers=held)
        logits: Tensor = self.head(features)
        return logits

    def _features(self, outputs: Tensor) -> Tensor:
        """Features `(b, F)` of some images."""
        b = outputs[:, 0].to(self.head.weight.dtype)  # (b, N, D)
        for index, (of_block, of_path) in enumerate(zip(self.of_blocks, self.of_path, strict=True), start=1):
            x = outputs[:, index]
            b = b + of_path(b) + of_block(x) + x
        return self.backbone.pool_tokens(b)


def build(backbone: Backbone, num_classes: int, config: Config) -> Bypass:
    """Builds the path; the backbone's blocks live in the extractor."""
    return Bypass(backbone, num_classes, config.bottleneck_dim)


def count(backbone: Backbone, config: Config) -> int:
    """2 L (2 D R + R + D)."""
    width, rank = backbone.embed_dim, config.bottleneck_dim
    return 2 * len(backbone.blocks()) * (2 * width * rank + rank + width)


METHOD = Method(
    "res_tuning_bypass",
    "Res-Tuning-Bypass",
    "Jiang et al., Res-Tuning, NeurIPS 2023, arXiv 2310.19859",
    Config,
    build,
    count,
    extractor=all_outputs,
    needs=frozenset({"tokens"}),
)
