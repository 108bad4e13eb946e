"""SynQT (Zhang et al., ECCV 2024, arXiv 2407.06964): queries synthesised for each image, asked in a frozen ViT.

In block l, P learned queries Q_l and what block l - 1 answered become the prompts p_l; they read the frozen block's
keys and values and pass its output layer and MLP as tokens that only ask. With m_l the mean of block l's output
prompts, and Adapter_h(x) = x + W_2 GELU(W_1 x) of h hidden numbers:

    p  = Adapter_48(Q_l + c m_{l-1})                  (c shared by all blocks; block 1 has no m)
    p  = p + s_l Adapter_8(softmax(q k^T / sqrt(D)) v),  q, k, v = Adapter_8(LN(LN(p))), over the P prompts
    p_l = p + t_l Adapter_48(LN(p))

Of all blocks, the means over prompts of output, attention branch and MLP branch are collected: 3 L + 1 vectors, the
last output first and again among the others. Each becomes v + Adapter_48(LN v), one adapter and norm for all; the head
reads the norm (a copy of the backbone's last) of their mean, weighted by 1 and by tanh(GELU(W v_first + b)). All of
this and the head train.

Parameters, A_h = 2 D h + h + D: L (P D + 2 A_48 + 4 A_8 + 8 D + 2) + 1 + A_48 + 2 D + (3 L D + 3 L) + 2 D = 2,742,637
at P 16 (the last 2 D are those of the backbone's norm). The authors' code makes 2 L D + 3 L + 1 = 18,469 more, a norm
a block and a weight a vector, that nothing reads; they are left out.

Defaults: rate 1e-3, decay 1e-2, dropout 0.1, drop path 0.3 of the authors' trainer; P 16, c 0.1, s 1 and t 0.1 of its
configuration for diabetic retinopathy (patch camelyon has s 0.1 and t 1). Q_l from U(-1, 1); layers start as PyTorch's.

Departures: no drop path in the frozen backbone. With P 1 nothing reaches the maps of q and k: a softmax over one
prompt is 1, whatever its score. Prompts have no position: where queries and keys are rotated, theirs are not.
"""

import copy
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
from methods.side.query_stream import QueryStream, features_of_block, made_again


@dataclass(frozen=True)
class Config:
    """Defaults of SynQT (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-2
    num_prompt_tokens: Count = 16
    bottleneck_dim: Count = 48
    attention_bottleneck_dim: Count = 8
    feedback_scale: float = 0.1
    attention_scale: float = 1.0
    mlp_scale: float = 0.1
    dropout: Dropout = 0.1
    drop_path: Dropout = 0.3
    feature_dtype: FeatureDtype = "float16"


class Adapter(nn.Module):
    """A bottleneck with a shortcut, x + W_2 GELU(W_1 x), dropout behind GELU and behind W_2.

    Args:
        dim: Width D.
        bottleneck_dim: Width h of the bottleneck.
        dropout: Dropout probability.
    """

    def __init__(self, dim: int, bottleneck_dim: int, dropout: float) -> None:
        super().__init__()
        self.down_proj, self.up_proj = nn.Linear(dim, bottleneck_dim), nn.Linear(bottleneck_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Adds to `(..., D)`."""
        added: Tensor = self.dropout(self.up_proj(self.dropout(F.gelu(self.down_proj(x)))))
        return x + added


