"""The side network: a small ViT, trained from scratch."""

from functools import partial
from typing import Any

from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from methods.backbone import Backbone
from methods.contract import Head, OptionError, init_head


def init_side(module: nn.Module) -> None:
    """Initialises linear and convolution weights from a truncated normal 0.02, their biases with zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def build_side_network(
    backbone: Backbone, num_layers: int, num_classes: int, config: Any, block: type[Block]
) -> VisionTransformer:
    """Makes the side ViT for a backbone, of blocks of a class; `config` is FPT's or FPT+'s.

    Raises:
        OptionError: The side width is not divisible by the backbone's number of heads, or the side image not by its
            patches.
    """
    num_heads = backbone.num_heads
    side_dim = backbone.embed_dim // config.side_reduction
    if not side_dim or side_dim % num_heads:
        raise OptionError(f"side_reduction must leave a width divisible by {num_heads} heads, got {side_dim!r}")
    if config.side_resolution % config.side_patch_size:
        raise OptionError(
            f"side_resolution must be a multiple of side_patch_size {config.side_patch_size}, got "
            f"{config.side_resolution!r}"
        )
    side = VisionTransformer(
        img_size=config.side_resolution,
        patch_size=config.side_patch_size,
        num_classes=num_classes,
        embed_dim=side_dim,
        depth=num_layers,
        num_heads=num_heads,
        norm_layer=partial(nn.LayerNorm, eps=backbone.eps),
        block_fn=block,
    )
    init_side(side)
    _use_head(side)
    return side


def _use_head(vit: VisionTransformer) -> None:
    """Makes the linear head that a ViT was made with a `Head` of the same parameters, initialised anew."""
    linear = vit.head
    assert isinstance(linear, nn.Linear)
    head = Head(linear.in_features, linear.out_features, device="meta")  # there, it draws no random numbers
    head.weight, head.bias = linear.weight, linear.bias
    vit.head = head
    init_head(head)


def count_side_network(side_dim: int, num_layers: int, config: Any) -> int:
    """Parameters of the side ViT without its head, S its width: patches, class token and positions, blocks, norm."""
    num_tokens = (config.side_resolution // config.side_patch_size) ** 2 + 1
    embedding = (3 * config.side_patch_size**2 * side_dim + side_dim) + side_dim + num_tokens * side_dim
    block = 12 * side_dim**2 + 13 * side_dim
    return embedding + num_layers * block + 2 * side_dim
