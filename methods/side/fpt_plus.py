"""FPT+, the memory-lean successor of FPT (Huang et al., IEEE TNNLS 2025, arXiv 2408.02426).

As `fpt`, but for a side network at 128 px on the last half of the blocks (6-11 of a ViT-B), and a fusion whose prompts
have the backbone's width: query = LayerNorm(prompts) without a projection, and the prompts are added before the output
projection. Fusion, side network and its head train.

Parameters, L layers, D = 768: fusion L P D + 2 D + (D S + S) = 149,088; in all 900,480 and the head.
Learning rates tuned by the authors: messidor2 2e-4, ddr 5e-4, isic2016 5e-3, isic2018 1e-4, mini_ddsm 1e-3, cmmd 5e-5,
covid 1e-4, chncxr 5e-4. One default serves all datasets here: their geometric middle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import IMAGE, Count, Dropout, Method, Share
from methods.side.fpt import PromptedBlock, SidePromptModel, extractor, views
from methods.side.fpt_parts.extraction import FeatureDtype, parse_layers
from methods.side.fpt_parts.fast_path import fast_path
from methods.side.fpt_parts.fusion import Stored, attend, init_prompts
from methods.side.fpt_parts.lean_fusion import LeanFusionPlus
from methods.side.fpt_parts.lean_layers import lean_blocks
from methods.side.fpt_parts.reading import prompts_attention
from methods.side.fpt_parts.side_network import build_side_network, count_side_network, init_side


@dataclass(frozen=True)
class Config:
    """Defaults of FPT+, the paper's (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (5e-5, 1.5e-4, 5e-4, 1.5e-3, 5e-3)
    lr: float = 5e-4
    weight_decay: float = 0.1
    layers: str = "last-half"
    num_prompt_tokens: Count = 16
    side_resolution: Count = 128
    side_reduction: Count = 8
    side_patch_size: Count = 16
    keep_ratio: Share = 0.2
    dropout: Dropout = 0.5
    feature_dtype: FeatureDtype = "float16"


class Fusion(nn.Module):
    """FPT+'s fusion: prompts of backbone width, normalised for their query and added before the output projection.

    Args:
        num_layers: Number L of chosen blocks; norm and projection are shared by all.
        num_prompt_tokens: Number P of prompts a block.
        embed_dim: Backbone width D.
        side_dim: Side width S.
        dropout: Dropout probability after the output projection.
        eps: The norm's epsilon.
    """

    def __init__(
        self, num_layers: int, num_prompt_tokens: int, embed_dim: int, side_dim: int, dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.prompts = nn.Parameter(init_prompts(num_layers, num_prompt_tokens, embed_dim))
        self.norm = nn.LayerNorm(embed_dim, eps=eps)
        self.out_proj = nn.Linear(embed_dim, side_dim)
        self.dropout = nn.Dropout(dropout)
        init_side(self)

    def forward(self, stored: Stored) -> Tensor:
        """Fuses an image's features into prompts `(B, L, P, S)`."""
        query = self.norm(self.prompts)  # (L, P, D)
        return self.dropout(self.out_proj(attend(query, stored) + self.prompts))


def build(backbone: Backbone, num_classes: int, config: Config) -> SidePromptModel:
    """Builds fusion and side network; the backbone lives in the extractor."""
    num_layers = len(parse_layers(config.layers, len(backbone.blocks())))
    side = build_side_network(backbone, num_layers, num_classes, config, PromptedBlock)
    fusion = Fusion(
        num_layers, config.num_prompt_tokens, backbone.embed_dim, side.embed_dim, config.dropout, backbone.eps
    )
    if not fast_path():
        return SidePromptModel(side, fusion)
    side.blocks = lean_blocks(side.blocks)
    return SidePromptModel(side, LeanFusionPlus(fusion))


def count(backbone: Backbone, config: Config) -> int:
    """Fusion L P D + 2 D + (D S + S), and the side network."""
    num_layers, embed_dim = len(parse_layers(config.layers, len(backbone.blocks()))), backbone.embed_dim
    side_dim = embed_dim // config.side_reduction
    fusion = num_layers * config.num_prompt_tokens * embed_dim + 2 * embed_dim + (embed_dim * side_dim + side_dim)
    return fusion + count_side_network(side_dim, num_layers, config)


def attention_maps(model: nn.Module, extractor: nn.Module | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """What each chosen block's prompts pay to each token of the frozen ViT, `(B, L, N)`."""
    fusion: Any = model.fusion
    return prompts_attention(fusion.norm(fusion.prompts), extractor, inputs[IMAGE])


METHOD = Method(
    "fpt_plus",
    "FPT+",
    "Huang et al., IEEE TNNLS 2025, arXiv 2408.02426",
    Config,
    build,
    count,
    views,
    extractor,
    needs=frozenset({"tokens", "attention"}),
    attention_maps=attention_maps,
)
