"""timm's class VisionTransformer: augreg, DeiT, DINO, DINOv2, MAE, CLIP, SigLIP, AIMv2 and most medical ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from benchmarks.model.families.branches import Beside, Followed, joint_rows
from benchmarks.model.families.tokens import TokenBackbone, joined_heads, query_block
from methods.backbone import Need, Pool, QueryBlock, Site


class ViT(TokenBackbone):
    """A plain ViT, with learned positions."""

    family = "ViT"

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        self.lacks = _lacks(trunk.blocks)
        self.lack_squares()
        if "attention" not in self.lacks:
            self.num_heads, self.head_dim = trunk.blocks[0].attn.num_heads, trunk.blocks[0].attn.head_dim

    def embed(self, image: Tensor) -> tuple[Tensor, None]:
        """Tokens with their positions."""
        vit = self.trunk
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(image)))), None

    def context(self) -> None:
        """Nothing."""

    def run(self, index: int, x: Tensor, context: None, extra: int = 0) -> Tensor:
        """Runs a block."""
        output: Tensor = self.trunk.blocks[index](x)
        return output

    def attention(self, index: int, x: Tensor, context: None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a block."""
        block = self.trunk.blocks[index]
        attn = block.attn
        qkv = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, N, 3, A, E)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return attn.q_norm(query).to(value.dtype), attn.k_norm(key).to(value.dtype), value

    def add_attention(self, index: int, x: Tensor, attended: Tensor) -> Tensor:
        """The first branch of a block, from its heads' outputs."""
        block = self.trunk.blocks[index]
        return x + block.drop_path1(block.ls1(joined_heads(block.attn, attended)))

    def add_mlp(self, index: int, x: Tensor) -> Tensor:
        """The second branch of a block."""
        block = self.trunk.blocks[index]
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def query_block(self, index: int) -> QueryBlock:
        """A block for tokens that only ask."""
        block = self.trunk.blocks[index]
        return query_block(block, block.ls1, block.ls2)

    def projections(self) -> Mapping[str, nn.Module]:
        """The joint projection of queries, keys and values of every block."""
        return {f"blocks.{index}.attn.qkv": block.attn.qkv for index, block in enumerate(self.trunk.blocks)}

    def query_value_rows(self) -> Mapping[str, tuple[slice, ...]]:
        """The first and the last third of every joint projection."""
        return joint_rows(self.projections())

    def put_behind_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's second layer scale."""
        block = self.trunk.blocks[index]
        block.ls2 = nn.Sequential(block.ls2, module)

    def put_behind_attention(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's first layer scale."""
        block = self.trunk.blocks[index]
        block.ls1 = nn.Sequential(block.ls1, module)

    def put_beside_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module beside a block's MLP, its norm and its layer scale."""
        block = self.trunk.blocks[index]
        block.mlp = Beside(nn.Sequential(block.norm2, block.mlp, block.ls2), module)
        block.norm2, block.ls2 = nn.Identity(), nn.Identity()

    def put_beside_layers(self, index: int, beside_attention: nn.Module, beside_mlp: nn.Module) -> None:
        """Puts modules beside a block's attention and its MLP, and their layer scales."""
        block = self.trunk.blocks[index]
        block.attn = Beside(Followed(block.attn, block.ls1), beside_attention)
        block.mlp = Beside(nn.Sequential(block.mlp, block.ls2), beside_mlp)
        block.ls1, block.ls2 = nn.Identity(), nn.Identity()

    def scale_sites(self) -> Iterator[Site]:
        """The patch embedding; both norms, qkv, proj and both layers of the MLP in every block; the last norm."""
        trunk, width = self.trunk, self.embed_dim
        yield Site(trunk.patch_embed, "norm", width)
        for block in trunk.blocks:
            yield from (Site(block, "norm1", width), Site(block.attn, "qkv", block.attn.qkv.out_features))
            yield from (Site(block.attn, "proj", width), Site(block, "norm2", width))
            yield from (Site(block.mlp, "fc1", block.mlp.fc1.out_features), Site(block.mlp, "fc2", width))
        yield Site(trunk, "fc_norm" if isinstance(trunk.norm, nn.Identity) else "norm", width)


def _lacks(blocks: Sequence[Any]) -> dict[Need, str]:
    lacks: dict[Need, str] = {}
    first = blocks[0]
    attention = [getattr(block, "attn", None) for block in blocks]
    if not all(type(block) is Block for block in blocks):
        lacks |= dict.fromkeys(
            ("mlp", "branches", "inputs", "scales", "attention"), f"blocks of another kind ({type(first).__name__})"
        )
        if None in attention:
            lacks["attention_layers"] = lacks["attention"]
    elif not all(isinstance(attn, Attention) and getattr(attn, "gate", None) is None for attn in attention):
        lacks |= dict.fromkeys(("attention", "inputs"), f"attention of another kind ({type(first.attn).__name__})")
    elif not hasattr(first.mlp, "fc1"):
        lacks["scales"] = f"an MLP of another kind ({type(first.mlp).__name__})"
    elif not isinstance(first.norm1, nn.LayerNorm):
        lacks["scales"] = f"norms without a shift ({type(first.norm1).__name__})"
    if not all(isinstance(getattr(attn, "qkv", None), nn.Linear) for attn in attention):
        lacks |= dict.fromkeys(
            ("projections", "linear_projections", "scales"), "no joint projection of queries, keys and values"
        )
    return lacks
