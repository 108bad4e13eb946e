"""Extraction: the frozen ViT's keys and values of the tokens that receive the most attention."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from methods.contract import OptionError, freeze
from methods.fpt_parts.parts import one_operator, parts

# Attention scores held at once by eager extraction, 16 MiB in fp32: few enough for a CPU's cache.
MAX_SCORES = 2**22
LOW_PRECISION = (torch.bfloat16, torch.float16)
DTYPES = {"float16": torch.float16, "float32": torch.float32, "int8": torch.int8}

aten = torch.ops.aten


def parse_layers(spec: str, depth: int) -> tuple[int, ...]:
    """Reads a choice of blocks: `all`, `last-half`, a range `6-11`, a list `0,3,6,9`, or both mixed.

    Raises:
        OptionError: A part is no number or range, or names a block the backbone lacks.
    """
    if spec == "all":
        return tuple(range(depth))
    if spec == "last-half":
        return tuple(range(depth // 2, depth))
    layers: set[int] = set()
    for part in spec.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or (dash and not last.strip().isdigit()):
            raise OptionError(f"layers must be all, last-half or like 6-11 or 0,3,6,9, got {spec!r}")
        layers.update(range(int(first), int(last or first) + 1))
    if not layers or max(layers) >= depth:
        raise OptionError(f"layers must lie within 0-{depth - 1}, the blocks of this backbone, got {spec!r}")
    return tuple(sorted(layers))


def attend_in_chunks(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Eager softmax attention and how much of it each token receives, in chunks of heads and queries.

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
    heads_at_once = max(1, MAX_SCORES // tokens**2)
    queries_at_once = min(tokens, max(1, MAX_SCORES // tokens))
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
    """As `attend_in_chunks`, by two passes of the fused kernel and without any attention map.

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
    if query.is_cpu:
        output, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, scale=scale)
    elif query.dtype in LOW_PRECISION:
        output, logsumexp = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False, scale=scale)[:2]
    else:
        output, logsumexp = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, False, scale=scale
        )[:2]
    return output, logsumexp[..., : query.shape[2]]  # the efficient kernel's is padded


def quantize(features: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds features to 8 bits: `features` is about `quantized * scale`, off by at most half a scale.

    Shape:
        - features: `(B, A, M, E)`
        - Output: int8 `(B, A, M, E)`, and a scale for each channel over its tokens, fp32 `(B, A, 1, E)`
    """
    scale = features.float().abs().amax(dim=-2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (features / scale).round_().to(torch.int8), scale


class KeyValueExtractor(nn.Module):
    """The frozen ViT's keys and values of the most important tokens at the chosen blocks.

    Blocks after the last chosen one are not run.

    Args:
        backbone: The pretrained ViT at the high resolution.
        layers: Indices of the chosen blocks, ascending.
        keep_ratio: Share of tokens each head keeps, in (0, 1].
        storage: Type of the features: `float16`, `float32`, or `int8` with a scale a channel.

    Raises:
        OptionError: `keep_ratio` keeps no token or is above 1, or `storage` is unknown.
    """

    def __init__(self, backbone: VisionTransformer, layers: Sequence[int], keep_ratio: float, storage: str) -> None:
        super().__init__()
        if not 0 < keep_ratio <= 1:
            raise OptionError(f"keep_ratio must be above 0 and at most 1, got {keep_ratio!r}")
        if storage not in DTYPES:
            raise OptionError(f"feature_dtype must be one of {', '.join(DTYPES)}, got {storage!r}")
        freeze(backbone)
        self.backbone = backbone
        self.parts = tuple(layers)
        self.keep_ratio = keep_ratio
        self.storage = storage
        self.augment_live = False
        self.identity: Mapping[str, Any] = {
            "feature": "keys and values of the tokens that receive the most attention",
            "keep_ratio": keep_ratio,
            "storage": storage,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Extracts the features of a batch.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `keys` and `values`, both `(B, L, A, M, E)` with M = floor(keep_ratio N); in 8 bits also
              `keys_scale` and `values_scale`, both `(B, L, A, 1, E)`
        """
        vit = self.backbone
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(image))))  # (B, N, D)
        num_kept = math.floor(self.keep_ratio * x.shape[1])
        if num_kept < 1:
            raise OptionError(f"keep_ratio must keep a token of {x.shape[1]}, got {self.keep_ratio!r}")
        features: dict[str, Tensor] = {}
        for index, block in enumerate(vit.blocks[: self.parts[-1] + 1]):
            if index not in self.parts and block.attn.fused_attn:
                x = block(x)
                continue
            attended, keys, values = self._attend(block.attn, block.norm1(x), num_kept)
            if index in self.parts:
                self._store(features, "keys", self.parts.index(index), keys)
                self._store(features, "values", self.parts.index(index), values)
            if index < self.parts[-1]:
                x = x + block.drop_path1(block.ls1(attended))
                x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return features

    def _store(self, features: dict[str, Tensor], name: str, part: int, kept: Tensor) -> None:
        """Puts a layer's kept keys or values, `(B, A, M, E)`, into the features of all layers."""
        named = {name: kept.to(DTYPES[self.storage])} if self.storage != "int8" else {}
        if self.storage == "int8":
            named[name], named[f"{name}_scale"] = quantize(kept)
        for key, tensor in named.items():
            if key not in features:
                features[key] = tensor.new_empty(len(tensor), len(self.parts), *tensor.shape[1:])  # (B, L, A, ., E)
            features[key][:, part] = tensor

    def _attend(self, attn: Attention, x: Tensor, num_kept: int) -> tuple[Tensor, Tensor, Tensor]:
        """Runs one attention layer, `(B, N, D)`, and picks its keys and values, `(B, A, M, E)`."""
        qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, N, 3, A, E)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, A, N, E)
        query, key = attn.q_norm(query).to(value.dtype), attn.k_norm(key).to(value.dtype)
        attend = attend_fused if attn.fused_attn else attend_in_chunks
        output, received = attend(query, key, value, attn.scale)
        kept = received.topk(num_kept, dim=-1).indices.sort(dim=-1).values  # (B, A, M)
        kept = kept.unsqueeze(-1).expand(-1, -1, -1, attn.head_dim)  # (B, A, M, E)
        output = attn.proj_drop(attn.proj(attn.norm(output.transpose(1, 2).flatten(2))))  # (B, N, D)
        return output, key.gather(2, kept), value.gather(2, kept)
