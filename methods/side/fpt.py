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

Departure: features are kept in half precision (`feature_dtype`; `float32` and `int8` can be chosen).

The modules of this file are the method. What runs are lean ones that take over their parameters and compute the same
(`fpt_parts.fast_path`): they hold no attention map whole, keep little for the backward pass, and leave out what the
equations compute without reading it: outputs at prompts, and all of the last block's but the class token's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.backbone import Backbone
from methods.contract import IMAGE, Count, Dropout, Method, Share, Views, freeze
from methods.side.fpt_parts.extraction import (
    FeatureDtype,
    most_important,
    num_kept,
    parse_layers,
    stored,
)
from methods.side.fpt_parts.fast_path import fast_path
from methods.side.fpt_parts.fusion import Stored, attend, init_prompts
from methods.side.fpt_parts.lean_extraction import LeanExtractor
from methods.side.fpt_parts.lean_fusion import LeanFusion
from methods.side.fpt_parts.lean_layers import lean_blocks
from methods.side.fpt_parts.reading import prompts_attention
from methods.side.fpt_parts.side_network import build_side_network, count_side_network, init_side


@dataclass(frozen=True)
class Config:
    """Defaults of FPT, the paper's; lr is the first release's (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (2e-4, 6e-4, 2e-3, 6e-3, 2e-2)
    lr: float = 2e-3
    weight_decay: float = 0.1
    layers: str = "all"
    num_prompt_tokens: Count = 16
    side_resolution: Count = 224
    side_reduction: Count = 8
    side_patch_size: Count = 16
    keep_ratio: Share = 0.2
    dropout: Dropout = 0.5
    feature_dtype: FeatureDtype = "float16"


class KeyValueExtractor(nn.Module):
    """The frozen ViT's keys and values of the most important tokens at the chosen blocks.

    Blocks after the last chosen one are not run.

    Args:
        backbone: The pretrained backbone at the high resolution.
        layers: Indices of the chosen blocks, ascending.
        keep_ratio: Share of tokens each head keeps, in (0, 1].
        storage: Type of the features: `float16`, `float32`, or `int8` with a scale a channel.
    """

    def __init__(self, backbone: Backbone, layers: Sequence[int], keep_ratio: float, storage: FeatureDtype) -> None:
        super().__init__()
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
        backbone = self.backbone
        x, context = backbone.embed(image)  # (B, N, D)
        kept = num_kept(self.keep_ratio, backbone, x.shape[1])
        layers: list[dict[str, Tensor]] = []
        for index in range(self.parts[-1] + 1):
            query, key, value = backbone.attention(index, x, context)  # each (B, A, N, E)
            attention = (query @ key.mT * backbone.head_dim**-0.5).softmax(dim=-1)  # (B, A, N, N)
            if index in self.parts:
                best = most_important(attention.mean(dim=2), kept, backbone.head_dim)  # (B, A, M, E)
                keys, values = key.gather(2, best), value.gather(2, best)
                layers.append(stored("keys", keys, self.storage) | stored("values", values, self.storage))
            x = backbone.add_attention(index, x, attention.to(value.dtype) @ value)
            x = backbone.add_mlp(index, x)
        return {name: torch.stack([layer[name] for layer in layers], dim=1) for name in layers[0]}


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

    def forward(self, stored: Stored) -> Tensor:
        """Fuses an image's features into prompts `(B, L, P, S)`."""
        query = self.query_proj(self.prompts)  # (L, P, D)
        return self.dropout(self.out_proj(attend(query, stored))) + self.prompts


class PromptedBlock(Block):
    """A transformer block that is joined by prompts, whose outputs are dropped."""

    def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
        """Runs the block.

        Shape:
            - x: `(B, n, S)`
            - prompts: `(B, P, S)`
            - Output: `(B, n, S)`
        """
        joined: Tensor = super().forward(torch.cat([x, prompts], dim=1))  # (B, n + P, S)
        return joined[:, : x.shape[1]]


