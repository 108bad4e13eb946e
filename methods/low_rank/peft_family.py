"""Updates of a frozen backbone's weights through Hugging Face peft: one row a method.

All stand where LoRA's stand (`methods/low_rank/lora.py`): on the projections of queries, keys and values of every
block, or what a network without attention has instead. With W (outputs o x inputs i) the frozen weight of a layer and R
the rank, each method computes with W' instead; what is named below trains, and the new head:

- dora: m * (W + s BA) / ||W + s BA|| by rows, magnitudes m; s = alpha / R.
- rslora: W + alpha / sqrt(R) BA. pissa, eva, lora_ga: LoRA with another start, see below.
- adalora: W + s B diag(e) A; ranks are pruned over all layers (`methods/low_rank/adalora.py`).
- vera: W + diag(b) B diag(d) A, vectors b and d; B and A are random, frozen and shared by all layers.
- ia3: diag(l) W on projections, W diag(l) on the last layer of every MLP, vectors l.
- lokr: W + s (C kron (B A)). loha: W + s (B1 A1) * (B2 A2), entry by entry.
- oft: W Q, Q block-diagonal and orthogonal. boft: diag(l) W Q, blocks by Cayley's map. hra: W times R reflections.
- fourierft: W + s times the inverse Fourier transform of n random frequencies.
- randlora: W + s times the sum of B_j diag(l_j) A diag(g_j); B and A are random, frozen and shared.
- miss: W + D repeated over the inputs, D (R x o). road: pairs of outputs are rotated and scaled.
- hira: W + W * (B A), entry by entry.
- delora: W + (lambda ||W|| / R) times the sum of b_j a_j / (||b_j|| ||a_j||), less its start.

All start as the pretrained model: a factor, a spectrum or a difference from the start is zero, a scale one, a rotation
none. pissa and lora_ga take their start out of the frozen weights, so these are no longer the pretrained ones, but the
sums are. pissa: A and B are the principal part of W. eva: A spans the inputs' principal directions in the training
split, ranks go where more variance is. lora_ga: A and B are directions of the loss's gradient in the training split.
All are used merged (`merge`).

Departures: rates and decay are LoRA's grid for all but those whose steps have another size (docs/methods.md). ia3 also
scales queries, which are fused with keys and values. boft has one factor, without butterfly permutations: more need an
extension compiled for a GPU. oft has Neumann's series of five terms in place of the inverse in Cayley's map, as peft
does. fourierft starts at zero, so that it starts as the pretrained model; the paper's start is random. peft's fixed
seeds of random choices follow the run's seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn

from methods.backbone import Backbone, Need
from methods.contract import Bounds, Count, Dropout, Factor, Method, OptionError, Recipe, Share
from methods.low_rank.adalora import AdaLoraModel, allocation_recipe
from methods.low_rank.data_starts import start_from_gradients, start_from_inputs
from methods.low_rank.peft_layers import TunedModel, add_updates, merge, pattern, sizes


@dataclass(frozen=True)
class Rates:
    """LoRA's rates and decay (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4


@dataclass(frozen=True)
class VectorRates(Rates):
    """Of methods that train a few vectors of scales."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    lr: float = 3e-3


@dataclass(frozen=True)
class EntryRates(Rates):
    """Of methods where a step moves entries of the weights themselves by the rate."""

    lr_grid: ClassVar[tuple[float, ...]] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    lr: float = 3e-4


@dataclass(frozen=True)
class LowRank(Rates):
    """As LoRA's, so that two rows differ by the idea alone."""

    rank: Count = 16
    alpha: Factor = 16
    dropout: Dropout = 0.0


@dataclass(frozen=True)
class Eva(LowRank):
    """LoRA's; peft's `rho`: a layer gets up to so many times its rank."""

    rho: Annotated[float, Bounds(at_least=1)] = 2.0


@dataclass(frozen=True)
class LoraGa(LowRank):
    """LoRA's; the paper's gamma, which peft has too; gradients of eight batches (ours)."""

    gamma: Count = 16
    num_batches: Count = 8


