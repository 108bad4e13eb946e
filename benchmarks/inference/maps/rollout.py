"""Attention rollout (Abnar and Zuidema, ACL 2020, arXiv 2005.00928): attention of all blocks, multiplied."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inference.maps.patches import PatchMap, Unsupported, Views, attention_map, backbone_of
from benchmarks.inference.trained import TrainedModel
from benchmarks.model.families.tokens import TokenBackbone
from benchmarks.training.step import evaluation_step
from methods.contract import IMAGE

_CLOSE = 1e-2  # of what attention yields: it is computed here by other kernels, in bf16 too


def rollout_map(model: TrainedModel, views: Views, target: int) -> PatchMap:
    """What the features read of each patch through all blocks; the same for every class.

    Raises:
        Unsupported: It is no ViT that was tuned, or attention is not all by which its tokens are mixed.
    """
    backbone = backbone_of(model)
    if model.extractor is not None or not isinstance(backbone, TokenBackbone):
        raise Unsupported("a ViT that was tuned")
    if "attention" in backbone.lacks:
        raise Unsupported(f"plain attention in every block; this backbone has {backbone.lacks['attention']}")
    rolled = rollout(_attention_of_blocks(model, backbone, views))  # (N, N)
    pooling = backbone.pooling()
    side = views[IMAGE].shape[-1] // backbone.patch_size
    readers = [0] if pooling.class_token else range(len(rolled) - side * side, len(rolled))
    return attention_map(rolled[list(readers)].mean(dim=0), side)


def rollout(attention: Sequence[Tensor]) -> Tensor:
    """The product of the blocks' attention, the residual stream as one half of each.

    Shape:
        - attention: of each block `(N, N)`, a query's weights a row
        - Output: `(N, N)`, each row summing to one
    """
    rolled = torch.eye(len(attention[0]), dtype=torch.float64)
    for weights in attention:
        rolled = (weights.double() + torch.eye(len(rolled), dtype=torch.float64)) / 2 @ rolled
    return rolled


def _attention_of_blocks(model: TrainedModel, backbone: TokenBackbone, views: Views) -> list[Tensor]:
    """The mean over heads of each block's attention `(N, N)`, as the model computes it on an image."""
    blocks: list[Any] = backbone.blocks()
    if not all(isinstance(getattr(getattr(block, "attn", None), "norm", None), nn.Module) for block in blocks):
        raise Unsupported("blocks that attend as the backbone's own; the method has put something around them")
    inputs: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    handles = []
    for index, block in enumerate(blocks):
        handles += [
            block.register_forward_pre_hook(lambda _, args, index=index: inputs.update({index: args[0]})),
            block.attn.norm.register_forward_pre_hook(lambda _, args, index=index: outputs.update({index: args[0]})),
        ]
    try:
        evaluation_step(model.model, dict(views), model.config.precision, model.device.type)
    finally:
        for handle in handles:
            handle.remove()
    return [_attention(backbone, index, inputs[index], outputs[index]) for index in range(len(blocks))]


@torch.no_grad()
def _attention(backbone: TokenBackbone, index: int, x: Tensor, attended: Tensor) -> Tensor:
    """A block's attention `(N, N)` of the tokens that it got; compared with what the block made of them."""
    context = backbone.context()
    side = backbone.trunk.patch_embed.grid_size[0]
    if context is not None and x.shape[1] != backbone.num_prefix_tokens + side * side:
        raise Unsupported("tokens that all have a place; the method's prompts have none among rotated ones")
    query, key, value = (tensor.float() for tensor in backbone.attention(index, x, context))
    weights = (query @ key.mT * backbone.head_dim**-0.5).softmax(dim=-1)  # (1, A, N, N)
    made = (weights @ value).transpose(1, 2).flatten(2)
    if not (made - attended).norm() <= _CLOSE * attended.norm():
        raise Unsupported("attention that the method has left as it is; here it is not all that a block reads")
    return weights[0].mean(dim=0).cpu()
