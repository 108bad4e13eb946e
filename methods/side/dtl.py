"""DTL, disentangled transfer learning (Fu, Zhu & Wu, AAAI 2024, arXiv 2312.07856): one low-rank side path.

    h_0 = 0,    h_l = h_{l-1} + B_l A_l x_{l-1},    phi(t) = t sigmoid(100 t)
    x_l = Block_l(x_{l-1}) for l <= k,    x_l = Block_l(x_{l-1}) + phi(h_l) for l > k

x_0 are the backbone's tokens behind the position embedding, k the number of blocks that the path does not enter: the
first half. Maps A_l (R x D) and B_l (D x R) of all L blocks and the head train: 2 L D R, 36,864 on ViT-B/16. So x_0 ..
x_k need no gradient: they are features. The last L - k blocks run live, frozen, with a gradient through all but the
first of them, which gets x_k. A starts Kaiming uniform, B at zero, so the model starts as the pretrained one, up to the
rounding of features (`feature_dtype`). Nothing merges.

Rank 2, k and weight decay are the authors'; of their rates, 3e-4 to 1e-3, the upper end. Departures: no drop path. The
authors pool the patches in front of the final norm and drop the class token; here norm and pooling are the backbone's,
as otherwise the model would not start as the pretrained one.

Of the side path codes A_l x_{l-1}, R numbers a token, are kept for the backward pass, and h_l is made again from them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.backbone import Backbone
from methods.contract import Count, Method, freeze, new_head
from methods.side.block_outputs import FeatureDtype, first_block, first_outputs
from methods.side.lean import linear, remade


@dataclass(frozen=True)
class Config:
    """Defaults of DTL and DTL+ (docs/methods.md).

    Attributes:
        num_blocks: Blocks that the side path enters, the last ones; None for the last half, and two at the least.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 0.05
    rank: Count = 2
    num_blocks: Count | None = None
    feature_dtype: FeatureDtype = "float16"


class SidePath(nn.Module):
    """What the side path adds behind a block.

    Args:
        embed_dim: Width D of the tokens.
        rank: Rank R.
        depth: Number L of blocks.

    Attributes:
        down: A_1 to A_L, `(L, R, D)`.
        up: B_1 to B_L, `(L, D, R)`.
    """

    def __init__(self, embed_dim: int, rank: int, depth: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(depth, rank, embed_dim))
        self.up = nn.Parameter(torch.zeros(depth, embed_dim, rank))
        nn.init.uniform_(self.down, -(embed_dim**-0.5), embed_dim**-0.5)  # Kaiming's, as nn.Linear has it

    def code(self, index: int, x: Tensor) -> Tensor:
        """A x of what a block gets, `(B, N, R)` of `(B, N, D)`."""
        return linear(x, self.down[index])

    def forward(self, codes: Tensor) -> Tensor:
        """phi(h).

        Shape:
            - codes: `(B, N, l R)`, of all l blocks up to the one that is added to
            - Output: `(B, N, D)`
        """
        num_blocks = codes.shape[-1] // self.up.shape[-1]
        up = self.up[:num_blocks].transpose(0, 1).flatten(1)  # (D, l R)
        with torch.autocast(codes.device.type, enabled=False):  # phi is steep at 0, where h starts
            h = nn.functional.linear(codes.to(up.dtype), up)  # (B, N, D)
        return h * torch.sigmoid(100 * h)


class SidePathModel(nn.Module):
    """The last blocks of a frozen backbone, and a side path from its first block on.

    Args:
        backbone: The backbone.
        num_classes: Number of classes C.
        path: The side path.
        first: Index k of the first block that runs here.
    """

    def __init__(self, backbone: Backbone, num_classes: int, path: SidePath, first: int) -> None:
        super().__init__()
        self.backbone = backbone.tail(first)
        freeze(self.backbone)
        self.path = path
        self.first = first
        self.head = new_head(backbone.num_features, num_classes)
        self.grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recomputes the activations of each block that a gradient passes in the backward pass."""
        self.grad_checkpointing = enable

    def forward(self, outputs: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - outputs: `(B, k + 1, N, D)`, of the backbone's first blocks
            - Output: logits `(B, C)`
        """
        codes = [self.path.code(index, x) for index, x in enumerate(outputs.unbind(1))]
        context = self.backbone.context()
        x = outputs[:, -1].to(self.head.weight.dtype)  # (B, N, D)
        with torch.no_grad():
            x = self.backbone.run(self.first, x, context)
        x = x + self._added(codes)
        for index in range(self.first + 1, len(self.backbone.blocks())):
            codes.append(self.path.code(index, x))
            x = self._run(index, x, context) + self._added(codes)
        logits: Tensor = self.head(self.backbone.pool_tokens(x))
        return logits

    def _run(self, index: int, x: Tensor, context: Any) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            output: Tensor = checkpoint(self.backbone.run, index, x, context, use_reentrant=False)
            return output
        return self.backbone.run(index, x, context)

    def _added(self, codes: list[Tensor]) -> Tensor:
        joined = torch.cat(codes, dim=-1)  # (B, N, l R)
        held = 6 * joined.shape[1] * self.backbone.embed_dim
        (added,) = remade(lambda part: (self.path(part),), joined, numbers=held)
        return added


def build(backbone: Backbone, num_classes: int, config: Config) -> SidePathModel:
    """Builds the side path beside a copy of the last blocks; the first live in the extractor."""
    path = SidePath(backbone.embed_dim, config.rank, len(backbone.blocks()))
    return SidePathModel(backbone, num_classes, path, first_block(backbone, config.num_blocks))


def count(backbone: Backbone, config: Config) -> int:
    """2 L D R."""
    return 2 * len(backbone.blocks()) * backbone.embed_dim * config.rank


METHOD = Method(
    "dtl",
    "DTL",
    "Fu, Zhu & Wu, DTL: Disentangled Transfer Learning, AAAI 2024, arXiv 2312.07856",
    Config,
    build,
    count,
    extractor=first_outputs,
    needs=frozenset({"tokens"}),
    starts_as_pretrained=True,
)