@dataclass(frozen=True)
class AdaLora(Rates):
    """Ranks and penalty of peft; a factor of 1; pruning from a tenth of the steps to a half (recalled)."""

    rank: Count = 12
    target_rank: Count = 8
    alpha: Factor = 12
    dropout: Dropout = 0.0
    orthogonality: Annotated[float, Bounds(at_least=0)] = 0.5
    warmup: Annotated[float, Bounds(at_least=0, below=1)] = 0.1
    final: Share = 0.5


@dataclass(frozen=True)
class Vera(VectorRates):
    """Rank and start of d of peft; ten times LoRA's rate (recalled from the paper)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    lr: float = 1e-2
    rank: Count = 256
    d_initial: Factor = 0.1
    dropout: Dropout = 0.0


@dataclass(frozen=True)
class Lycoris(Rates):
    """Peft's, a factor of 1."""

    rank: Count = 8
    alpha: Factor = 8


@dataclass(frozen=True)
class Oft(Rates):
    """Peft's."""

    block_size: Count = 32


@dataclass(frozen=True)
class Boft(Rates):
    """Peft's."""

    block_size: Count = 4


@dataclass(frozen=True)
class Hra(Rates):
    """Peft's; an even number of reflections, which cancel in pairs at the start."""

    rank: Annotated[int, Bounds(at_least=2)] = 8


@dataclass(frozen=True)
class FourierFt(VectorRates):
    """Peft's number of frequencies.

    Adam's steps do not depend on a factor of the gradient, so rate times scale counts: the authors' 0.3 times 300 for
    ViTs (recalled), with a rate that the head can have too.
    """

    num_frequencies: Count = 1000
    scale: Factor = 30_000.0


@dataclass(frozen=True)
class RandLora(Rates):
    """Peft's."""

    rank: Count = 32
    alpha: Factor = 640
    dropout: Dropout = 0.0


@dataclass(frozen=True)
class Miss(EntryRates):
    """Peft's."""

    rank: Count = 64
    dropout: Dropout = 0.0


@dataclass(frozen=True)
class Road(VectorRates):
    """Peft's variant of one angle and one scale a pair; of neighbours (ours: peft's 64 divides few widths)."""

    group_size: Annotated[int, Bounds(at_least=2)] = 2


@dataclass(frozen=True)
class Hira(Rates):
    """Peft's."""

    rank: Count = 32
    dropout: Dropout = 0.0


@dataclass(frozen=True)
class DeLora(Rates):
    """Peft's."""

    rank: Count = 8
    bound: Count = 15


def merged(model: nn.Module, config: Any, num_steps: int) -> Recipe:
    """Trains by the defaults; is used merged."""
    return Recipe(before_inference=merge)


def _eva(model: nn.Module, config: Eva, num_steps: int) -> Recipe:
    return Recipe(prepare=lambda model, batches: start_from_inputs(model, batches, config), before_inference=merge)


def _lora_ga(model: nn.Module, config: LoraGa, num_steps: int) -> Recipe:
    return Recipe(prepare=lambda model, batches: start_from_gradients(model, batches, config), before_inference=merge)


def _method(
    name: str,
    title: str,
    paper: str,
    config: type,
    kind: str,
    options: Callable[[Any], dict[str, Any]],
    count: Callable[[int, int, Any], int],
    needs: tuple[Need, ...] = ("linear_projections",),
    recipe: Callable[[Any, Any, int], Recipe] = merged,
    model: type[TunedModel] = TunedModel,
    directions: Callable[[Any], int] = lambda config: 1,
) -> Method:
    """A row of the table.

    Args:
        name, title, paper, config, recipe: As the method's.
        kind: The tuner, a name of `peft.PeftType`.
        options: Of the tuner's config, from the method's.
        count: `count(inputs, outputs, config)`, what trains of a layer.
        needs: What layers it can have.
        model: What the backbone and the head become.
        directions: How many the start takes of a layer, which must have as many.
    """

    def build(backbone: Backbone, num_classes: int, config: Any) -> TunedModel:
        layers = backbone.projections()
        narrowest = min(min(pair) for pair in sizes(layers))
        if directions(config) > narrowest:
            raise OptionError(
                f"rank must leave a start of at most {narrowest} directions, the narrowest layer's, got "
                f"{config.rank!r}, which takes {directions(config)}"
            )
        add_updates(backbone, kind, layers, **options(config))
        return model(backbone, num_classes)

    def total(backbone: Backbone, config: Any) -> int:
        return sum(count(inputs, outputs, config) for inputs, outputs in sizes(backbone.projections()))

    return Method(
        name,
        title,
        paper,
        config,
        build,
        total,
        recipe=recipe,
        needs=frozenset(needs),
        starts_as_pretrained=True,
    )


