"""What the families of token sequences share: pooling, and a block's two branches."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.model.families.branches import Beside, Followed, move_scale
from methods.backbone import Backbone, Input, Pool, PoolError, Pooling, QueryBlock, Site, Tap


class TokenBackbone(Backbone):
    """A ViT: one sequence of tokens through blocks of one width.

    Args:
        trunk: Has `blocks`, `norm`, `fc_norm`, `patch_embed`, `num_prefix_tokens` and `cls_token`.
        pool: How features are pooled; all but `native` are of the tokens behind the norm and, where there is one, the
            norm that is mostly behind the pooling. An attention pooling of its own goes, if another is asked for.
    """

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        if "cls" in pool and trunk.cls_token is None:
            raise PoolError(f"pool must be native or avg where there is no class token, got {pool!r}")
        if pool != "native" and getattr(trunk, "attn_pool", None) is not None:
            trunk.attn_pool = None
        self.embed_dim = trunk.embed_dim
        self.num_features = 2 * trunk.embed_dim if pool == "cls+avg" else trunk.num_features
        self.num_prefix_tokens = trunk.num_prefix_tokens
        self.patch_size = self.stride = trunk.patch_embed.feat_ratio()
        self.eps = _eps(trunk)

    def blocks(self) -> list[nn.Module]:
        """The blocks in order."""
        return list(self.trunk.blocks)

    def block_widths(self) -> list[int]:
        """The width of the tokens, for each block."""
        return [self.embed_dim] * len(self.trunk.blocks)

    def put_behind_block(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block."""
        self.trunk.blocks[index] = Followed(self.trunk.blocks[index], module)

    def inputs(self, index: int) -> tuple[Input, Input]:
        """Both norms of a block; queries, keys, values and a gate, or the first layers of the MLP, read them."""
        block = self.trunk.blocks[index]
        attention = _linear(block.attn, "qkv", "q_proj", "k_proj", "v_proj", "gate")
        mlp = _linear(block.mlp, "fc1", "fc1_g", "fc1_x")
        width = self.embed_dim
        return Input(Site(block, "norm1", width), attention), Input(Site(block, "norm2", width), mlp)

    def squares(self, index: int) -> list[Site]:
        """Linear layers of a block's attention and MLP; a gate is none of them."""
        block = self.trunk.blocks[index]
        names = {"attn": ("qkv", "q_proj", "k_proj", "v_proj", "proj"), "mlp": ("fc1", "fc1_g", "fc1_x", "fc2")}
        parts = [(getattr(block, part), name) for part, own in names.items() for name in own]
        return [Site(part, name, layer.out_features) for part, name in parts for layer in _linear(part, name)]

    def lack_squares(self) -> None:
        """Says so where a block's linear layers are not known or not made of squares."""
        if "inputs" in self.lacks:
            self.lacks["squares"] = self.lacks["inputs"]
            return
        layers = [getattr(part, name) for part, name, _ in self.squares(0)]
        if any(size % self.embed_dim for layer in layers for size in (layer.in_features, layer.out_features)):
            self.lacks["squares"] = "linear layers whose sizes are no multiples of its width"

    def attention_layers(self) -> list[nn.Module]:
        """The attention of each block."""
        return [block.attn for block in self.trunk.blocks]

    def pooled(self, x: Tensor) -> Tensor:
        """Features of normalised tokens."""
        if self.pool == "native":
            features: Tensor = self.trunk.forward_head(x, pre_logits=True)
            return features
        own = {"cls": lambda: x[:, 0], "avg": lambda: x[:, self.num_prefix_tokens :].mean(dim=1)}
        return torch.cat([self.trunk.fc_norm(own[name]()) for name in self.pool.split("+")], dim=1)

    def pooling(self) -> Pooling:
        """As `pooled` has it; a ViT's own is mostly the class token."""
        if self.pool == "native":
            attends = getattr(self.trunk, "attn_pool", None) is not None
            class_token = self.trunk.global_pool == "token" and not attends
            return Pooling(class_token, not class_token, self.num_prefix_tokens)
        return Pooling("cls" in self.pool, "avg" in self.pool, self.num_prefix_tokens)

    def pool_tokens(self, x: Tensor) -> Tensor:
        """Features of the tokens behind the last block."""
        return self.pooled(self.trunk.norm(x))

    def last_tokens(self, image: Tensor) -> Tensor:
        """All tokens, prefix among them; through the norm that is mostly behind the pooling where that is the last."""
        tokens: Tensor = self.trunk.fc_norm(self.trunk.forward_features(image))
        return tokens

    def last_norm(self) -> nn.Module:
        """The norm that is mostly behind the pooling where the one in front is none."""
        norm: nn.Module = self.trunk.fc_norm if isinstance(self.trunk.norm, nn.Identity) else self.trunk.norm
        return norm

    def tail(self, first: int) -> Backbone:
        """A copy that stands in for what is before block `first` with what computes nothing."""
        trunk = self.trunk
        before: list[Any] = [trunk.patch_embed, trunk.norm_pre, *trunk.blocks[:first]]
        memo: dict[int, Any] = {id(module): nn.Identity() for module in before}
        memo |= {id(parameter): None for parameter in trunk.parameters(recurse=False)}  # class token and positions
        tail = copy.deepcopy(self, memo)
        tail.drop_head()
        return tail

    def drop_tail(self, first: int) -> None:
        """Takes off the blocks from `first` on, norms, pooling and head."""
        trunk = self.trunk
        self.drop_head()
        trunk.blocks, trunk.norm, trunk.fc_norm = trunk.blocks[:first], nn.Identity(), nn.Identity()
        if getattr(trunk, "attn_pool", None) is not None:
            trunk.attn_pool = None

    def taps(self) -> list[Tap]:
        """The patch embedding, tokens with their positions, layers of each block, and the last norm.

        Of a block: the norm before its attention, the attention, the hidden layer of its MLP behind the activation, and
        the MLP; of one that is of another kind its output.
        """
        trunk, width = self.trunk, self.embed_dim
        taps = [Tap(trunk.patch_embed, width), Tap(trunk.blocks[0], width, of_input=True)]
        for block in trunk.blocks:
            if "inputs" in self.lacks:
                taps.append(Tap(block, width))
            else:
                hidden = Tap(block.mlp.fc2, block.mlp.fc2.in_features, of_input=True)
                taps += [Tap(block.norm1, width), Tap(block.attn, width), hidden, Tap(block.mlp, width)]
        return [*taps, Tap(trunk.norm, width)]

    def last_places(self) -> Tap:
        """What the last block gets where the class token is pooled, else what is pooled from."""
        if self.pooling().class_token:
            return Tap(self.blocks()[-1], self.embed_dim, of_input=True)
        return Tap(self.trunk.norm, self.embed_dim)


