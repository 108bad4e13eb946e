"""Visual query tuning (Tu, Mai & Chao, CVPR 2023, arXiv 2212.03220): queries that summarise a frozen ViT's blocks.

P learned queries Q_l are asked in block l of a frozen backbone, each block having its own: they read the keys and
values of its tokens, whose own stream they do not touch, and pass the block's output layer, MLP and residual sums:

    a_l = Q_l + W_o softmax(W_q LN1(Q_l) K_l^T / sqrt(E)) V_l,    o_l = a_l + MLP(LN2(a_l))

The head reads the pooled feature and all o_l, flattened to P D numbers each, every one of the L + 1 vectors divided by
its L2 norm: F + L P D numbers. Queries and head train.

Parameters: L P D = 9,216 at P 1, and the wide head. Queries start from U(-v, v), v = sqrt(6 / (3 p^2 + D)), as VPT's,
with dropout on them (authors' code). P 1 is the narrowest that the authors run (they also have 10). Rates: the authors
search 0.05 to 1 times batch / 256 with Adam, 3e-3 to 6e-2 at batch 16, of which 1e-2 is the middle; weight decay 1e-4
lies within their 0 to 1e-2.

Departures: no second training on features chosen by group lasso. The pooled feature is the backbone's own where it
has no class token. Queries have no position: where queries and keys are rotated, theirs are not.

The authors join the queries to the tokens and slice them off again, so that autograd carries all tokens; here they are
a stream of their own (`query_stream`), of equal outputs and gradients, and keys and values may be computed ahead.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Method, new_head
from methods.side.fpt_parts.extraction import FeatureDtype
from methods.side.fpt_parts.fusion import Stored
from methods.side.key_values import extractor
from methods.side.query_stream import QueryStream, made_again


@dataclass(frozen=True)
class Config:
    """Defaults of VQT (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    lr: float = 1e-2
    weight_decay: float = 1e-4
    num_prompt_tokens: Count = 1
    dropout: Dropout = 0.1
    feature_dtype: FeatureDtype = "float16"


class VisualQueries(nn.Module):
    """Queries of every block, the frozen layers that they pass, and the head.

    Args:
        backbone: The frozen backbone.
        num_classes: Number of classes C.
        num_prompt_tokens: Number P of queries a block.
        dropout: Dropout probability on the queries.
    """

    def __init__(self, backbone: Backbone, num_classes: int, num_prompt_tokens: int, dropout: float) -> None:
        super().__init__()
        num_layers, embed_dim = len(backbone.blocks()), backbone.embed_dim
        self.stream = QueryStream(backbone)
        self.prompts = nn.Parameter(torch.empty(num_layers, num_prompt_tokens, embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.head = new_head(backbone.num_features + self.prompts.numel(), num_classes)
        bound = (6 / (3 * backbone.patch_size**2 + embed_dim)) ** 0.5
        nn.init.uniform_(self.prompts, -bound, bound)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: what may be made again in the backward pass is, in any case."""

    def forward(
        self,
        keys: Tensor,
        values: Tensor,
        feature: Tensor,
        keys_scale: Tensor | None = None,
        values_scale: Tensor | None = None,
    ) -> Tensor:
        """Classifies a batch.

        Shape:
            - keys, values: `(B, L, A, N, E)`
            - feature: `(B, F)`
            - keys_scale, values_scale: `(B, L, A, 1, E)`, of features in 8 bits
            - Output: logits `(B, C)`
        """
        stream = self.stream
        prompts = self.dropout(self.prompts.expand(keys.shape[0], -1, -1, -1)).unbind(1)  # L of (B, P, D)
        queries = torch.stack([made_again(stream.queries, i, x) for i, x in enumerate(prompts)], dim=1)
        attended = stream.attend(queries, Stored(keys, values, keys_scale, values_scale)).unbind(1)  # L of (B, P, A E)
        outputs = [made_again(self._output, i, *read) for i, read in enumerate(zip(prompts, attended, strict=True))]
        summary = [F.normalize(vector.flatten(1).float(), dim=1) for vector in (feature, *outputs)]
        logits: Tensor = self.head(torch.cat(summary, dim=1))
        return logits

    def _output(self, index: int, x: Tensor, attended: Tensor) -> Tensor:
        """What a block makes of its queries, `(B, P, D)`."""
        attention, mlp = self.stream.branches(index, x, attended)
        return x + attention + mlp


def build(backbone: Backbone, num_classes: int, config: Config) -> VisualQueries:
    """Adds queries to every block of the frozen backbone, and a head that reads all of them."""
    return VisualQueries(backbone, num_classes, config.num_prompt_tokens, config.dropout)


def count(backbone: Backbone, config: Config) -> int:
    """L P D: the queries of every block."""
    return len(backbone.blocks()) * config.num_prompt_tokens * backbone.embed_dim


METHOD = Method(
    "vqt",
    "VQT",
    "Tu et al., Visual Query Tuning, CVPR 2023, arXiv 2212.03220",
    Config,
    build,
    count,
    extractor=extractor,
    needs=frozenset({"tokens", "attention"}),
)
