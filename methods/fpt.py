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

Departures: features are kept in half precision (`feature_dtype`; `float32` and `int8` can be chosen), attention maps
are never held whole, and what the equations compute without reading it is left out: outputs at prompts, and all of the
last block's but the class token's.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from methods.contract import IMAGE, Method, Views
from methods.fpt_parts.extraction import KeyValueExtractor, parse_layers
from methods.fpt_parts.fusion import Stored, attend_to_features, init_prompts
from methods.fpt_parts.lean_layers import linear
from methods.fpt_parts.side_network import SidePromptModel, build_side_network, count_side_network, init_side


@dataclass(frozen=True)
class Config:
    """Defaults of FPT, the paper's; lr is the first release's (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (2e-4, 6e-4, 2e-3, 6e-3, 2e-2)
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
        attended = attend_to_features(linear(self.prompts, self.query_proj), stored)
        return self.dropout(linear(attended, self.out_proj)) + self.prompts


def build(backbone: VisionTransformer, num_classes: int, config: Config) -> SidePromptModel:
    """Builds fusion and side network; the backbone lives in the extractor."""
    num_layers = len(parse_layers(config.layers, len(backbone.blocks)))
    side = build_side_network(backbone, num_layers, num_classes, config)
    fusion = Fusion(num_layers, config.num_prompt_tokens, backbone.embed_dim, side.embed_dim, config.dropout)
    return SidePromptModel(side, fusion)


def extractor(backbone: VisionTransformer, config: Any) -> KeyValueExtractor:
    """The frozen ViT, image to keys and values; `config` is FPT's or FPT+'s."""
    layers = parse_layers(config.layers, len(backbone.blocks))
    return KeyValueExtractor(backbone, layers, config.keep_ratio, config.feature_dtype)


def views(config: Any, resolution: int) -> Views:
    """The image for the frozen ViT and the one for the side network; `config` is FPT's or FPT+'s."""
    return {IMAGE: resolution, "image_low": config.side_resolution}


def count(backbone: VisionTransformer, config: Config) -> int:
    """Fusion L P S + (S D + D) + (D S + S), and the side network."""
    num_layers, embed_dim = len(parse_layers(config.layers, len(backbone.blocks))), backbone.embed_dim
    side_dim = embed_dim // config.side_reduction
    prompts = num_layers * config.num_prompt_tokens * side_dim
    projections = (side_dim * embed_dim + embed_dim) + (embed_dim * side_dim + side_dim)
    return prompts + projections + count_side_network(side_dim, num_layers, config)


METHOD = Method(
    "fpt",
    "FPT",
    "Huang et al., MICCAI 2024, arXiv 2403.07576",
    Config,
    build,
    count,
    views,
    extractor,
    needs=frozenset({"tokens", "blocks", "qkv", "attention"}),
)
