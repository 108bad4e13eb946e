"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): low-rank updates of the projections of queries, keys and values.

Hugging Face peft adds W + (alpha / rank) B A to each; A, B and the new head train. A rank-r update of a projection
fused for all three has as many parameters as rank-r updates of query and value alone: L (D r + 3 D r) = 4 L D r. Where
they are three layers, each has its own: 6 L D r. A network without attention has the layers of its MLPs (ConvNeXt) or
its convolutions (ResNet) updated instead. B starts at zero, so the model starts as the pretrained one.

Options, all off by default:

- `target`: `qv` has updates of queries and of values, each with an A and a B of its own (`RowUpdate`), and none of
  keys: the paper's choice, 4 L D r. `all-linear` has one of every linear layer of the blocks, 16 L D r, and
  none of the patch embedding or the head.
- `lora_plus`: B learns so many times faster than A and the head (LoRA+, Hayou et al., ICML 2024, arXiv 2402.12354; 16
  there). peft's optimiser for it also speeds up every vector, the head's bias among them; here B alone.
- `freeze_a`: A stays as it starts (LoRA-FA, Zhang et al., arXiv 2308.03303), so that a layer's input need not be kept.
- `velora_groups`: of a layer's input, one number is kept for each of so many groups of channels, and the gradient of A
  is that of what they give back, so not exact (VeLoRA, Miles et al., NeurIPS 2024, arXiv 2405.17991; peft has 64).
  It reads values in every step, so its memory is not predicted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Factor, ImageModel, Method, OptionError, ParameterGroups, Recipe, freeze
from methods.low_rank.merging import exchange
from methods.low_rank.peft_layers import ADAPTER, add_updates, sizes, tuned_layers
from methods.low_rank.peft_layers import merge as merge_updates


@dataclass(frozen=True)
class Config:
    """Defaults of LoRA (docs/methods.md; rank 16 reproduces the published 0.68 %)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    rank: Count = 16
    alpha: Factor = 16
    dropout: Dropout = 0.0
    target: Literal["projections", "qv", "all-linear"] = field(default="projections", metadata={"later": True})
    lora_plus: Factor = field(default=1.0, metadata={"later": True})
    freeze_a: bool = field(default=False, metadata={"later": True})
    velora_groups: Count | None = field(default=None, metadata={"later": True})


class RowUpdate(nn.Module):
    """A linear layer, and a low-rank update for each of some blocks of its rows.

    Args:
        layer: Frozen.
        rows: The blocks.
        config: Options of the method.
    """

    def __init__(self, layer: nn.Linear, rows: tuple[slice, ...], config: Config) -> None:
        super().__init__()
        heights = [len(range(*block.indices(layer.out_features))) for block in rows]
        self.layer, self.rows = layer, rows
        self.down = nn.ModuleList(nn.Linear(layer.in_features, config.rank, bias=False) for _ in rows)  # A
        self.up = nn.ModuleList(nn.Linear(config.rank, height, bias=False) for height in heights)  # B
        self.drop = nn.Dropout(config.dropout)
        self.scale = config.alpha / config.rank
        for up in self.up:
            nn.init.zeros_(up.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Adds the updates to what the layer computes.

        Shape:
            - x: `(B, N, inputs)`
            - Output: `(B, N, outputs)`
        """
        output: Tensor = self.layer(x)
        for block, down, up in zip(self.rows, self.down, self.up, strict=True):
            first, last, _ = block.indices(output.shape[-1])
            update = self.scale * up(down(self.drop(x)))
            output = output + F.pad(update, (first, output.shape[-1] - last))
        return output

    def merged(self) -> nn.Linear:
        """The layer with the updates in its weight."""
        for block, down, up in zip(self.rows, self.down, self.up, strict=True):
            self.layer.weight[block] += self.scale * up.weight @ down.weight  # type: ignore[operator]
        return self.layer


def build(backbone: Backbone, num_classes: int, config: Config) -> ImageModel:
    """Freezes the backbone, injects the low-rank layers in place and attaches the head.

    Raises:
        OptionError: The backbone has no such layers, or options exclude each other.
    """
    layers = _targets(backbone, config)
    if not layers:
        rule = "queries and values" if config.target == "qv" else "linear layers in its blocks"
        raise OptionError(f"target must be projections on a backbone without {rule}, got {config.target!r}")
    if config.velora_groups is not None and (config.freeze_a or config.target == "qv"):
        raise OptionError(
            f"velora_groups must be null where A is frozen or target is qv, got {config.velora_groups!r}; leave one out"
        )
    if config.target == "qv":
        freeze(backbone)
        for name, rows in backbone.query_value_rows().items():
            layer: Any = layers[name]
            backbone.trunk.set_submodule(name, RowUpdate(layer, rows, config))
    else:
        add_updates(backbone, "LORA", layers, **_options(config))
    if config.freeze_a:
        for down in _factors(backbone)[0]:
            down.requires_grad_(False)
    return ImageModel(backbone, num_classes)


def count(backbone: Backbone, config: Config) -> int:
    """L (D r + r 3 D) on fused projections: of each layer, r times what one output sees, and r times its outputs."""
    layers = _targets(backbone, config)
    rows = backbone.query_value_rows() if config.target == "qv" else dict.fromkeys(layers, (slice(None),))
    total = 0
    for (inputs, outputs), blocks in zip(sizes(layers), rows.values(), strict=True):
        heights = [len(range(*block.indices(outputs))) for block in blocks]
        total += sum(config.rank * (height + (0 if config.freeze_a else inputs)) for height in heights)
    return total


def _targets(backbone: Backbone, config: Config) -> Mapping[str, nn.Module]:
    if config.target == "all-linear":
        return backbone.linear_layers()
    layers = backbone.projections()
    return layers if config.target == "projections" else {name: layers[name] for name in backbone.query_value_rows()}


def _options(config: Config) -> dict[str, Any]:
    options: dict[str, Any] = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    return (
        options if config.velora_groups is None else options | {"velora_config": {"num_groups": config.velora_groups}}
    )


def _factors(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Layers of all A, and of all B."""
    tuned, own = list(tuned_layers(model)), [module for module in model.modules() if isinstance(module, RowUpdate)]
    downs = [layer.lora_A[ADAPTER] for layer in tuned] + [down for module in own for down in module.down]
    ups = [layer.lora_B[ADAPTER] for layer in tuned] + [up for module in own for up in module.up]
    return downs, ups


def plus_groups(model: nn.Module, config: Config) -> ParameterGroups:
    """B, which learns `lora_plus` times faster, and all else."""
    fast = [parameter for up in _factors(model)[1] for parameter in up.parameters()]
    others = {parameter for parameter in model.parameters() if parameter.requires_grad} - set(fast)
    slow = [parameter for parameter in model.parameters() if parameter in others]
    return [{"params": fast, "lr": config.lr * config.lora_plus}, {"params": slow}]


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Adds the updates to the weights; the model computes the same without them."""
    exchange(model, lambda module: isinstance(module, RowUpdate), RowUpdate.merged)
    return merge_updates(model)


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """AdamW; with `lora_plus`, at another rate for B. Used merged."""
    groups = None if config.lora_plus == 1 else lambda model: plus_groups(model, config)
    return Recipe(groups=groups, before_inference=merge)


METHOD = Method(
    "lora",
    "LoRA",
    "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685",
    Config,
    build,
    count,
    recipe=recipe,
    needs=frozenset({"projections"}),
    starts_as_pretrained=True,
)
