"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): low-rank updates of the fused query-key-value projections.

Hugging Face peft adds W + (alpha / rank) B A to `attn.qkv` of every block; A, B and the new head train. A rank-r update
of the fused projection has as many parameters as rank-r updates of query and value alone: L (D r + 3 D r) = 4 L D r.
B starts at zero, so the model starts as the pretrained one.
"""

from dataclasses import dataclass
from typing import ClassVar

from timm.models.vision_transformer import VisionTransformer

from methods.contract import Count, Dropout, Factor, ImageModel, Method, attach_head, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of LoRA (docs/methods.md; rank 16 reproduces the published 0.68 %)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    rank: Count = 16
    alpha: Factor = 16
    dropout: Dropout = 0.0


def build(backbone: VisionTransformer, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, injects the low-rank layers in place and attaches the head.

    peft's own wrapper is not used: its `modules_to_save` would keep a frozen second copy of the head.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and only this method needs it

    freeze(backbone)
    lora = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=r"blocks\.\d+\.attn\.qkv"
    )
    inject_adapter_in_model(lora, backbone)
    attach_head(backbone, num_classes)
    return ImageModel(backbone)


def count(backbone: VisionTransformer, config: Config) -> int:
    """L (D r + r 3 D): one pair of matrices on each fused projection."""
    embed_dim = backbone.embed_dim
    return len(backbone.blocks) * config.rank * (embed_dim + 3 * embed_dim)


METHOD = Method(
    "lora",
    "LoRA",
    "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685",
    Config,
    build,
    count,
    needs=frozenset({"qkv"}),
    starts_as_pretrained=True,
)
