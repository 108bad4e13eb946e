"""Which tokens of the frozen backbone FPT's prompts read, and how much."""

from typing import Any

import torch
from torch import Tensor

from methods.side.fpt_parts.extraction import most_important, num_kept
from methods.side.fpt_parts.lean_extraction import attend_in_chunks


def prompts_attention(query: Tensor, extractor: Any, image: Tensor) -> Tensor:
    """The attention of each chosen block's prompts to all tokens: 0 for one that is not kept.

    As `fusion.attend` on the extractor's features, whose places among the tokens only the extraction knows.

    Args:
        query: The prompts' queries.
        extractor: A `KeyValueExtractor` or its lean form.
        image: At the extractor's resolution, normalised.

    Shape:
        - query: `(L, P, D)`
        - image: `(B, 3, H, W)`
        - Output: `(B, L, N)`, the mean over prompts and heads, which sums to one over the tokens
    """
    backbone = extractor.backbone
    scale = backbone.head_dim**-0.5
    heads = query.unflatten(-1, (backbone.num_heads, backbone.head_dim)).transpose(1, 2)  # (L, A, P, E)
    x, context = backbone.embed(image)  # (B, N, D)
    kept = num_kept(extractor.keep_ratio, backbone, x.shape[1])
    maps: list[Tensor] = []
    for index in range(extractor.parts[-1] + 1):
        query, key, value = backbone.attention(index, x, context)  # each (B, A, N, E)
        attended, received = attend_in_chunks(query, key, value, scale)
        if index in extractor.parts:
            best = most_important(received, kept, backbone.head_dim)  # (B, A, M, E)
            scores = heads[len(maps)].to(key.dtype) @ key.gather(2, best).mT * scale
            shares = scores.softmax(dim=-1, dtype=torch.float32).mean(dim=2)  # (B, A, M)
            maps.append(torch.zeros_like(received).scatter(2, best[..., 0], shares).mean(dim=1))
        x = backbone.add_mlp(index, backbone.add_attention(index, x, attended))
    return torch.stack(maps, dim=1)
