"""What methods ask of a pretrained backbone: one description for all families, that each of them fills in.

A method asks a `Backbone`, and never opens the network inside. What a family cannot answer, `lacks` says with the
reason; a method states what it asks for (`Method.needs`), and is refused on a backbone that lacks any of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from timm.layers import RmsNorm
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

# What a method may ask beside features and parameters:
#   blocks: residual blocks, one after another, behind each of which something may be put
#   tokens: a sequence of prefix tokens and patches, that may be joined by tokens without a position
#   attention: plain softmax attention in every block, whose queries, keys and values can be asked for
#   attention_layers: attention of any kind in every block, a layer of its own
#   projections: the linear or convolution layers that low-rank updates are added to
#   linear_projections: such layers, all of them linear
#   mlp: blocks that add an MLP's output to the residual stream
#   branches: blocks of two branches, attention's and then an MLP's, each of which adds to the residual stream
#   inputs: such branches that get the stream through a norm, and read it by linear layers
#   squares: linear layers in attention and MLP whose inputs and outputs are multiples of the tokens' width
#   scales: layers behind which each channel may be scaled and shifted, and that can take the scale in
#   last_tokens: what features are pooled from, as a sequence
#   taps: layers on the way to the features
Need = Literal[
    "blocks",
    "tokens",
    "attention",
    "attention_layers",
    "projections",
    "linear_projections",
    "mlp",
    "branches",
    "inputs",
    "squares",
    "scales",
    "last_tokens",
    "taps",
]

# How tokens become features: the network's own way; the class token; the mean of the patches; both, side by side.
Pool = Literal["native", "cls", "avg", "cls+avg"]

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, RmsNorm, GlobalResponseNorm)


class PoolError(ValueError):
    """A backbone cannot pool as asked; the message says why."""


class Site(NamedTuple):
    """A layer behind which something may be put: `setattr(parent, name, ...)`; `width` channels come out of it."""

    parent: nn.Module
    name: str
    width: int


class Input(NamedTuple):
    """What a branch of a block gets: where its norm stands, and the linear layers that read what comes out of it."""

    norm: Site
    readers: list[nn.Linear]


class QueryBlock(nn.Module):
    """A block for tokens that only ask: they read its keys and values, have none themselves, and have no position.

    Args:
        queries: The stream `(B, P, D)` to queries `(B, P, A E)`, normed as the block norms them.
        attention: The heads' outputs `(B, P, A E)` to what attention adds to the stream.
        mlp: The stream, attention added, to what the MLP adds to it.
    """

    def __init__(self, queries: nn.Module, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.queries, self.attention, self.mlp = queries, attention, mlp


class Pooling(NamedTuple):
    """Where a backbone's features come from among its tokens, for tokens of any width that stand at the same places.

    An attention pooling belongs to its own tokens; for others it is the mean of the patches.
    """

    class_token: bool
    patches: bool
    num_prefix_tokens: int

    @property
    def num_vectors(self) -> int:
        """Of an image, side by side."""
        return self.class_token + self.patches

    def __call__(self, x: Tensor) -> Tensor:
        """Class token, mean of the patches or both, `(B, num_vectors S)`, of tokens `(B, N, S)`."""
        vectors = [x[:, 0]] if self.class_token else []
        if self.patches:
            vectors.append(x[:, self.num_prefix_tokens :].mean(dim=1))
        return torch.cat(vectors, dim=1)


class Tap(NamedTuple):
    """A layer whose output, or input, is a feature of its own: `width` channels, on an axis of it."""

    layer: nn.Module
    width: int
    of_input: bool = False
    axis: int = -1


class Backbone(nn.Module, ABC):
    """A pretrained network up to its pooled features, its pretrained head beside it until a method drops that.

    Args:
        trunk: The network as timm makes it, its pretrained head still attached.
        pool: How features are pooled.

    Attributes:
        family: What its networks are called.
        lacks: What of all that methods may ask it has not, and what it has instead.
        stride: Side length (px) of the smallest square that an image's side must be a multiple of.
        num_features: Width F of the features.
        embed_dim: Width D of the tokens, where there are some; else of the last map, where that is known.
        num_heads, head_dim: Heads A of the attention, and their width E.
        num_prefix_tokens: Tokens before the patches: class token, registers.
        patch_size: Side length (px) of a patch.
        eps: Of the norms.

    Raises:
        PoolError: It cannot pool so.
    """

    family: ClassVar[str]
    lacks: dict[Need, str]
    stride: int
    num_features: int
    embed_dim: int
    num_heads: int
    head_dim: int
    num_prefix_tokens: int
    patch_size: int
    eps: float

    def __init__(self, trunk: nn.Module, pool: Pool = "native") -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.pool: Pool = pool
        self.lacks = {}

    def forward(self, image: Tensor) -> Tensor:
        """Computes pooled features.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `(B, F)`
        """
        return self.pooled(self.trunk.forward_features(image))

    @abstractmethod
    def pooled(self, x: Tensor) -> Tensor:
        """Features `(B, F)` of what the trunk yields behind its last norm."""

    def head_parameters(self) -> list[nn.Parameter]:
        """Those of the pretrained head; none once it is dropped."""
        classifier = self.trunk.get_classifier()
        heads = classifier if isinstance(classifier, tuple) else (classifier,)
        return [parameter for head in heads for parameter in head.parameters()]

    def drop_head(self) -> None:
        """Takes the pretrained head off."""
        self.trunk.reset_classifier(0)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recomputes each block's (a stage's, in some families) activations in the backward pass."""
        self.trunk.set_grad_checkpointing(enable)

    def train(self, mode: bool = True) -> "Backbone":
        """As any module's; a batch norm that is frozen keeps using, and not changing, its running statistics."""
        super().train(mode)
        for module in self.modules():
            frozen = not any(parameter.requires_grad for parameter in module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and frozen:
                module.eval()
        return self

    def norms(self) -> list[nn.Parameter]:
        """Parameters of all normalisation layers."""
        layers = (module for module in self.trunk.modules() if isinstance(module, _NORMS))
        return [parameter for layer in layers for parameter in layer.parameters(recurse=False)]

    def biases(self) -> list[nn.Parameter]:
        """All biases but the pretrained head's; tables of position biases are none."""
        head = set(self.head_parameters())
        return [
            parameter
            for name, parameter in self.trunk.named_parameters()
            if name.endswith("bias") and parameter not in head
        ]

    # blocks

    def blocks(self) -> list[nn.Module]:
        """The blocks in order."""
        raise NotImplementedError

    def layers(self) -> list[list[nn.Parameter]]:
        """All parameters by layer, from the image on.

        First those before the first block, then each block's, with what stands between it and the block before, then
        those behind the last block.
        """
        blocks = self.blocks()
        block_of = {parameter: i for i, block in enumerate(blocks, start=1) for parameter in block.parameters()}
        layers: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
        last = 0
        for parameter in self.trunk.parameters():
            last = block_of.get(parameter, last)
            between = last + 1 if last else 0
            layers[block_of.get(parameter, between)].append(parameter)
        return layers

    def attention_layers(self) -> list[nn.Module]:
        """The attention of each block in order, with its projections, and its norms and position biases if any."""
        raise NotImplementedError

    # tokens

    def embed(self, image: Tensor) -> tuple[Tensor, Any]:
        """What the first block gets, and what all blocks get beside it.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `(B, N, D)`, and the family's own (rotary tables), for `run` and `attention`
        """
        raise NotImplementedError

    def run(self, index: int, x: Tensor, context: Any, extra: int = 0) -> Tensor:
        """Runs a block.

        Args:
            index: The block's.
            x: The tokens.
            context: From `embed`.
            extra: Number of tokens behind the prefix that have no position.

        Shape:
            - x: `(B, N + extra, D)`
            - Output: `(B, N + extra, D)`
        """
        raise NotImplementedError

    def pool_tokens(self, x: Tensor) -> Tensor:
        """Features `(B, F)` of the tokens `(B, N, D)` behind the last block."""
        raise NotImplementedError

    def last_tokens(self, image: Tensor) -> Tensor:
        """What features are pooled from: all tokens, or the places of the last map, each through the last norm.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `(B, N, D)`
        """
        raise NotImplementedError

    def last_norm(self) -> nn.Module:
        """The norm behind the last block, in front of the pooling or behind it."""
        raise NotImplementedError

    def context(self) -> Any:
        """What `embed` gives beside the tokens, which depends on the size of the image alone."""
        raise NotImplementedError

    def pooling(self) -> Pooling:
        """Where the features come from among the tokens."""
        raise NotImplementedError

    def tail(self, first: int) -> "Backbone":
        """A copy from block `first` on, without head, to go on from the tokens there by `run` and `pool_tokens`.

        Blocks keep their numbers; what stands before them is not there.
        """
        raise NotImplementedError

    def drop_tail(self, first: int) -> None:
        """Takes off what `tail` has, and the pretrained head."""
        raise NotImplementedError

    def taps(self) -> list[Tap]:
        """Layers on the way to the features, from the image on."""
        raise NotImplementedError

    def last_places(self) -> Tap:
        """The last layer where every place still counts for the features, and nothing else does.

        Behind it a class token may be all that is read.
        """
        raise NotImplementedError

    def tapped(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features, and what each tap yields, averaged over all places in fp32.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `(B, F)`, and `(B, width)` for each tap
        """
        found: dict[int, Tensor] = {}

        def keep(place: int, tap: Tap, x: Tensor) -> None:
            axes = [axis for axis in range(1, x.ndim) if axis != tap.axis % x.ndim]
            found[place] = x.mean(axes, dtype=torch.float32)

        taps = self.taps()
        handles = [
            tap.layer.register_forward_pre_hook(lambda _, inputs, place=place, tap=tap: keep(place, tap, inputs[0]))
            if tap.of_input
            else tap.layer.register_forward_hook(lambda _, __, x, place=place, tap=tap: keep(place, tap, x))
            for place, tap in enumerate(taps)
        ]
        try:
            features: Tensor = self(image)
        finally:
            for handle in handles:
                handle.remove()
        return features, [found[place] for place in range(len(taps))]

    # attention

    def attention(self, index: int, x: Tensor, context: Any) -> tuple[Tensor, Tensor, Tensor]:
        """A block's queries, keys and values `(B, A, N, E)` of the tokens `(B, N, D)` that it gets.

        Softmax of `query @ key.mT * head_dim**-0.5` is its attention: norms and rotations are done.
        """
        raise NotImplementedError

    def fused(self, index: int) -> bool:
        """Whether a block's attention runs in a fused kernel (see `set_attention`)."""
        return bool(self.trunk.blocks[index].attn.fused_attn)

    def add_attention(self, index: int, x: Tensor, attended: Tensor) -> Tensor:
        """What a block got, `(B, N, D)`, and what its attention adds to it, by its heads' outputs `(B, A, N, E)`."""
        raise NotImplementedError

    def add_mlp(self, index: int, x: Tensor) -> Tensor:
        """A block's output `(B, N, D)` from what `add_attention` gave."""
        raise NotImplementedError

    def query_block(self, index: int) -> QueryBlock:
        """What tokens that only ask pass in a block, and nothing else of it; its layers are the block's own.

        The weights of queries are a copy where they lie in one matrix with those of keys and values.
        """
        raise NotImplementedError

    # layers that methods add to

    def projections(self) -> Mapping[str, nn.Module]:
        """Linear or convolution layers that low-rank updates are added to, by their names in the trunk."""
        raise NotImplementedError

    def query_value_rows(self) -> Mapping[str, tuple[slice, ...]]:
        """Where queries and values come out: layers by their names in the trunk, and the rows of each.

        Each slice is of one of them; empty where there is no attention.
        """
        return {}

    def linear_layers(self) -> Mapping[str, nn.Linear]:
        """All linear layers of the blocks, by their names in the trunk, but what makes biases of positions."""
        return self._named(
            layer for block in self.blocks() for layer in block.modules() if isinstance(layer, nn.Linear)
        )

    def mlp_outputs(self) -> Mapping[str, nn.Linear]:
        """The last layer of every block's MLP, by its name in the trunk."""
        mlps: Iterable[Any] = (block.mlp for block in self.blocks())
        return self._named([layer for layer in mlp.modules() if isinstance(layer, nn.Linear)][-1] for mlp in mlps)

    def _named(self, layers: Iterable[nn.Linear]) -> Mapping[str, nn.Linear]:
        names = {module: name for name, module in self.trunk.named_modules()}
        return {names[layer]: layer for layer in layers}

    def block_widths(self) -> list[int]:
        """Channels of what each block adds to the residual stream."""
        raise NotImplementedError

    def put_behind_block(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block, all its residual sums included.

        Its input and output have the channels last.
        """
        raise NotImplementedError

    def put_behind_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module behind all that makes what a block's MLP adds to the residual stream, layer scale included.

        Its input and output have the channels last.
        """
        raise NotImplementedError

    def put_behind_attention(self, index: int, module: nn.Module) -> None:
        """Puts a module behind all that makes what a block's attention adds to the residual stream, as behind its MLP.

        Its input and output have the channels last.
        """
        raise NotImplementedError

    def put_beside_mlp(self, index: int, module: nn.Module) -> None:
        """Adds a module's output to what a block's MLP adds to the residual stream, layer scale included.

        The module gets the stream that the MLP's branch gets, in front of any norm. Its input and output have the
        channels last.
        """
        raise NotImplementedError

    def put_beside_layers(self, index: int, beside_attention: nn.Module, beside_mlp: nn.Module) -> None:
        """Adds a module's output to what each branch of a block adds to the residual stream, layer scale included.

        The module gets what the attention or the MLP gets, behind the norm, `(B, N, D)`, and yields the same shape.
        """
        raise NotImplementedError

    def inputs(self, index: int) -> tuple[Input, Input]:
        """What a block's attention and what its MLP gets."""
        raise NotImplementedError

    def squares(self, index: int) -> list[Site]:
        """A block's linear layers, in order, whose weights `(a D, b D)` are made of squares."""
        raise NotImplementedError

    def scale_sites(self) -> Iterator[Site]:
        """Layers behind which channels, the last axis, may be scaled and shifted."""
        raise NotImplementedError