class SidePromptModel(nn.Module):
    """The trainable part of FPT and FPT+: fusion and side network.

    Args:
        side_network: The side ViT, with its new head and as many blocks, joined by prompts, as chosen layers.
        fusion: Module `stored -> (B, L, P, S)`, the prompts of all blocks.
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
        """Computes the activations of fusion and of each side block again in the backward pass."""
        self.grad_checkpointing = enable
        for part in (self.fusion, *self.side_network.blocks):
            part.grad_checkpointing = enable

    def forward(
        self,
        image_low: Tensor,
        keys: Tensor,
        values: Tensor,
        keys_scale: Tensor | None = None,
        values_scale: Tensor | None = None,
    ) -> Tensor:
        """Classifies a batch.

        Shape:
            - image_low: `(B, 3, h, w)` at the side network's resolution
            - keys, values: `(B, L, A, M, E)`
            - keys_scale, values_scale: `(B, L, A, 1, E)`, of features in 8 bits
            - Output: logits `(B, C)`
        """
        side = self.side_network
        prompts = self._run(self.fusion, Stored(keys, values, keys_scale, values_scale))
        x = side._pos_embed(side.patch_embed(image_low))  # (B, n, S)
        for block, joining in zip(side.blocks, prompts.unbind(1), strict=True):
            x = self._run(block, x, joining)
        return side.head(side.norm(x)[:, 0])

    def _run(self, module: nn.Module, *inputs: Any) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


def build(backbone: Backbone, num_classes: int, config: Config) -> SidePromptModel:
    """Builds fusion and side network; the backbone lives in the extractor."""
    num_layers = len(parse_layers(config.layers, len(backbone.blocks())))
    side = build_side_network(backbone, num_layers, num_classes, config, PromptedBlock)
    fusion = Fusion(num_layers, config.num_prompt_tokens, backbone.embed_dim, side.embed_dim, config.dropout)
    if not fast_path():
        return SidePromptModel(side, fusion)
    side.blocks = lean_blocks(side.blocks)
    return SidePromptModel(side, LeanFusion(fusion))


def extractor(backbone: Backbone, config: Any) -> nn.Module:
    """The frozen backbone, image to keys and values; `config` is FPT's or FPT+'s."""
    layers = parse_layers(config.layers, len(backbone.blocks()))
    plain = KeyValueExtractor(backbone, layers, config.keep_ratio, config.feature_dtype)
    return LeanExtractor(plain) if fast_path() else plain


def views(config: Any, resolution: int) -> Views:
    """The image for the frozen ViT and the one for the side network; `config` is FPT's or FPT+'s."""
    return {IMAGE: resolution, "image_low": config.side_resolution}


def count(backbone: Backbone, config: Config) -> int:
    """Fusion L P S + (S D + D) + (D S + S), and the side network."""
    num_layers, embed_dim = len(parse_layers(config.layers, len(backbone.blocks()))), backbone.embed_dim
    side_dim = embed_dim // config.side_reduction
    prompts = num_layers * config.num_prompt_tokens * side_dim
    projections = (side_dim * embed_dim + embed_dim) + (embed_dim * side_dim + side_dim)
    return prompts + projections + count_side_network(side_dim, num_layers, config)


def attention_maps(model: nn.Module, extractor: nn.Module | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """What each chosen block's prompts pay to each token of the frozen ViT, `(B, L, N)`."""
    fusion: Any = model.fusion
    return prompts_attention(fusion.query_proj(fusion.prompts), extractor, inputs[IMAGE])


METHOD = Method(
    "fpt",
    "FPT",
    "Huang et al., MICCAI 2024, arXiv 2403.07576",
    Config,
    build,
    count,
    views,
    extractor,
    needs=frozenset({"tokens", "attention"}),
    attention_maps=attention_maps,
)