def _lora(config: LowRank, **others: Any) -> dict[str, Any]:
    return {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout} | others


def _lora_count(inputs: int, outputs: int, config: Any) -> int:
    count: int = config.rank * (inputs + outputs)
    return count


def _ada_lora(config: AdaLora) -> dict[str, Any]:
    if config.target_rank >= config.rank:
        raise OptionError(f"target_rank must be below rank, {config.rank}, got {config.target_rank!r}")
    if config.warmup + config.final >= 1:
        raise OptionError(f"final must leave steps to prune in: below {1 - config.warmup:g}, got {config.final!r}")
    ranks = {"init_r": config.rank, "target_r": config.target_rank, "total_step": 1}  # the recipe knows the steps
    return ranks | {"lora_alpha": config.alpha, "lora_dropout": config.dropout}


def _divisors(size: int) -> tuple[int, int]:
    """The two factors of a size that are nearest to each other, the smaller first."""
    small = max(factor for factor in range(1, math.isqrt(size) + 1) if size % factor == 0)
    return small, size // small


def _lokr_count(inputs: int, outputs: int, config: Lycoris) -> int:
    """C is (o1 x i1), B A (o2 x i2) of rank R, or whole where that is not smaller; o = o1 o2, i = i1 i2."""
    (i1, i2), (o1, o2) = _divisors(inputs), _divisors(outputs)
    low_rank = config.rank < max(i2, o2) / 2
    return o1 * i1 + (config.rank * (o2 + i2) if low_rank else o2 * i2)


def _rand_lora_count(inputs: int, outputs: int, config: RandLora) -> int:
    """As many matrices of rank R as make full rank: a vector of R and one of the smaller side each."""
    small = min(inputs, outputs)
    return math.ceil(small / config.rank) * (small + config.rank)


def _build_ia3(backbone: Backbone, num_classes: int, config: Rates) -> TunedModel:
    layers = backbone.projections() | backbone.mlp_outputs()  # type: ignore[operator]
    add_updates(backbone, "IA3", layers, feedforward_modules=pattern(backbone.mlp_outputs()))
    return TunedModel(backbone, num_classes)


def _count_ia3(backbone: Backbone, config: Rates) -> int:
    """L (3 D + 4 D) on a plain ViT."""
    behind = backbone.mlp_outputs()
    outputs = {name: layer for name, layer in backbone.projections().items() if name not in behind}
    return sum(pair[1] for pair in sizes(outputs)) + sum(pair[0] for pair in sizes(behind))


