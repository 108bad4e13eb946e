"""FPT, fine-grained prompt tuning (Huang et al., MICCAI 2024, arXiv 2403.07576).

A large frozen ViT sees the image at high resolution; a small side ViT sees it at low resolution and is trained from
scratch. At every chosen block the side ViT's tokens are joined by a few prompt tokens that have queried the frozen
ViT's keys and values. Fusion (prompts, query projection, output projection), side network and its head train.

1. Extraction (frozen, may run ahead of time): keys and values of each head after the qkv projection; of the N tokens
   each head keeps the floor(keep_ratio N) that receive the most attention, averaged over queries.
2. Fusion: query = Linear_{S -> D}(prompts), attention with the backbone's heads, Linear_{D -> S}, dropout, plus the
   prompts themselves.
3. Side network: a ViT of width S = D / 8 with the backbone's number of heads and one block per chosen layer.

Parameters, C classes, L layers, D = 768: fusion L P S + (S D + D) + (D S + S) = 166,752; in all 1,601,856 and the head.

Departures: features are kept in half precision (`feature_dtype`), and attention maps are never held whole; both leave
the method's equations as they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.contract import Method, Views, chunks, freeze, init_head

# Attention scores held at once during extraction, 16 MiB in fp32: few enough for a CPU's cache, enough to fill a GPU.
MAX_SCORES = 2**22


@dataclass(frozen=True)
class Config:
    """Defaults of FPT (../shared/facts/fpt.md; lr is the first release's)."""

    lr: float = 2e-3
    weight_decay: float = 0.1
    layers: str = "all"
    num_prompt_tokens: int = 16
    side_resolution: int = 224
    side_reduction: int = 8
    side_patch_size: int = 16
    keep_ratio: float = 0.2
    dropout: float = 0.5
    feature_dtype: str = "float16"


def parse_layers(spec: str, depth: int) -> tuple[int, ...]:
    """Reads a choice of blocks: `all`, `last-half`, a range `6-11`, a list `0,3,6,9`, or both mixed.

    Raises:
        ValueError: A part is no number or range, or names a block the backbone lacks.
    """
    if spec == "all":
        return tuple(range(depth))
    if spec == "last-half":
        return tuple(range(depth // 2, depth))
    layers: set[int] = set()
    for part in spec.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or (dash and not last.strip().isdigit()):
            raise ValueError(f"layers must be all, last-half or like 6-11 or 0,3,6,9, got {spec!r}")
        layers.update(range(int(first), int(last or first) + 1))
    if not layers or max(layers) >= depth:
        raise ValueError(f"layers must lie within 0-{depth - 1}, the blocks of this backbone, got {spec!r}")
    return tuple(sorted(layers))


def attend_in_chunks(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention and how much of it each token receives, in chunks of heads and queries.

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
    for chunk in chunks(batch * heads, heads_at_once):
        for queries in chunks(tokens, queries_at_once):
            scores = torch.bmm(query[chunk, queries], key[chunk].mT)  # (heads, queries, N)
            attention = scores.softmax(dim=-1, dtype=torch.float32)
            received[chunk] += attention.sum(dim=1)
            output[chunk, queries] = torch.bmm(attention.to(value.dtype), value[chunk])
    return output.unflatten(0, (batch, heads)), (received / tokens).unflatten(0, (batch, heads))


class KeyValueExtractor(nn.Module):
    """The frozen ViT's keys and values of the most important tokens at the chosen blocks.

    Blocks after the last chosen one are not run.

    Args:
        backbone: The pretrained ViT at the high resolution.
        layers: Indices of the chosen blocks, ascending.
        keep_ratio: Share of tokens each head keeps, in (0, 1].
        dtype: Storage type of the features.

    Raises:
        ValueError: `keep_ratio` keeps no token or is above 1, or the backbone's attention is not timm's plain one.
    """

    def __init__(
        self, backbone: VisionTransformer, layers: Sequence[int], keep_ratio: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        if not 0 < keep_ratio <= 1:
            raise ValueError(f"keep_ratio must be above 0 and at most 1, got {keep_ratio!r}")
        for block in backbone.blocks:
            if not isinstance(block.attn, Attention) or getattr(block.attn, "gate", None) is not None:
                raise ValueError("backbone must have plain self-attention for FPT, choose another --backbone")
        freeze(backbone)
        self.backbone = backbone
        self.layers = tuple(layers)
        self.keep_ratio = keep_ratio
        self.dtype = dtype
        self.identity: Mapping[str, Any] = {
            "feature": "keys and values of the tokens that receive the most attention",
            "layers": list(self.layers),
            "keep_ratio": keep_ratio,
            "dtype": str(dtype).removeprefix("torch."),
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Extracts the features of a batch.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `keys` and `values`, both `(B, L, A, M, E)` with M = floor(keep_ratio N)
        """
        vit = self.backbone
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(image))))  # (B, N, D)
        attn = vit.blocks[0].attn
        num_kept = math.floor(self.keep_ratio * x.shape[1])
        if num_kept < 1:
            raise ValueError(f"keep_ratio must keep a token of {x.shape[1]}, got {self.keep_ratio!r}")
        shape = (len(x), len(self.layers), attn.num_heads, num_kept, attn.head_dim)
        features = {name: x.new_empty(shape, dtype=self.dtype) for name in ("keys", "values")}
        for index, block in enumerate(vit.blocks[: self.layers[-1] + 1]):
            if index not in self.layers:
                x = block(x)
                continue
            attended, kept_keys, kept_values = self._attend(block.attn, block.norm1(x), num_kept)
            features["keys"][:, self.layers.index(index)] = kept_keys
            features["values"][:, self.layers.index(index)] = kept_values
            if index < self.layers[-1]:
                x = x + block.drop_path1(block.ls1(attended))
                x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return features

    def _attend(self, attn: Attention, x: Tensor, num_kept: int) -> tuple[Tensor, Tensor, Tensor]:
        """Runs one attention layer, `(B, N, D)`, and picks its keys and values, `(B, A, M, E)`."""
        qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, N, 3, A, E)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, A, N, E)
        query, key = attn.q_norm(query), attn.k_norm(key)
        output, received = attend_in_chunks(query, key, value, attn.scale)
        kept = received.topk(num_kept, dim=-1).indices.sort(dim=-1).values  # (B, A, M)
        kept = kept.unsqueeze(-1).expand(-1, -1, -1, attn.head_dim)  # (B, A, M, E)
        output = attn.proj_drop(attn.proj(attn.norm(output.transpose(1, 2).flatten(2))))  # (B, N, D)
        return output, key.gather(2, kept), value.gather(2, kept)


class _PromptAttention(torch.autograd.Function):
    """Cross-attention of prompts on frozen keys and values, with gradients for the query alone.

    Nothing but the inputs is kept for the backward pass: keys and values stay in their stored precision, and their
    casts and the attention itself are computed again.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, values)
        attention = _PromptAttention.attention(query, keys)
        return attention @ values.to(query.dtype)  # (B, A, P, E)

    @staticmethod
    def attention(query: Tensor, keys: Tensor) -> Tensor:
        scores = query @ keys.to(query.dtype).transpose(-2, -1)  # (B, A, P, M)
        return scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        query, keys, values = ctx.saved_tensors
        attention = _PromptAttention.attention(query, keys)
        grad_attention = grad @ values.to(query.dtype).transpose(-2, -1)  # (B, A, P, M)
        grad_scores = attention * (grad_attention - (attention * grad_attention).sum(-1, keepdim=True))
        return (grad_scores @ keys.to(query.dtype)).sum(0), None, None


def attend_to_features(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Multi-head cross-attention of a layer's prompts on an image's kept keys and values.

    Shape:
        - query: `(P, D)`, the same for every image
        - keys, values: `(B, A, M, E)`, without gradients
        - Output: `(B, P, D)`, heads concatenated
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query = query.to(torch.get_autocast_dtype(device))
    heads = (query * keys.shape[-1] ** -0.5).unflatten(-1, keys.shape[1::2]).transpose(0, 1)  # (A, P, E)
    output: Tensor = _PromptAttention.apply(heads, keys, values)
    return output.transpose(1, 2).flatten(2)


class Fusion(nn.Module):
    """FPT's fusion: prompts of side width, projected to the backbone's for their query and added to its result.

    Args:
        num_layers: Number L of chosen blocks; the projections are shared by all.
        num_prompt_tokens: Number P of prompts a block.
        embed_dim: Backbone width D.
        side_dim: Side width S.
        dropout: Dropout probability after the output projection.
    """

    def __init__(self, num_layers: int, num_prompt_tokens: int, embed_dim: int, side_dim: int, dropout: float) -> None:
        super().__init__()
        self.prompts = nn.Parameter(init_prompts(num_layers, num_prompt_tokens, side_dim))
        self.query_proj = nn.Linear(side_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, side_dim)
        self.dropout = nn.Dropout(dropout)
        init_side(self)

    def forward(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Fuses one layer's features into prompts.

        Shape:
            - keys, values: `(B, A, M, E)`
            - Output: `(B, P, S)`
        """
        prompts = self.prompts[layer]
        attended = attend_to_features(self.query_proj(prompts), keys, values)
        return self.dropout(self.out_proj(attended)) + prompts


class SidePromptModel(nn.Module):
    """The trainable part of FPT and FPT+: fusion and side network.

    Args:
        side_network: The side ViT, with its new head and as many blocks as chosen layers.
        fusion: Module `(layer, keys, values) -> (B, P, S)`.
    """

    def __init__(self, side_network: VisionTransformer, fusion: nn.Module) -> None:
        super().__init__()
        self.side_network = side_network
        self.fusion = fusion
        self.grad_checkpointing = False

    @property
    def head(self) -> nn.Module:
        """The classification head."""
        return self.side_network.head

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recomputes each side block's activations in the backward pass."""
        self.grad_checkpointing = enable

    def _step(self, layer: int, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        prompts = self.fusion(layer, keys, values)  # (B, P, S)
        num_tokens = x.shape[1]
        return self.side_network.blocks[layer](torch.cat([x, prompts], dim=1))[:, :num_tokens]

    def forward(self, image_low: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - image_low: `(B, 3, h, w)` at the side network's resolution
            - keys, values: `(B, L, A, M, E)`
            - Output: logits `(B, C)`
        """
        side = self.side_network
        x = side._pos_embed(side.patch_embed(image_low))  # (B, n, S)
        for layer in range(len(side.blocks)):
            inputs = (layer, x, keys[:, layer], values[:, layer])
            x = checkpoint(self._step, *inputs, use_reentrant=False) if self.grad_checkpointing else self._step(*inputs)
        return side.forward_head(side.norm(x))


def init_prompts(num_layers: int, num_prompt_tokens: int, width: int) -> Tensor:
    """Prompts `(L, P, width)` from N(0, 1e-6)."""
    return torch.randn(num_layers, num_prompt_tokens, width) * 1e-6


def init_side(module: nn.Module) -> None:
    """Initialises linear and convolution weights from a truncated normal 0.02, their biases with zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def build_side_network(
    backbone: VisionTransformer, num_layers: int, num_classes: int, config: Any
) -> VisionTransformer:
    """Makes the side ViT for a backbone; `config` is FPT's or FPT+'s.

    Raises:
        ValueError: The side width is not divisible by the backbone's number of heads.
    """
    num_heads = backbone.blocks[0].attn.num_heads
    side_dim = backbone.embed_dim // config.side_reduction
    if side_dim % num_heads:
        raise ValueError(f"side_reduction must leave a width divisible by {num_heads} heads, got {side_dim!r}")
    side = VisionTransformer(
        img_size=config.side_resolution,
        patch_size=config.side_patch_size,
        num_classes=num_classes,
        embed_dim=side_dim,
        depth=num_layers,
        num_heads=num_heads,
        norm_layer=partial(nn.LayerNorm, eps=backbone.blocks[0].norm1.eps),
    )
    init_side(side)
    init_head(side.head)
    return side


def build(backbone: VisionTransformer, num_classes: int, config: Config) -> SidePromptModel:
    """Builds fusion and side network; the backbone lives in the extractor."""
    num_layers = len(parse_layers(config.layers, len(backbone.blocks)))
    side = build_side_network(backbone, num_layers, num_classes, config)
    fusion = Fusion(num_layers, config.num_prompt_tokens, backbone.embed_dim, side.embed_dim, config.dropout)
    return SidePromptModel(side, fusion)


def extractor(backbone: VisionTransformer, config: Any) -> KeyValueExtractor:
    """The frozen ViT, image to keys and values; `config` is FPT's or FPT+'s."""
    layers = parse_layers(config.layers, len(backbone.blocks))
    return KeyValueExtractor(backbone, layers, config.keep_ratio, getattr(torch, config.feature_dtype))


def views(config: Any, resolution: int) -> Views:
    """The image for the frozen ViT and the one for the side network; `config` is FPT's or FPT+'s."""
    return {"image": resolution, "image_low": config.side_resolution}


METHOD = Method("fpt", "FPT", "Huang et al., MICCAI 2024, arXiv 2403.07576", Config, build, views, extractor)