class PromptAttention(nn.Module):
    """One head of attention among an image's prompts, each of whose maps is an adapter.

    Args:
        dim: Width D.
        bottleneck_dim: Width of the adapters' bottleneck.
        dropout: Dropout probability on the attention and its output.
    """

    def __init__(self, dim: int, bottleneck_dim: int, dropout: float) -> None:
        super().__init__()
        self.query_norm, self.key_value_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.proj = (Adapter(dim, bottleneck_dim, 0.0) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attends, `(B, P, D)` to the same."""
        asking, asked = self.query_norm(x), self.key_value_norm(x)
        scores = self.query(asking) @ self.key(asked).mT * x.shape[-1] ** -0.5  # (B, P, P)
        attended = self.dropout(scores.softmax(dim=-1)) @ self.value(asked)
        output: Tensor = self.dropout(self.proj(attended))
        return output


class Synthesis(nn.Module):
    """Makes a block's prompts of its queries and of what the block before answered.

    Args:
        dim: Width D.
        config: With the widths of the bottlenecks, the scales' starts, and dropout.
    """

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(config.num_prompt_tokens, dim).uniform_(-1, 1))
        self.adapter = Adapter(dim, config.bottleneck_dim, config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = PromptAttention(dim, config.attention_bottleneck_dim, config.dropout)
        self.mlp = Adapter(dim, config.bottleneck_dim, config.dropout)
        self.attention_scale = nn.Parameter(torch.full((1,), config.attention_scale))
        self.mlp_scale = nn.Parameter(torch.full((1,), config.mlp_scale))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, fed_back: Tensor) -> Tensor:
        """Prompts `(B, P, D)`, from c times the mean answer `(B, 1, D)`."""
        x = self.adapter(self.queries + fed_back)
        x = x + self.attention_scale * self.attention(self.norm1(x))
        x = x + self.mlp_scale * self.mlp(self.norm2(x))
        prompts: Tensor = self.dropout(x)
        return prompts


class Combination(nn.Module):
    """One vector of the collected ones.

    Args:
        dim: Width D.
        num_vectors: Of those behind the first, 3 L.
        config: With the adapter's bottleneck, dropout and drop path.
    """

    def __init__(self, dim: int, num_vectors: int, config: Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.adapter = Adapter(dim, config.bottleneck_dim, config.dropout)
        self.weigh = nn.Linear(dim, num_vectors)
        self.dropout, self.drop_path = nn.Dropout(config.dropout), nn.Dropout(config.drop_path)

    def forward(self, vectors: Tensor) -> Tensor:
        """The weighted mean.

        Shape:
            - vectors: `(B, 1 + 3 L, D)`
            - Output: `(B, D)`
        """
        vectors = vectors + self.adapter(self.norm(vectors))
        first, others = vectors[:, 0], vectors[:, 1:]
        weights = self.dropout(F.gelu(self.weigh(first))).tanh().unsqueeze(-1)  # (B, 3 L, 1)
        heard = self.drop_path(torch.ones_like(weights))  # a vector of an image goes as a whole
        return (first + (weights * heard * others).sum(dim=1)) / vectors.shape[1]


class SynthesisedQueries(nn.Module):
    """The trainable part, and the frozen layers that the prompts pass.

    Args:
        backbone: The frozen backbone.
        num_classes: Number of classes C.
        config: The method's.
    """

    def __init__(self, backbone: Backbone, num_classes: int, config: Config) -> None:
        super().__init__()
        num_layers, embed_dim = len(backbone.blocks()), backbone.embed_dim
        self.stream = QueryStream(backbone)
        self.synthesis = nn.ModuleList(Synthesis(embed_dim, config) for _ in range(num_layers))
        self.feedback_scale = nn.Parameter(torch.full((1,), config.feedback_scale))
        self.combination = Combination(embed_dim, 3 * num_layers, config)
        self.norm = copy.deepcopy(backbone.last_norm()).requires_grad_(True)
        self.head = new_head(embed_dim, num_classes)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: what may be made again in the backward pass is, in any case."""

    def forward(
        self,
        keys: Tensor,
        values: Tensor,
        feature: Tensor | None = None,
        keys_scale: Tensor | None = None,
        values_scale: Tensor | None = None,
    ) -> Tensor:
        """Classifies a batch.

        Shape:
            - keys, values: `(B, L, A, N, E)`
            - feature: `(B, F)`; lies in the same cache, and is not used
            - keys_scale, values_scale: `(B, L, A, 1, E)`, of features in 8 bits
            - Output: logits `(B, C)`
        """
        stored = Stored(keys, values, keys_scale, values_scale)
        answer = self.feedback_scale.new_zeros(keys.shape[0], 1, self.head.in_features)
        answers: list[tuple[Tensor, ...]] = []
        for index in range(len(self.synthesis)):
            prompts, queries = made_again(self._ask, index, answer)
            attended = self.stream.attend(queries.unsqueeze(1), features_of_block(stored, index))[:, 0]  # (B, P, A E)
            answers.append(made_again(self._answer, index, prompts, attended))
            answer = answers[-1][0]
        outputs, attention, mlp = zip(*answers, strict=True)
        vectors = torch.cat([answer, *outputs, *attention, *mlp], dim=1)  # (B, 1 + 3 L, D)
        logits: Tensor = self.head(self.norm(made_again(self.combination, vectors)))
        return logits

    def _ask(self, index: int, answer: Tensor) -> tuple[Tensor, Tensor]:
        """A block's prompts `(B, P, D)` and their queries `(B, P, A E)`."""
        prompts = self.synthesis[index](self.feedback_scale * answer)
        return prompts, self.stream.queries(index, prompts)

    def _answer(self, index: int, prompts: Tensor, attended: Tensor) -> tuple[Tensor, ...]:
        """Means over the prompts of a block's output and of its branches, each `(B, 1, D)`."""
        attention, mlp = self.stream.branches(index, prompts, attended)
        answers = (prompts + attention + mlp, attention, mlp)
        return tuple(tensor.float().mean(dim=1, keepdim=True) for tensor in answers)


def build(backbone: Backbone, num_classes: int, config: Config) -> SynthesisedQueries:
    """Makes what synthesises queries for every block of the frozen backbone and reads its answers."""
    return SynthesisedQueries(backbone, num_classes, config)


def count(backbone: Backbone, config: Config) -> int:
    """Synthesis L (P D + 2 A_48 + 4 A_8 + 8 D + 2) + 1, combination A_48 + 2 D + (3 L D + 3 L), and the last norm."""
    num_layers, dim = len(backbone.blocks()), backbone.embed_dim
    adapter, narrow = (2 * dim * h + h + dim for h in (config.bottleneck_dim, config.attention_bottleneck_dim))
    synthesis = config.num_prompt_tokens * dim + 2 * adapter + 4 * narrow + 8 * dim + 2
    combination = adapter + 2 * dim + 3 * num_layers * (dim + 1)
    norm = sum(parameter.numel() for parameter in backbone.last_norm().parameters())
    return num_layers * synthesis + 1 + combination + norm


METHOD = Method(
    "synqt",
    "SynQT",
    "Zhang et al., ECCV 2024, arXiv 2407.06964",
    Config,
    build,
    count,
    extractor=extractor,
    needs=frozenset({"tokens", "attention"}),
)