def _linear(layer: Any, *names: str) -> list[nn.Linear]:
    """Those of a layer's own that it has; of some kinds it may lack all but one."""
    found = (getattr(layer, name, None) for name in names)
    return [each for each in found if isinstance(each, nn.Linear)]


class ScaledBlocks(TokenBackbone):
    """A ViT whose blocks multiply by layer scales themselves: their parameters `gamma_1` and `gamma_2`, if any."""

    def put_behind_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's MLP and its layer scale."""
        block = self._with_own_scales(index)
        block.mlp = nn.Sequential(block.mlp, module)

    def put_behind_attention(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's attention and its layer scale."""
        block = self._with_own_scales(index)
        block.attn = Followed(block.attn, module)

    def put_beside_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module beside a block's MLP, its norm and its layer scale."""
        block = self._with_own_scales(index)
        block.mlp = Beside(nn.Sequential(block.norm2, block.mlp), module)
        block.norm2 = nn.Identity()

    def put_beside_layers(self, index: int, beside_attention: nn.Module, beside_mlp: nn.Module) -> None:
        """Puts modules beside a block's attention and its MLP, and their layer scales."""
        block = self._with_own_scales(index)
        block.attn, block.mlp = Beside(block.attn, beside_attention), Beside(block.mlp, beside_mlp)

    def _with_own_scales(self, index: int) -> Any:
        """A block whose layer scales stand with their layers: both, as BEiT's multiplies by both or by none."""
        block = self.trunk.blocks[index]
        if block.gamma_1 is not None:
            block.attn = Followed(block.attn, move_scale(block, "gamma_1"))
            block.mlp = nn.Sequential(block.mlp, move_scale(block, "gamma_2"))
        return block


def joined_heads(attn: Any, attended: Tensor) -> Tensor:
    """An attention layer's output `(B, N, D)` from its heads' `(B, A, N, E)`."""
    output: Tensor = attn.proj_drop(attn.proj(attn.norm(attended.transpose(1, 2).flatten(2))))
    return output


def query_block(block: Any, scale1: nn.Module, scale2: nn.Module) -> QueryBlock:
    """A block's two branches for tokens that only ask, with its layer scales."""
    attn = block.attn
    attention = nn.Sequential(attn.norm, attn.proj, attn.proj_drop, scale1, block.drop_path1)
    return QueryBlock(
        Queries(block.norm1, attn), attention, nn.Sequential(block.norm2, block.mlp, scale2, block.drop_path2)
    )


class Queries(nn.Module):
    """A block's norm, and of its attention the projection and the norm of queries.

    Args:
        norm: In front of the attention.
        attn: The attention; of a joint projection, the queries' rows are copied.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, norm: nn.Module, attn: Any) -> None:
        super().__init__()
        self.norm, self.q_norm, self.head_dim = norm, attn.q_norm, attn.head_dim
        layer = attn.q_proj if attn.qkv is None else attn.qkv
        rows = attn.num_heads * attn.head_dim
        separate = getattr(attn, "q_bias", None)
        bias = layer.bias if separate is None else separate
        self.register_buffer("weight", layer.weight.detach()[:rows].clone(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach()[:rows].clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Projects.

        Shape:
            - x: `(B, P, D)`
            - Output: `(B, P, A E)`
        """
        heads = F.linear(self.norm(x), self.weight, self.bias).unflatten(-1, (-1, self.head_dim))  # (B, P, A, E)
        queries: Tensor = self.q_norm(heads).flatten(-2)
        return queries


def _eps(trunk: Any) -> float:
    norms = (module.eps for module in trunk.blocks[0].modules() if hasattr(module, "eps"))
    return float(next(norms))
