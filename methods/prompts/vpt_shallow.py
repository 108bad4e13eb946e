"""Visual prompt tuning, shallow (Jia et al., ECCV 2022, arXiv 2203.12119): learned tokens for the first block alone.

The prompts then run through all blocks like any other token. Prompts and the new head train; otherwise as `vpt`.
"""

from dataclasses import dataclass
from typing import ClassVar

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Method, freeze
from methods.prompts.vpt import PromptedViT


@dataclass(frozen=True)
class Config:
    """Defaults of VPT-Shallow (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 1e-2
    weight_decay: float = 1e-4
    num_prompt_tokens: Count = 10
    dropout: Dropout = 0.0


def build(backbone: Backbone, num_classes: int, config: Config) -> PromptedViT:
    """Freezes the backbone, adds prompts to the first block and attaches the head."""
    freeze(backbone)
    return PromptedViT(backbone, num_classes, 1, config.num_prompt_tokens, config.dropout)


def count(backbone: Backbone, config: Config) -> int:
    """P D: the prompts of the first block."""
    return config.num_prompt_tokens * backbone.embed_dim


METHOD = Method(
    "vpt_shallow",
    "VPT-Shallow",
    "Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119",
    Config,
    build,
    count,
    needs=frozenset({"tokens"}),
)