_ROWS = (
    _method(
        "dora", "DoRA", "Liu et al., DoRA, ICML 2024, arXiv 2402.09353",
        LowRank, "LORA", lambda c: _lora(c, use_dora=True), lambda i, o, c: c.rank * (i + o) + o, ("projections",),
    ),
    _method(
        "rslora", "rsLoRA", "Kalajdzievski, A Rank Stabilization Scaling Factor, arXiv 2312.03732",
        LowRank, "LORA", lambda c: _lora(c, use_rslora=True), _lora_count, ("projections",),
    ),
    _method(
        "pissa", "PiSSA", "Meng, Wang & Zhang, PiSSA, NeurIPS 2024, arXiv 2404.02948",
        LowRank, "LORA", lambda c: _lora(c, init_lora_weights="pissa"), _lora_count, directions=lambda c: c.rank,
    ),
    _method(
        "eva", "EVA", "Paischer et al., Explained Variance Adaptation, arXiv 2410.07170",
        Eva, "LORA", _lora, _lora_count, recipe=_eva, directions=lambda c: round(c.rank * c.rho),
    ),
    _method(
        "lora_ga", "LoRA-GA", "Wang, Yu & Li, LoRA-GA, NeurIPS 2024, arXiv 2407.05000",
        LoraGa, "LORA", _lora, _lora_count, recipe=_lora_ga, directions=lambda c: 2 * c.rank,
    ),
    _method(
        "adalora", "AdaLoRA", "Zhang et al., AdaLoRA, ICLR 2023, arXiv 2303.10512",
        AdaLora, "ADALORA", _ada_lora, lambda i, o, c: c.rank * (i + o + 1), ("projections",),
        recipe=allocation_recipe, model=AdaLoraModel,
    ),
    _method(
        "vera", "VeRA", "Kopiczko, Blankevoort & Asano, VeRA, ICLR 2024, arXiv 2310.11454",
        Vera, "VERA", lambda c: {"r": c.rank, "d_initial": c.d_initial, "vera_dropout": c.dropout},
        lambda i, o, c: o + c.rank,
    ),
    Method(
        "ia3", "IA3", "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning, NeurIPS 2022, arXiv 2205.05638",
        VectorRates, _build_ia3, _count_ia3, recipe=merged, needs=frozenset({"projections", "mlp"}),
        starts_as_pretrained=True,
    ),
    _method(
        "lokr", "LoKr", "Yeh et al., LyCORIS, ICLR 2024, arXiv 2309.14859",
        Lycoris, "LOKR", lambda c: {"r": c.rank, "alpha": c.alpha}, _lokr_count,
    ),
    _method(
        "loha", "LoHa", "Hyeon-Woo, Ye-Bin & Oh, FedPara, ICLR 2022, arXiv 2108.06098",
        Lycoris, "LOHA", lambda c: {"r": c.rank, "alpha": c.alpha}, lambda i, o, c: 2 * c.rank * (i + o),
    ),
    _method(
        "oft", "OFT", "Qiu et al., Orthogonal Finetuning, NeurIPS 2023, arXiv 2306.07280",
        Oft, "OFT", lambda c: {"oft_block_size": c.block_size}, lambda i, o, c: i * (c.block_size - 1) // 2,
        ("linear_projections", "attention_layers"),  # peft takes a map of channels for a convolution's
    ),
    _method(
        "boft", "BOFT", "Liu et al., BOFT, ICLR 2024, arXiv 2311.06243",
        Boft, "BOFT", lambda c: {"boft_block_size": c.block_size}, lambda i, o, c: i * c.block_size + o,
    ),
    _method(
        "hra", "HRA", "Yuan, Liu & Xu, Householder Reflection Adaptation, NeurIPS 2024, arXiv 2405.17484",
        Hra, "HRA", lambda c: {"r": c.rank}, lambda i, o, c: c.rank * i,
    ),
    _method(
        "fourierft", "FourierFT", "Gao et al., Discrete Fourier Transform, ICML 2024, arXiv 2405.03003",
        FourierFt, "FOURIERFT",
        lambda c: {"n_frequency": c.num_frequencies, "scaling": c.scale, "init_weights": True},
        lambda i, o, c: c.num_frequencies,
    ),
    _method(
        "randlora", "RandLoRA", "Albert et al., RandLoRA, ICLR 2025, arXiv 2502.00987",
        RandLora, "RANDLORA",
        lambda c: {"r": c.rank, "randlora_alpha": c.alpha, "randlora_dropout": c.dropout}, _rand_lora_count,
    ),
    _method(
        "miss", "MiSS", "Kang & Yin, MiSS, arXiv 2409.15371",
        Miss, "MISS", lambda c: {"r": c.rank, "miss_dropout": c.dropout}, lambda i, o, c: c.rank * o,
    ),
    _method(
        "road", "RoAd", "Liao & Monz, 3-in-1: 2D Rotary Adaptation, NeurIPS 2024, arXiv 2409.00119",
        Road, "ROAD", lambda c: {"group_size": c.group_size}, lambda i, o, c: o,
    ),
    _method(
        "hira", "HiRA", "Huang et al., HiRA, ICLR 2025",
        Hira, "HIRA", lambda c: {"r": c.rank, "hira_dropout": c.dropout}, _lora_count, ("projections",),
    ),
    _method(
        "delora", "DeLoRA", "Bini, Girrbach & Akata, DeLoRA, ICLR 2025, arXiv 2503.18225",
        DeLora, "DELORA", lambda c: {"r": c.rank, "delora_lambda": c.bound}, lambda i, o, c: c.rank * (i + o) + 1,
    ),
)  # fmt: skip
METHODS = {method.name: method for method in _ROWS}
