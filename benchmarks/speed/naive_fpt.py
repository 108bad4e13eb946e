"""The baseline: FPT and FPT+ as a direct transcription of their description, vectorised over heads and layers.

Features in fp32, every attention map whole, every output computed, everything autograd asks for kept.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from methods.contract import freeze


def attention(query: Tensor, key: Tensor) -> Tensor:
    """Softmaxed attention `(..., N, M)` of queries `(..., N, E)` on keys `(..., M, E)`."""
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, each `(B, A, N, E)`, from their projection `(B, N, 3 D)`."""
    return tuple(qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4))


class NaiveExtractor(nn.Module):
    """The frozen ViT with whole attention maps: image to keys and values in fp32.

    Args:
        backbone: A ViT with plain attention.
        layers: The chosen blocks.
        keep_ratio: Share of tokens that each head keeps.
    """

    def __init__(self, backbone: VisionTransformer, layers: tuple[int, ...], keep_ratio: float) -> None:
        super().__init__()
        freeze(backbone)
        self.backbone, self.layers, self.keep_ratio = backbone, layers, keep_ratio

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Extracts `keys` and `values`, both `(B, L, A, M, E)`, of images `(B, 3, H, W)`."""
        vit, kept = self.backbone, []
        x = vit._pos_embed(vit.patch_embed(image))
        num_kept = math.floor(self.keep_ratio * x.shape[1])
        for index, block in enumerate(vit.blocks):
            query, key, value = split_heads(block.attn.qkv(block.norm1(x)), block.attn.num_heads)
            received = attention(query, key)  # (B, A, N, N)
            if index in self.layers:
                best = received.mean(dim=2).topk(num_kept).indices.sort().values  # (B, A, M)
                best = best.unsqueeze(-1).expand(-1, -1, -1, key.shape[-1])
                kept.append((key.gather(2, best), value.gather(2, best)))
            x = x + block.ls1(block.attn.proj((received @ value).transpose(1, 2).flatten(2)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        keys, values = (torch.stack(tensors, dim=1) for tensors in zip(*kept, strict=True))
        return {"keys": keys, "values": values}


class NaiveModel(nn.Module):
    """Fusion and side network, from the parameters of ours.

    Args:
        model: Our `SidePromptModel`.
        plus: Whether it is FPT+'s.
    """

    def __init__(self, model: Any, plus: bool) -> None:
        super().__init__()
        self.side_network, self.fusion, self.plus = model.side_network, model.fusion, plus

    def forward(self, image_low: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Logits `(B, C)` of images `(B, 3, h, w)` with features `(B, L, A, M, E)`."""
        side = self.side_network
        prompts = self.fuse(keys, values)  # (B, L, P, S)
        x = side._pos_embed(side.patch_embed(image_low))
        num_tokens = x.shape[1]
        for layer, block in enumerate(side.blocks):
            x = torch.cat([x, prompts[:, layer]], dim=1)
            query, key, value = split_heads(block.attn.qkv(block.norm1(x)), block.attn.num_heads)
            x = x + block.attn.proj((attention(query, key) @ value).transpose(1, 2).flatten(2))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
            x = x[:, :num_tokens]
        return side.head(side.norm(x)[:, 0])

    def fuse(self, keys: Tensor, values: Tensor) -> Tensor:
        """The fused prompts of all layers."""
        fusion, prompts = self.fusion, self.fusion.prompts  # (L, P, S), in FPT+ (L, P, D)
        query = fusion.norm(prompts) if self.plus else fusion.query_proj(prompts)
        heads = query.unflatten(-1, (keys.shape[2], keys.shape[4])).transpose(1, 2)  # (L, A, P, E)
        attended = (attention(heads, keys) @ values).transpose(2, 3).flatten(3)  # (B, L, P, D)
        if self.plus:
            return fusion.dropout(fusion.out_proj(attended + prompts))
        return fusion.dropout(fusion.out_proj(attended)) + prompts
