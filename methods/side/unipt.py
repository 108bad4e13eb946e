"""UniPT (Diao et al., CVPR 2024, arXiv 2308.14316): frozen block outputs, queried by the last one, in parallel.

    s_i = LN(W_i x_i + b_i),  i = 0 .. L;    M_i = I + l1norm(ReLU(s_L s_i^T)),    c_i = M_i s_i,  i = 0 .. L - 1
    g = softmax over i of w . (mean_n s_L * mean_n s_i),    out = W_u ReLU(s_L + LN(W_p sum_i g_i c_i))

x_0 are the backbone's tokens behind the position embedding, x_i the output of its block i; W_i maps D to m = D /
`reduction`, l1norm divides a token's row by its sum over tokens. All maps, norms, the gate w and the head train:
(L + 1)(D m + 3 m) + m^2 + 4 m + m D + D. No gradient enters the backbone; nothing merges.

Rate 2e-4 is the authors'; weight decay is ours, as LoRA's. Reduction 8 is ours, the width of LST's and FPT's side
networks; the authors' is 2. Maps start as PyTorch's layers do, w too. Departures: the gate's bias is left out, as
softmax does not change with it (one parameter fewer than in the authors' code). They pool by a module for matching
images with text; here it is where the backbone's features come from, the class token or the mean of the patches. W_u
comes behind it: both are linear, so the order makes no difference.

A map M_i has N x N numbers for each image: 4 MiB in fp32 at 512 px, 64 MiB at 1,024 px and patches of 16. No more than
a part of the batch's stands at a time: c_i are computed again in the backward pass, and they alone are kept, beside
x_0 .. x_L and s_L.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Method, OptionError, new_head
from methods.side.block_outputs import FeatureDtype, all_outputs
from methods.side.lean import linear, remade


@dataclass(frozen=True)
class Config:
    """Defaults of UniPT (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (2e-5, 6e-5, 2e-4, 6e-4, 2e-3)
    lr: float = 2e-4
    weight_decay: float = 1e-4
    reduction: Count = 8
    feature_dtype: FeatureDtype = "float16"


class DownMap(nn.Module):
    """A map of block outputs to the side width, and a norm.

    Args:
        embed_dim: Width D of the backbone.
        side_dim: Width m.
        eps: Of the norm.
    """

    def __init__(self, embed_dim: int, side_dim: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Linear(embed_dim, side_dim)
        self.norm = nn.LayerNorm(side_dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """From `(B, N, D)` to `(B, N, m)`."""
        output: Tensor = self.norm(linear(x, self.proj.weight, self.proj.bias))
        return output


class ParallelNetwork(nn.Module):
    """The side network on the outputs of a frozen backbone.

    Args:
        backbone: Gives sizes and pooling.
        num_classes: Number of classes C.
        side_dim: Width m.
    """

    def __init__(self, backbone: Backbone, num_classes: int, side_dim: int) -> None:
        super().__init__()
        width, eps = backbone.embed_dim, backbone.eps
        self.maps = nn.ModuleList(DownMap(width, side_dim, eps) for _ in range(len(backbone.blocks()) + 1))
        self.gate = nn.Linear(side_dim, 1, bias=False)
        self.proj = nn.Linear(side_dim, side_dim)
        self.norm = nn.LayerNorm(side_dim, eps=eps)
        self.up_proj = nn.Linear(side_dim, width)
        self.pooling = backbone.pooling()
        self.head = new_head(width * self.pooling.num_vectors, num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: maps are computed again in the backward pass in any case."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - outputs: `(B, L + 1, N, D)`, of the backbone's blocks
            - Output: logits `(B, C)`
        """
        *maps, last_map = self.maps
        num_tokens, width = outputs.shape[2:]
        held = 4 * num_tokens**2 + 2 * num_tokens * width
        (last,) = remade(lambda x: (last_map(x),), outputs[:, -1], numbers=held)  # (B, N, m)
        queried, means = [], []
        for index, down_map in enumerate(maps):
            c, mean = remade(
                lambda last, x, down_map=down_map: query(last, down_map(x)), last, outputs[:, index], numbers=held
            )
            queried.append(c)
            means.append(mean)
        scores = self.gate(torch.stack(means, dim=1) * last.mean(dim=1, keepdim=True))  # (B, L, 1)
        mixed = weighted_sum(scores.softmax(dim=1).unbind(1), queried)  # (B, N, m)
        joined = F.relu(last + self.norm(self.proj(mixed)))
        vectors = self.pooling(joined).unflatten(-1, (self.pooling.num_vectors, -1))  # (B, 1 or 2, m)
        logits: Tensor = self.head(self.up_proj(vectors).flatten(1))
        return logits


def query(last: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the last block's tokens find among another's, and the mean of those.

    Shape:
        - last, tokens: `(B, N, m)`
        - Output: `(B, N, m)` and `(B, m)`
    """
    similarity = F.relu(last @ tokens.mT)  # (B, N, N)
    total = similarity.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return tokens + (similarity @ tokens) / total.to(similarity.dtype), tokens.mean(dim=1)


def weighted_sum(weights: tuple[Tensor, ...], tokens: list[Tensor]) -> Tensor:
    """Sum of `(B, N, m)`, each weighed by `(B, 1)`."""
    total = weights[0].unsqueeze(-1) * tokens[0]
    for weight, each in zip(weights[1:], tokens[1:], strict=True):
        total = total + weight.unsqueeze(-1) * each
    return total


def build(backbone: Backbone, num_classes: int, config: Config) -> ParallelNetwork:
    """Builds the side network; the backbone lives in the extractor.

    Raises:
        OptionError: The reduction leaves no width.
    """
    side_dim = backbone.embed_dim // config.reduction
    if not side_dim:
        raise OptionError(f"reduction must be at most {backbone.embed_dim}, the width D, got {config.reduction!r}")
    return ParallelNetwork(backbone, num_classes, side_dim)


def count(backbone: Backbone, config: Config) -> int:
    """(L + 1)(D m + 3 m) + m^2 + 4 m + m D + D."""
    width, depth = backbone.embed_dim, len(backbone.blocks())
    side_dim = width // config.reduction
    return (depth + 1) * (width * side_dim + 3 * side_dim) + side_dim**2 + 4 * side_dim + side_dim * width + width


METHOD = Method(
    "unipt",
    "UniPT",
    "Diao et al., UniPT: Universal Parallel Tuning, CVPR 2024, arXiv 2308.14316",
    Config,
    build,
    count,
    extractor=all_outputs,
    needs=frozenset({"tokens"}),
)
