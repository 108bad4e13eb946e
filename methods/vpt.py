"""Visual prompt tuning, deep (Jia et al., ECCV 2022, arXiv 2203.12119): learned tokens in the input of every block.

The prompts stand between the prefix tokens and the patches, get no position embedding, and are replaced by the next
block's own at every block. Prompts and the new head train. Initialised from U(-v, v), v = sqrt(6 / (3 p^2 + D)) with
patch size p; dropout on the prompts as in the paper's code.
Departure: AdamW instead of SGD with learning rates up to 50, as all methods here share the optimiser.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.contract import Count, Dropout, Method, attach_head, freeze


@dataclass(frozen=True)
class Config:
    """Defaults of VPT-Deep (docs/methods.md; 16 prompts reproduce the published 0.17 %)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 1e-2
    weight_decay: float = 1e-4
    num_prompt_tokens: Count = 16
    dropout: Dropout = 0.1


class PromptedViT(nn.Module):
    """A frozen ViT with prompt tokens in its first `num_prompted_blocks` blocks' inputs.

    Where a block has no prompts of its own, those of the block before run on: one prompted block is VPT-Shallow, all
    are VPT-Deep.

    Args:
        backbone: The ViT, with its new head.
        num_prompted_blocks: Number L of blocks that get prompts.
        num_prompt_tokens: Number P of prompts.
        dropout: Dropout probability on the prompts.
    """

    def __init__(
        self, backbone: VisionTransformer, num_prompted_blocks: int, num_prompt_tokens: int, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompts = nn.Parameter(torch.empty(num_prompted_blocks, num_prompt_tokens, backbone.embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.grad_checkpointing = False
        patch_height, patch_width = backbone.patch_embed.patch_size
        bound = (6 / (3 * patch_height * patch_width + backbone.embed_dim)) ** 0.5
        nn.init.uniform_(self.prompts, -bound, bound)

    @property
    def head(self) -> nn.Module:
        """The classification head."""
        return self.backbone.head

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recomputes each block's activations in the backward pass."""
        self.grad_checkpointing = enable

    def forward(self, image: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: logits `(B, C)`
        """
        vit, num_prompts = self.backbone, self.prompts.shape[1]
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(image))))  # (B, N, D)
        prefix, patches = x[:, : vit.num_prefix_tokens], x[:, vit.num_prefix_tokens :]
        for index, block in enumerate(vit.blocks):
            if index < len(self.prompts):
                prompts = self.dropout(self.prompts[index].expand(len(image), -1, -1))  # (B, P, D)
            x = torch.cat([prefix, prompts, patches], dim=1)  # (B, N + P, D)
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
            sizes = [prefix.shape[1], num_prompts, patches.shape[1]]
            prefix, prompts, patches = x.split(sizes, dim=1)
        # Prompts are dropped before the norm, so that a backbone that pools by averaging does not average over them.
        return vit.forward_head(vit.norm(torch.cat([prefix, patches], dim=1)))


def build(backbone: VisionTransformer, num_classes: int, config: Config) -> PromptedViT:
    """Freezes the backbone, adds prompts to every block and attaches the head."""
    freeze(backbone)
    attach_head(backbone, num_classes)
    return PromptedViT(backbone, len(backbone.blocks), config.num_prompt_tokens, config.dropout)


def count(backbone: VisionTransformer, config: Config) -> int:
    """L P D: the prompts of every block."""
    return len(backbone.blocks) * config.num_prompt_tokens * backbone.embed_dim


METHOD = Method(
    "vpt",
    "VPT-Deep",
    "Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119",
    Config,
    build,
    count,
    needs=frozenset({"tokens"}),
)
