"""Visual prompt tuning, deep (Jia et al., ECCV 2022, arXiv 2203.12119): learned tokens in the input of every block.

The prompts stand between the prefix tokens and the patches, get no position embedding, and are replaced by the next
block's own at every block. Prompts and the new head train. Initialised from U(-v, v), v = sqrt(6 / (3 p^2 + D)) with
patch size p; dropout on the prompts as in the paper's code.
Departure: AdamW instead of SGD with learning rates up to 50, as all methods here share the optimiser.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Method, freeze, new_head


@dataclass(frozen=True)
class Config:
    """Defaults of VPT-Deep (docs/methods.md; 16 prompts reproduce the published 0.17 %)."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 1e-2
    weight_decay: float = 1e-4
    num_prompt_tokens: Count = 16
    dropout: Dropout = 0.1


class PromptedViT(nn.Module):
    """A frozen backbone and a new head, with prompt tokens in its first `num_prompted_blocks` blocks' inputs.

    Where a block has no prompts of its own, those of the block before run on: one prompted block is VPT-Shallow, all
    are VPT-Deep.

    Args:
        backbone: The frozen backbone; its pretrained head is dropped.
        num_classes: Number of classes C.
        num_prompted_blocks: Number L of blocks that get prompts.
        num_prompt_tokens: Number P of prompts.
        dropout: Dropout probability on the prompts.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        num_prompted_blocks: int,
        num_prompt_tokens: int,
        dropout: float,
    ) -> None:
        super().__init__()
        backbone.drop_head()
        self.backbone = backbone
        self.head = new_head(backbone.num_features, num_classes)
        self.prompts = nn.Parameter(torch.empty(num_prompted_blocks, num_prompt_tokens, backbone.embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.grad_checkpointing = False
        bound = (6 / (3 * backbone.patch_size**2 + backbone.embed_dim)) ** 0.5
        nn.init.uniform_(self.prompts, -bound, bound)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recomputes each block's activations in the backward pass."""
        self.grad_checkpointing = enable

    def forward(self, image: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: logits `(B, C)`
        """
        backbone, num_prompts = self.backbone, self.prompts.shape[1]
        x, context = backbone.embed(image)  # (B, N, D)
        prefix, patches = x[:, : backbone.num_prefix_tokens], x[:, backbone.num_prefix_tokens :]
        for index in range(len(backbone.blocks())):
            if index < len(self.prompts):
                prompts = self.dropout(self.prompts[index].expand(image.shape[0], -1, -1))  # (B, P, D)
            x = torch.cat([prefix, prompts, patches], dim=1)  # (B, N + P, D)
            if self.grad_checkpointing:
                x = checkpoint(backbone.run, index, x, context, num_prompts, use_reentrant=False)
            else:
                x = backbone.run(index, x, context, num_prompts)
            sizes = [prefix.shape[1], num_prompts, patches.shape[1]]
            prefix, prompts, patches = x.split(sizes, dim=1)
        # Prompts are dropped before the norm, so that a backbone that pools by averaging does not average over them.
        logits: Tensor = self.head(backbone.pool_tokens(torch.cat([prefix, patches], dim=1)))
        return logits


def build(backbone: Backbone, num_classes: int, config: Config) -> PromptedViT:
    """Freezes the backbone, adds prompts to every block and attaches the head."""
    freeze(backbone)
    return PromptedViT(backbone, num_classes, len(backbone.blocks()), config.num_prompt_tokens, config.dropout)


def count(backbone: Backbone, config: Config) -> int:
    """L P D: the prompts of every block."""
    return len(backbone.blocks()) * config.num_prompt_tokens * backbone.embed_dim


METHOD = Method(
    "vpt",
    "VPT-Deep",
    "Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119",
    Config,
    build,
    count,
    needs=frozenset({"tokens"}),
)
