"""Networks without a token sequence: Swin V2, ConvNeXt and ConvNeXt V2, ResNet; and any other that timm has."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from benchmarks.model.families.branches import Beside, ChannelsLast, Followed, joint_rows, move_scale, separate_bias
from methods.backbone import Backbone, Need, Pool, PoolError, Tap

_NO_ATTENTION: dict[Need, str] = {
    "attention_layers": "no attention",
    "branches": "no attention",
    "inputs": "no attention",
    "squares": "no attention",
}


class AnyNetwork(Backbone):
    """A network that is asked for its features and parameters alone, as any of timm's can be."""

    family = "other"
    channels_axis = 1  # of maps
    stride = 32  # of most networks' last map

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        if pool != "native":
            raise PoolError(f"pool must be native where there is no token sequence, got {pool!r}")
        self.num_features = trunk.head_hidden_size
        reason = f"no description of networks like it ({type(trunk).__name__})"
        needs: tuple[Need, ...] = (
            *("blocks", "attention_layers", "projections", "linear_projections", "mlp", "branches", "inputs"),
            "squares",
        )
        self.lacks |= dict.fromkeys(needs, reason)
        self.lacks |= {"last_tokens": reason, "taps": reason}
        needs = ("tokens", "attention", "scales")
        self.lacks |= dict.fromkeys(needs, "no token sequence")

    def pooled(self, x: Tensor) -> Tensor:
        """Features of the last map."""
        features: Tensor = self.trunk.forward_head(x, pre_logits=True)
        return features

    def taps(self) -> list[Tap]:
        """Each block."""
        pairs = zip(self.blocks(), self.block_widths(), strict=True)
        return [Tap(block, width, axis=self.channels_axis) for block, width in pairs]

    def last_places(self) -> Tap:
        """What the last block yields."""
        return Tap(self.blocks()[-1], self.embed_dim, axis=self.channels_axis)

    def put_behind_block(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block, wherever that stands."""
        block = self.blocks()[index]
        path, _, name = _named(self.trunk, [block]).popitem()[0].rpartition(".")
        setattr(self.trunk.get_submodule(path), name, Followed(block, module))


class SwinV2(AnyNetwork):
    """Swin V2: attention within windows, a norm behind each branch of a block."""

    family = "Swin V2"
    channels_axis = -1

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        self.lacks = _without_tokens(self.lacks) | {
            "inputs": "norms behind the branches",
            "squares": "stages of different widths",
        }
        self.embed_dim = trunk.num_features
        for layer in self.attention_layers():
            separate_bias(layer)

    def blocks(self) -> list[Any]:
        """The blocks of all stages."""
        return [block for stage in self.trunk.layers for block in stage.blocks]

    def attention_layers(self) -> list[nn.Module]:
        """The attention of each block."""
        return [block.attn for block in self.blocks()]

    def block_widths(self) -> list[int]:
        """Channels of each block."""
        return [block.dim for block in self.blocks()]

    def projections(self) -> Mapping[str, nn.Module]:
        """The joint projection of queries, keys and values of every block."""
        return _named(self.trunk, (block.attn.qkv for block in self.blocks()))

    def query_value_rows(self) -> Mapping[str, tuple[slice, ...]]:
        """The first and the last third of every joint projection."""
        return joint_rows(self.projections())

    def linear_layers(self) -> Mapping[str, nn.Linear]:
        """Those of attention and MLP, but not the small network that makes biases of positions."""
        blocks = self.blocks()
        layers = (layer for block in blocks for layer in (block.attn.qkv, block.attn.proj, *block.mlp.modules()))
        return self._named(layer for layer in layers if isinstance(layer, nn.Linear))

    def put_behind_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module behind the norm that follows a block's MLP."""
        block = self.blocks()[index]
        block.norm2 = nn.Sequential(block.norm2, module)

    def put_behind_attention(self, index: int, module: nn.Module) -> None:
        """Puts a module behind the norm that follows a block's attention."""
        block = self.blocks()[index]
        block.norm1 = nn.Sequential(block.norm1, module)

    def put_beside_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module beside a block's MLP and the norm that follows it."""
        block = self.blocks()[index]
        block.mlp = Beside(nn.Sequential(block.mlp, block.norm2), module)
        block.norm2 = nn.Identity()

    def last_tokens(self, image: Tensor) -> Tensor:
        """The places of the last map, behind its norm."""
        places: Tensor = self.trunk.forward_features(image).flatten(1, 2)  # of (B, H, W, D)
        return places


class ConvNeXt(AnyNetwork):
    """ConvNeXt and ConvNeXt V2: a depthwise convolution and an MLP a block."""

    family = "ConvNeXt"

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        self.lacks = _without_tokens(self.lacks) | _NO_ATTENTION
        self.embed_dim = trunk.num_features
        if any(block.use_conv_mlp for block in self.blocks()):
            self.lacks |= dict.fromkeys(("mlp", "linear_projections"), "an MLP of convolutions")

    def blocks(self) -> list[Any]:
        """The blocks of all stages."""
        return [block for stage in self.trunk.stages for block in stage.blocks]

    def block_widths(self) -> list[int]:
        """Channels of each block."""
        return [block.conv_dw.out_channels for block in self.blocks()]

    def projections(self) -> Mapping[str, nn.Module]:
        """Both layers of every block's MLP."""
        return _named(self.trunk, (layer for block in self.blocks() for layer in (block.mlp.fc1, block.mlp.fc2)))

    def put_behind_mlp(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block's MLP and its layer scale."""
        block = self.blocks()[index]
        block.mlp = nn.Sequential(block.mlp, move_scale(block, "gamma"), module)

    def put_behind_block(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block, whose output has its channels first."""
        super().put_behind_block(index, ChannelsLast(module))

    def last_tokens(self, image: Tensor) -> Tensor:
        """The places of the last map, each through the norm that is mostly behind the pooling."""
        norm = getattr(self.trunk.head, "norm", nn.Identity())
        return _places(norm(self.trunk.forward_features(image)))


class ResNet(AnyNetwork):
    """ResNet: convolutions and batch norms."""

    family = "ResNet"

    def __init__(self, trunk: Any, pool: Pool = "native") -> None:
        super().__init__(trunk, pool)
        self.lacks = _without_tokens(self.lacks) | _NO_ATTENTION
        self.lacks |= {"mlp": "blocks without an MLP", "linear_projections": "convolutions in place of linear layers"}
        self.embed_dim = trunk.num_features

    def blocks(self) -> list[Any]:
        """The blocks of all stages."""
        trunk = self.trunk
        return [block for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4) for block in stage]

    def block_widths(self) -> list[int]:
        """Channels of each block."""
        return [(block.conv3 if hasattr(block, "conv3") else block.conv2).out_channels for block in self.blocks()]

    def put_behind_block(self, index: int, module: nn.Module) -> None:
        """Puts a module behind a block, whose output has its channels first."""
        super().put_behind_block(index, ChannelsLast(module))

    def projections(self) -> Mapping[str, nn.Module]:
        """Every block's ungrouped convolutions but those of its shortcut."""
        return _named(
            self.trunk,
            (
                layer
                for block in self.blocks()
                for layer in block.children()
                if isinstance(layer, nn.Conv2d) and layer.groups == 1
            ),
        )

    def last_tokens(self, image: Tensor) -> Tensor:
        """The places of the last map, which no norm follows."""
        return _places(self.trunk.forward_features(image))


def _places(x: Tensor) -> Tensor:
    """A map `(B, D, H, W)` as a sequence `(B, H W, D)`."""
    return x.flatten(2).transpose(1, 2)


def _without_tokens(lacks: Mapping[Need, str]) -> dict[Need, str]:
    known: tuple[Need, ...] = ("tokens", "attention", "scales")
    return {need: lacks[need] for need in known}


def _named(trunk: nn.Module, layers: Any) -> dict[str, nn.Module]:
    names = {module: name for name, module in trunk.named_modules()}
    return {names[layer]: layer for layer in layers}
