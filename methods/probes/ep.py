"""EP, efficient probing (Psomas et al., ICLR 2026, arXiv 2506.10178).

M learned queries u_m of width D look at the frozen backbone's N last tokens t_n, which are their own keys. A value
projection W_v (D / d x D, without bias) makes values, whose channels are cut into M groups, one for each query:

    a_m = softmax_n(u_m . t_n / sqrt(D)),    out_m = sum_n a_mn (W_v t_n)^(m)

The M results, D / d numbers in all, are standardised by a batch norm without weights, and go to the head. Queries, W_v
and head train: M D + D^2 / d besides the head, 614,400 on ViT-B/16.

Computed as out_m = W_v^(m) (sum_n a_mn t_n), which is the same: no value is made of a token, so little more than the
tokens is kept for the backward pass.

Departures: AdamW as all methods here, where the authors have LARS (rate 0.1 a batch of 256, 90 epochs), so the rate is
ours. All tokens are pooled, class token and registers among them. Tokens are kept in half precision (`feature_dtype`).
Where the extractor runs in every step its image is augmented; preloaded tokens are of the image as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import IMAGE, Count, Method, OptionError, new_head
from methods.probes.last_tokens import TokenDtype, attention_to, computable, extractor, pool


@dataclass(frozen=True)
class Config:
    """Defaults of efficient probing: the authors' queries and width, no decay as theirs; our rate (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 0.0
    num_queries: Count = 32
    reduction: Count = 1
    feature_dtype: TokenDtype = "float16"


class EfficientProbe(nn.Module):
    """Learned queries that pool the last tokens, and a head.

    Args:
        embed_dim: Width D of the tokens.
        num_queries: Number M of queries.
        reduction: d, by which the values are narrower than the tokens.
        num_classes: Number of classes C.

    Raises:
        OptionError: The values cannot be cut so.
    """

    def __init__(self, embed_dim: int, num_queries: int, reduction: int, num_classes: int) -> None:
        super().__init__()
        if embed_dim % reduction:
            raise OptionError(
                f"reduction must divide the tokens' width {embed_dim}, got {reduction!r}; choose a divisor"
            )
        width = embed_dim // reduction
        if width % num_queries:
            raise OptionError(
                f"num_queries must divide the values' width {width} (the tokens' {embed_dim} / reduction {reduction}), "
                f"got {num_queries!r}; choose a divisor"
            )
        self.queries = nn.Parameter(torch.randn(num_queries, embed_dim) * 0.02)
        self.value = nn.Linear(embed_dim, width, bias=False)
        self.norm = nn.BatchNorm1d(width, eps=1e-6, affine=False)
        self.head = new_head(width, num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: there is little to compute again."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - tokens: `(B, N, D)`
            - Output: logits `(B, C)`
        """
        assert not self.training or len(tokens) > 1  # as `min_batch_size` has it
        pooled = pool(self.scaled_queries(), computable(tokens))  # (B, M, D)
        groups = self.value.weight.unflatten(0, (len(self.queries), -1))  # (M, D / d / M, D)
        values = torch.einsum("bmd,mgd->bmg", pooled, groups.to(pooled.dtype)).flatten(1)  # (B, D / d)
        logits: Tensor = self.head(self.norm(values.float()))
        return logits

    def scaled_queries(self) -> Tensor:
        """The queries `(M, D)`, over the root of their width."""
        return self.queries * self.queries.shape[1] ** -0.5


def attention_maps(model: nn.Module, extractor: nn.Module | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """What each query pays to each token, `(B, M, N)`."""
    assert isinstance(model, EfficientProbe) and extractor is not None
    tokens = extractor(image=inputs[IMAGE])["tokens"]
    return attention_to(model.scaled_queries(), computable(tokens))


def build(backbone: Backbone, num_classes: int, config: Config) -> EfficientProbe:
    """Builds queries, value projection and head; the backbone lives in the extractor."""
    return EfficientProbe(backbone.embed_dim, config.num_queries, config.reduction, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """Queries M D and value projection D^2 / d."""
    return config.num_queries * backbone.embed_dim + backbone.embed_dim**2 // config.reduction


METHOD = Method(
    "ep",
    "Efficient probing",
    "Psomas et al., ICLR 2026, arXiv 2506.10178",
    Config,
    build,
    count,
    extractor=extractor,
    needs=frozenset({"last_tokens"}),
    min_batch_size=2,  # of a batch norm
    attention_maps=attention_maps,
)
