"""Attentive probe (Bardes et al., V-JEPA, TMLR 2024, arXiv 2404.08471).

One learned query q of width D attends to the frozen backbone's N last tokens t_n, and passes an MLP:

    q <- q + proj(attention(W_q q, W_k LN(t), W_v LN(t))),    q <- q + MLP(LN(q)),    logits = head(q)

Attention has heads of width E (`head_dim`), the MLP a hidden layer of 4 D. All of this trains: q D, W_q, W_k, W_v and
proj 4 D^2 + 4 D, MLP 8 D^2 + 5 D, two norms 4 D: 12 D^2 + 14 D besides the head, 7,088,640 on ViT-B/16.

Computed with each head's query in the tokens' own space: (W_q q) . (W_k LN(t)) is (g * W_k^T W_q q) . z, z = LN(t)
without its factors g and shifts b; softmax does not change with what all tokens share. Values come from the heads'
averages of z. So no key and no value is made of a token: z alone is kept for the backward pass, where the plain form
keeps LN(t), keys, values and tokens.

Departures: the authors' recipe but for our schedule (docs/methods.md). All tokens are attended to, class token and
registers among them. Tokens are kept in half precision (`feature_dtype`). Where the extractor runs in every step its
image is augmented; preloaded tokens are of the image as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import IMAGE, Count, Method, OptionError, new_head
from methods.probes.last_tokens import TokenDtype, attention_to, extractor, pool, standardized


@dataclass(frozen=True)
class Config:
    """Defaults of the attentive probe, the authors'; heads as wide as their ViTs' (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-3
    head_dim: Count = 64
    feature_dtype: TokenDtype = "float16"


class CrossAttention(nn.Module):
    """One query's attention to normalised tokens.

    Args:
        embed_dim: Width D of query and tokens.
        head_dim: Width E of a head.

    Raises:
        OptionError: The width cannot be cut into such heads.
    """

    def __init__(self, embed_dim: int, head_dim: int) -> None:
        super().__init__()
        if embed_dim % head_dim:
            raise OptionError(f"head_dim must divide the tokens' width {embed_dim}, got {head_dim!r}; choose a divisor")
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(embed_dim)
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key_value = nn.Linear(embed_dim, 2 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """What the query takes from the tokens.

        Shape:
            - query: `(D,)`
            - tokens: `(B, N, D)`
            - Output: `(B, D)`
        """
        of_values = self.key_value.weight.chunk(2)[1].unflatten(0, (-1, self.head_dim))  # (A, E, D)
        pooled = pool(*self.asked_and_read(query, tokens)).float() * self.norm.weight + self.norm.bias  # (B, A, D)
        values = torch.einsum("bad,aed->bae", pooled, of_values).flatten(1)  # (B, D)
        shift = self.key_value.bias.chunk(2)[1]  # a key's is the same for all tokens
        attended: Tensor = self.proj(values + shift)
        return attended

    def asked_and_read(self, query: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Each head's query in the tokens' own space, `(A, D)`, and the normalised tokens `(B, N, D)`."""
        heads = (-1, self.head_dim)
        of_keys = self.key_value.weight.chunk(2)[0].unflatten(0, heads)  # (A, E, D)
        asked = self.query(query).unflatten(0, heads) * self.head_dim**-0.5  # (A, E)
        queries = torch.einsum("ae,aed->ad", asked, of_keys) * self.norm.weight
        return queries, standardized(tokens, self.norm.eps)


class AttentiveProbe(nn.Module):
    """A query with cross attention and an MLP, and a head.

    Args:
        embed_dim: Width D of the tokens.
        head_dim: Width E of a head of the attention.
        num_classes: Number of classes C.
    """

    def __init__(self, embed_dim: int, head_dim: int, num_classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(embed_dim))
        self.attention = CrossAttention(embed_dim, head_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(nn.Linear(embed_dim, 4 * embed_dim), nn.GELU(), nn.Linear(4 * embed_dim, embed_dim))
        self._init()
        self.head = new_head(embed_dim, num_classes)

    def _init(self) -> None:
        """Truncated normal 0.02, biases 0; what is added to the query is made smaller, as there are two such sums."""
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for weight in (self.attention.proj.weight, self.mlp.get_parameter("2.weight")):
                weight /= 2**0.5

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: there is little to compute again."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - tokens: `(B, N, D)`
            - Output: logits `(B, C)`
        """
        x = self.query + self.attention(self.query, tokens)  # (B, D)
        logits: Tensor = self.head(x + self.mlp(self.norm(x)))
        return logits


def attention_maps(model: nn.Module, extractor: nn.Module | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the query pays to each token in each head, `(B, A, N)`."""
    assert isinstance(model, AttentiveProbe) and extractor is not None
    tokens = extractor(image=inputs[IMAGE])["tokens"]
    return attention_to(*model.attention.asked_and_read(model.query, tokens))


def build(backbone: Backbone, num_classes: int, config: Config) -> AttentiveProbe:
    """Builds query, attention, MLP and head; the backbone lives in the extractor."""
    return AttentiveProbe(backbone.embed_dim, config.head_dim, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """Query, attention, MLP and two norms: 12 D^2 + 14 D."""
    return 12 * backbone.embed_dim**2 + 14 * backbone.embed_dim


METHOD = Method(
    "attentive_probe",
    "Attentive probe",
    "Bardes et al., TMLR 2024, arXiv 2404.08471",
    Config,
    build,
    count,
    extractor=extractor,
    needs=frozenset({"last_tokens"}),
    attention_maps=attention_maps,
)
