"""timm's class Eva: DINOv3, EVA-02, Perception Encoder, ROPE-ViT, PanDerm; queries and keys are mostly rotated."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock
from torch import Tensor, nn

from benchmarks.model.families.branches import ChannelScale, joint_rows, separate_bias
from benchmarks.model.families.tokens import ScaledBlocks, joined_heads, query_block
from methods.backbone import Need, Pool, QueryBlock


class EvaViT(ScaledBlocks):
    """A ViT with rotary positions, learned ones, or both.

    Tokens without a position (prefix tokens, prompts) are not rotated.
    """

    family = "Eva"

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        first = trunk.blocks[0]
        self.grid_size = trunk.patch_embed.grid_size
        if not all(type(block) is EvaBlock for block in trunk.blocks):
            kind = f"blocks of another kind ({type(first).__name__})"
            needs: tuple[Need, ...] = ("mlp", "branches", "inputs", "attention")
            self.lacks |= dict.fromkeys(needs, kind)
        elif not all(isinstance(block.attn, AttentionRope | EvaAttention) for block in trunk.blocks):
            kind = f"attention of another kind ({type(first.attn).__name__})"
            self.lacks |= {"attention": kind, "inputs": kind}
        else:
            self.num_heads, self.head_dim = first.attn.num_heads, first.attn.head_dim
        self.lack_squares()
        self.lacks["scales"] = "biases of queries and values beside their projection, and rotations behind it"
        for block in trunk.blocks:
            separate_bias(block.attn)

    def embed(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens with their learned positions, and the table of rotations: one for all blocks, or one a block."""
        x, rotations = self.trunk._pos_embed(self.trunk.patch_embed(image))
        return self.trunk.norm_pre(x), rotations

    def context(self) -> Tensor | None:
        """The table of rotations, which depends on an image's size alone."""
        rope = self.trunk.rope
        if rope is None:
            return None
        return rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(shape=self.grid_size)

    def run(self, index: int, x: Tensor, context: Tensor | None, extra: int = 0) -> Tensor:
        """Runs a block; its attention counts the extra tokens as prefix, so that it does not rotate them."""
        block = self.trunk.blocks[index]
        block.attn.num_prefix_tokens = self.num_prefix_tokens + extra
        output: Tensor = block(x, rope=self._rotations(index, context))
        block.attn.num_prefix_tokens = self.num_prefix_tokens
        return output

    def attention(self, index: int, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a block, rotated; keys and values of grouped queries are repeated."""
        block = self.trunk.blocks[index]
        attn, x = block.attn, block.norm1(x)
        query, key, value = _apart(attn, x) if attn.qkv is None else _joint(attn, x)
        query, key = attn.q_norm(query), attn.k_norm(key)
        table = self._rotations(index, context)
        if table is not None:
            query, key = (self._rotate(attn, tensor, table) for tensor in (query, key))
        groups = attn.num_heads // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return query.to(value.dtype), key.to(value.dtype), value

    def add_attention(self, index: int, x: Tensor, attended: Tensor) -> Tensor:
        """The first branch of a block, from its heads' outputs."""
        block = self.trunk.blocks[index]
        return x + block.drop_path1(_scaled(block.gamma_1, joined_heads(block.attn, attended)))

    def add_mlp(self, index: int, x: Tensor) -> Tensor:
        """The second branch of a block."""
        block = self.trunk.blocks[index]
        return x + block.drop_path2(_scaled(block.gamma_2, block.mlp(block.norm2(x))))

    def query_block(self, index: int) -> QueryBlock:
        """A block for tokens that only ask; they are not rotated."""
        block = self.trunk.blocks[index]
        return query_block(block, ChannelScale(block.gamma_1), ChannelScale(block.gamma_2))

    def projections(self) -> Mapping[str, nn.Module]:
        """The projections of queries, keys and values of every block: one for all three, or one each."""
        return {
            f"blocks.{index}.attn.{name}": getattr(block.attn, name)
            for index, block in enumerate(self.trunk.blocks)
            for name in (("q_proj", "k_proj", "v_proj") if block.attn.qkv is None else ("qkv",))
        }

    def query_value_rows(self) -> Mapping[str, tuple[slice, ...]]:
        """The first and the last third of a joint projection; all rows of two of three."""
        rows: dict[str, tuple[slice, ...]] = {}
        for index, block in enumerate(self.trunk.blocks):
            path = f"blocks.{index}.attn"
            if block.attn.qkv is None:
                rows |= {f"{path}.q_proj": (slice(None),), f"{path}.v_proj": (slice(None),)}
            else:
                rows |= joint_rows({f"{path}.qkv": block.attn.qkv})
        return rows

    def _rotations(self, index: int, context: Tensor | None) -> Tensor | None:
        return context[index] if context is not None and self.trunk.rope_mixed else context

    def _rotate(self, attn: Any, tensor: Tensor, table: Tensor) -> Tensor:
        """Rotates the patches of `(B, A, N, E)`."""
        prefix, patches = tensor[:, :, : self.num_prefix_tokens], tensor[:, :, self.num_prefix_tokens :]
        return torch.cat([prefix, apply_rot_embed_cat(patches, table, half=attn.rotate_half)], dim=2)


def _scaled(gamma: Tensor | None, x: Tensor) -> Tensor:
    return x if gamma is None else gamma * x


def _apart(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From three layers; of grouped queries there are more heads than of keys and values."""
    projected = (layer(x).unflatten(-1, (-1, attn.head_dim)) for layer in (attn.q_proj, attn.k_proj, attn.v_proj))
    query, key, value = (tensor.transpose(1, 2) for tensor in projected)  # each (B, A, N, E)
    return query, key, value


def _joint(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From one layer, to which the biases are added apart."""
    qkv = attn.qkv(x)  # (B, N, 3 A E)
    if getattr(attn, "q_bias", None) is not None:
        qkv = qkv + torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    query, key, value = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value
