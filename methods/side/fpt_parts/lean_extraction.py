"""Extraction that never holds a whole attention map."""

from typing import Any

import torch
from torch import Tensor, nn

from methods.side.fpt_parts.extraction import most_important, num_kept, stored
from methods.side.fpt_parts.parts import one_operator, parts

MAX_SCORES = 2**22  # attention scores held at once by eager extraction: 16 MiB in fp32
CACHED_SCORES = 2**18  # by fused extraction on a CPU, for each thread: they stay in its own cache
LOW_PRECISION = (torch.bfloat16, torch.float16)

aten = torch.ops.aten


class LeanExtractor(nn.Module):
    """Computes what `methods.side.fpt.KeyValueExtractor` does.

    Each layer's features go straight to where all lie together.

    Args:
        plain: Gives its backbone and settings.
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.backbone = plain.backbone
        self.parts, self.keep_ratio, self.storage = plain.parts, plain.keep_ratio, plain.storage
        self.identity, self.augment_live = plain.identity, plain.augment_live

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Extracts the features of a batch."""
        backbone = self.backbone
        x, context = backbone.embed(image)  # (B, N, D)
        kept = num_kept(self.keep_ratio, backbone, x.shape[1])
        features: dict[str, Tensor] = {}
        for index in range(self.parts[-1] + 1):
            if index not in self.parts and backbone.fused(index):
                x = backbone.run(index, x, context)
                continue
            attended, keys, values = self._attend(index, x, context, kept)
            if index in self.parts:
                self._store(features, "keys", self.parts.index(index), keys)
                self._store(features, "values", self.parts.index(index), values)
            if index < self.parts[-1]:
                x = backbone.add_attention(index, x, attended)
                del attended, keys, values
                x = backbone.add_mlp(index, x)
        return features

    def _attend(self, index: int, x: Tensor, context: Any, kept: int) -> tuple[Tensor, Tensor, Tensor]:
        """The heads' outputs of one block, `(B, A, N, E)`, and the keys and values it picks, `(B, A, M, E)`."""
        query, key, value = self.backbone.attention(index, x, context)
        whole = self.backbone.fused(index) or torch.compiler.is_exporting()
        attend = attend_fused if whole else attend_in_chunks
        attended, received = attend(query, key, value, self.backbone.head_dim**-0.5)
        best = most_important(received, kept, self.backbone.head_dim)
        return attended, key.gather(2, best), value.gather(2, best)

    def _store(self, features: dict[str, Tensor], name: str, part: int, kept: Tensor) -> None:
        """Puts a layer's kept keys or values, `(B, A, M, E)`, into the features of all layers."""
        for key, tensor in stored(name, kept, self.storage).items():
            if key not in features:
                features[key] = tensor.new_empty(tensor.shape[0], len(self.parts), *tensor.shape[1:])  # (B, L, A, ., E)
            features[key][:, part] = tensor


def attend_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, scale: float, max_scores: int | None = None
) -> tuple[Tensor, Tensor]:
    """Eager softmax attention and how much of it each token receives, in chunks of heads and queries.

    Args:
        query, key, value: Of all heads.
        scale: Of the scores.
        max_scores: Held at once, more only where those of one query are; None for `MAX_SCORES`.

    Returns:
        The attention's output, and for each head and token the mean over queries of the attention it receives.

    Shape:
        - query, key, value: `(B, A, N, E)`
        - Output: `(B, A, N, E)` and `(B, A, N)`, the latter in fp32
    """
    batch, heads, tokens, _ = query.shape
    query, key, value = (
        tensor.flatten(0, 1) for tensor in (query * scale, key, value)
    )  # each (B A, N, E), copied once
    output = torch.empty_like(query)
    received = query.new_zeros(batch * heads, tokens, dtype=torch.float32)
    max_scores = max_scores or MAX_SCORES
    heads_at_once = max(1, max_scores // tokens**2)
    queries_at_once = min(tokens, max(1, max_scores // tokens))
    for part in parts(batch * heads, heads_at_once):
        _attend_to_part(query, key, value, output, received, part, queries_at_once)
    return output.unflatten(0, (batch, heads)), (received / tokens).unflatten(0, (batch, heads))


@one_operator
def _attend_to_part(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, received: Tensor, heads: slice, queries_at_once: int
) -> None:
    """Fills some heads' part of the output `(B A, N, E)` and of what tokens receive `(B A, N)`."""
    for queries in parts(query.shape[1], queries_at_once):
        scores = torch.bmm(query[heads, queries], key[heads].mT)  # (heads, queries, N)
        attention = scores.softmax(dim=-1, dtype=torch.float32)
        received[heads] += attention.sum(dim=1)
        output[heads, queries] = torch.bmm(attention.to(value.dtype), value[heads])


def attend_fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """As `attend_in_chunks`, without any attention map: on a CPU in fp32 in chunks that fit its cache, so that each
    score is made once, else in two passes of the fused kernel.
    """
    if query.is_cpu and query.dtype == torch.float32 and not torch.compiler.is_exporting():
        max_scores = CACHED_SCORES * torch.get_num_threads()
        found = []
        for image in zip(query, key, value, strict=True):  # copies, so that none depends on its company or its place
            own = [tensor.clone(memory_format=torch.contiguous_format)[None] for tensor in image]
            found.append(attend_in_chunks(own[0], own[1], own[2], scale, max_scores))
        return torch.cat([attended for attended, _ in found]), torch.cat([received for _, received in found])
    return attend_in_two_passes(query, key, value, scale)


def attend_in_two_passes(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """As `attend_in_chunks`, by the fused kernel.

    The kernel returns each query's log-sum-exp over keys, l_i. What token j receives from all queries is
    sum_i exp(scale q_i k_j - l_i): the exponential of a log-sum-exp as well, with the roles of queries and keys swapped
    and -l_i as bias. The bias travels in extra columns beside the head's width, in 16 bits as a sum of three of them
    (24 bits together), so that scores add up in the kernel's own fp32.
    """
    output, logsumexp = attention_with_logsumexp(query, key, value, scale)
    rest, columns = -logsumexp.unsqueeze(-1) / scale, []  # (B, A, N, 1), fp32
    for _ in range(3 if query.dtype in LOW_PRECISION else 1):
        columns.append(rest.to(query.dtype))
        rest = rest - columns[-1].float()
    padding = query.new_zeros(*query.shape[:-1], -(query.shape[-1] + len(columns)) % 8)  # kernels want multiples of 8
    ones = query.new_ones(*query.shape[:-1], len(columns))
    asking, asked = torch.cat([key, ones, padding], -1), torch.cat([query, *columns, padding], -1)
    _, received = attention_with_logsumexp(asking, asked, asked, scale)
    return output, received.exp() / query.shape[2]


def attention_with_logsumexp(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Fused attention, and for each query the logarithm of the sum over keys of exp(scale q k).

    Shape:
        - query, key, value: `(B, A, N, E)`
        - Output: `(B, A, N, E)` and `(B, A, N)`, the latter in fp32
    """
    if torch.compiler.is_exporting():  # other programs have no such kernel
        scores = scale * query @ key.mT
        return scores.softmax(dim=-1) @ value, scores.logsumexp(dim=-1)
    if query.is_cpu:
        output, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, scale=scale)
    elif query.dtype in LOW_PRECISION:
        output, logsumexp = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False, scale=scale)[:2]
    else:
        output, logsumexp = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, False, scale=scale
        )[:2]
    return output, logsumexp[..., : query.shape[2]]  # the efficient kernel's is padded
