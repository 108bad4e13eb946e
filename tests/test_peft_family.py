"""Methods through peft, against the papers' formulas, peft's own model, and the data they start from."""

import copy
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_backbones import ALL, NARROW, awake, make_parts
from torch import Tensor

from benchmarks.config import identity
from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import create_backbone, lacks
from benchmarks.model.build import build_parts, count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.tasks import masked_bce
from benchmarks.training.step import GivenBatches, make_optimization, training_step, undecayed
from methods import METHODS
from methods.low_rank import peft_family
from methods.low_rank.adalora import orthogonality
from methods.low_rank.peft_layers import merge, tuned_layers
from methods.low_rank.shira import SparseUpdate

SMALL = ALL["augreg"]  # two blocks of width 48
LABELS = torch.arange(4) % 3
FAMILY = tuple(peft_family.METHODS)
FROZEN = re.compile(r"(base_layer|layer)\.")


def make_model(method: str, seed: int = 0, **options: object) -> Any:
    """On a small ViT all of whose weights and biases are random, so that nothing is hidden by zeros."""
    torch.manual_seed(seed)
    backbone = awake(create_backbone(SMALL, 32))
    return METHODS[method].build(backbone, 3, make_config(method, NARROW.get(method, {}) | options))


def stir(model: Any) -> None:
    """Moves what trains away from its start."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def images(number: int = 4) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def batches(number: int = 3) -> list[tuple[dict[str, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [({"image": torch.randn(4, 3, 32, 32, generator=generator)}, LABELS) for _ in range(number)]


def prepared(method: str, **options: object) -> Any:
    model = make_model(method, 0, **options).train()
    config = make_config(method, NARROW.get(method, {}) | options)
    prepare = METHODS[method].recipe(model, config, 4).prepare
    assert prepare is not None
    prepare(model, GivenBatches(batches()))
    return model


def of(layer: Any, *names: str) -> list[Tensor]:
    found = (getattr(layer, name)["default"] for name in names)
    return [getattr(part, "weight", part) for part in found]


def dora(layer: Any, weight: Tensor) -> Tensor:
    a, b, m = of(layer, "lora_A", "lora_B", "lora_magnitude_vector")
    direction = weight + b @ a  # alpha is the rank
    return m[:, None] * direction / direction.norm(dim=1, keepdim=True)


def low_rank(factor: float) -> Any:
    def updated(layer: Any, weight: Tensor) -> Tensor:
        a, b = of(layer, "lora_A", "lora_B")
        return weight + factor * b @ a

    return updated


def adalora(layer: Any, weight: Tensor) -> Tensor:
    a, b, e = of(layer, "lora_A", "lora_B", "lora_E")
    return weight + b @ torch.diag(e[:, 0]) @ a


def vera(layer: Any, weight: Tensor) -> Tensor:
    b, d, down, up = of(layer, "vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B")
    return weight + torch.diag(b) @ up @ torch.diag(d) @ down


def ia3(layer: Any, weight: Tensor) -> Tensor:
    (scale,) = of(layer, "ia3_l")
    return weight * scale  # a column scales outputs, a row inputs


def lokr(layer: Any, weight: Tensor) -> Tensor:
    c, a, b = of(layer, "lokr_w1", "lokr_w2_a", "lokr_w2_b")
    return weight + torch.kron(c, a @ b)


def loha(layer: Any, weight: Tensor) -> Tensor:
    a1, b1, a2, b2 = of(layer, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    return weight + (a1 @ b1) * (a2 @ b2)


def boft(layer: Any, weight: Tensor) -> Tensor:
    blocks, scale = of(layer, "boft_R", "boft_s")
    skew = (blocks[0] - blocks[0].mT) / 2
    one = torch.eye(skew.shape[-1])
    rotation = torch.block_diag(*((one - skew) @ torch.linalg.inv(one + skew)))
    return scale * (weight @ rotation.T)


def hra(layer: Any, weight: Tensor) -> Tensor:
    (vectors,) = of(layer, "hra_u")
    for u in vectors.T:
        weight = weight - 2 * torch.outer(weight @ u, u) / (u @ u)
    return weight


def fourierft(layer: Any, weight: Tensor) -> Tensor:
    spectrum, (rows, columns) = of(layer, "fourierft_spectrum", "indices")
    out, inputs = weight.shape
    o, i = torch.arange(out)[:, None, None], torch.arange(inputs)[None, :, None]
    waves = torch.cos(2 * torch.pi * (o * rows / out + i * columns / inputs)) @ spectrum / (out * inputs)
    return weight + 30_000 * waves


def miss(layer: Any, weight: Tensor) -> Tensor:
    (block,) = of(layer, "miss_block")
    return weight + block.T.repeat(1, weight.shape[1] // len(block))


def hira(layer: Any, weight: Tensor) -> Tensor:
    a, b = of(layer, "hira_A", "hira_B")
    return weight + weight * (b @ a)


def road(layer: Any, weight: Tensor) -> Tensor:
    angle, scale = of(layer, "road_theta", "road_alpha")
    first, second = weight[0::2], weight[1::2]
    cos, sin = (scale * angle.cos())[:, None], (scale * angle.sin())[:, None]
    return torch.stack([cos * first - sin * second, cos * second + sin * first], dim=1).flatten(0, 1)


FORMULAS: dict[str, Any] = {
    **{"dora": dora, "rslora": low_rank(1.0), "adalora": adalora, "vera": vera, "ia3": ia3, "lokr": lokr, "loha": loha},
    **{"pissa": low_rank(4.0), "eva": low_rank(4.0), "lora_ga": low_rank(4.0), "boft": boft, "hra": hra},
    **{"fourierft": fourierft, "miss": miss, "hira": hira, "road": road},
}


@pytest.mark.parametrize("method", FORMULAS)
def test_a_merged_weight_is_the_papers(method: str) -> None:
    """PiSSA, EVA and LoRA-GA have rank 4 and alpha 16 here, rsLoRA rank 16 and alpha 4."""
    options: dict[str, object] = {"rank": 2, "alpha": 2} if method == "lokr" else {}
    model = make_model(method, 0, **options)
    stir(model)
    layers = list(tuned_layers(model))
    expected = [FORMULAS[method](layer, layer.get_base_layer().weight.detach().clone()) for layer in layers]
    bases = [layer.get_base_layer() for layer in layers]
    before = [base.weight.detach().clone() for base in bases]
    merge(model)
    assert not list(tuned_layers(model))
    for base, weight, plain in zip(bases, expected, before, strict=True):
        assert (base.weight - plain).abs().max() > 1e-3
        torch.testing.assert_close(base.weight, weight, rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("method", [*FAMILY, "shira"])
def test_merged_equals_unmerged_far_from_the_start_and_with_biases(method: str) -> None:
    model = make_model(method).eval()
    plain = model(image=images())
    stir(model)
    expected = model(image=images())
    assert (expected - plain).abs().max() > 1e-3
    used = METHODS[method].recipe(model, make_config(method, {}), 4).before_inference
    assert used is not None
    torch.testing.assert_close(used(copy.deepcopy(model))(image=images()), expected, rtol=1e-4, atol=1e-4)


def test_oft_is_nearly_orthogonal() -> None:
    """Five terms of Neumann's series in place of the inverse."""
    model = make_model("oft")
    for layer in tuned_layers(model):
        layer.oft_R["default"].weight.data.normal_(std=0.02)
    layers = [layer.get_base_layer() for layer in tuned_layers(model)]
    before = [layer.weight.detach().clone() for layer in layers]
    merge(model)
    for layer, weight in zip(layers, before, strict=True):
        assert (layer.weight - weight).abs().max() > 1e-3
        torch.testing.assert_close(layer.weight @ layer.weight.T, weight @ weight.T, rtol=1e-4, atol=1e-4)


PEFT: dict[str, dict[str, Any]] = {  # as a user of peft would write it
    "randlora": {"r": 32, "randlora_alpha": 640, "projection_prng_key": 0},
    "delora": {"r": 8, "delora_lambda": 15},
    "vera": {"r": 256, "projection_prng_key": 0},
    "oft": {"oft_block_size": 4},
    "shira": {"r": 2, "random_seed": 0},
}


@pytest.mark.parametrize("method", PEFT)
def test_it_is_the_model_that_peft_makes(method: str) -> None:
    """With peft's wrapper around a whole network of timm, from the same numbers."""
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    model = make_model(method).eval()
    stir(model)
    trunk = awake(create_backbone(SMALL, 32)).trunk.eval()
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[method.upper()]]
    target = r"blocks\.\d+\.attn\.qkv"
    plain = {name: parameter.detach() for name, parameter in trunk.named_parameters() if "head" not in name}
    for name, parameter in model.backbone.trunk.named_parameters():
        name = name.replace("base_layer.", "").replace("qkv.layer", "qkv")
        if name in plain:
            plain[name].copy_(parameter.detach())
    torch.sparse.check_sparse_tensor_invariants.disable()
    wrapped: Any = get_peft_model(trunk, kind(target_modules=target, **PEFT[method]))
    theirs = [module for module in wrapped.modules() if hasattr(module, "get_base_layer")]
    ours: list[Any] = list(tuned_layers(model)) or [m for m in model.modules() if isinstance(m, SparseUpdate)]
    for their, our in zip(theirs, ours, strict=True):
        if method == "shira":
            rows, columns = our.entries // 48, our.entries % 48
            their.shira_indices["default"] = torch.stack([rows, columns])
            their.shira_weight["default"].data = our.values.data
            continue
        state = {name: value for name, value in our.state_dict().items() if not name.startswith("base_layer")}
        their.load_state_dict(state, strict=False)
    expected = wrapped.base_model.model.forward_head(wrapped.base_model.model.forward_features(images()), True)
    torch.testing.assert_close(model.backbone(images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["rslora", "vera", "fourierft", "randlora", "shira", "hra"])
def test_random_starts_follow_the_runs_seed(method: str) -> None:
    """Also those that peft draws from seeds of its own."""
    starts = []
    for seed in (0, 0, 1):
        model = make_model(method, seed)
        added = [module for module in model.modules() if isinstance(module, SparseUpdate)] + list(tuned_layers(model))
        states = [dict(layer.named_parameters()) | dict(layer.named_buffers()) for layer in added]
        starts.append([value for state in states for name, value in state.items() if not FROZEN.match(name)])
    first, again, other = starts
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_shira_draws_other_entries_in_every_layer() -> None:
    one, two = (module for module in make_model("shira").modules() if isinstance(module, SparseUpdate))
    assert len(one.entries.unique()) == 2 * (48 + 144) and not torch.equal(one.entries, two.entries)  # type: ignore


def test_pissa_starts_from_the_principal_part() -> None:
    torch.manual_seed(0)
    backbone = awake(create_backbone(SMALL, 32))
    weight = backbone.trunk.blocks[1].attn.qkv.weight.detach().clone()
    model: Any = METHODS["pissa"].build(backbone, 3, make_config("pissa", {"rank": 4}))
    layer = model.backbone.trunk.blocks[1].attn.qkv
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    principal = u[:, :4] @ torch.diag(s[:4]) @ v[:4]
    a, b = of(layer, "lora_A", "lora_B")
    torch.testing.assert_close(4 * b @ a, principal, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.get_base_layer().weight, weight - principal, rtol=1e-4, atol=1e-4)


def test_eva_starts_from_the_inputs_directions_and_moves_ranks() -> None:
    fresh = make_model("eva").eval()
    expected = fresh(image=images())
    model = prepared("eva").eval()
    torch.testing.assert_close(model(image=images()), expected, rtol=0, atol=1e-6)
    one, two = (layer for layer in tuned_layers(model))
    ranks = [len(layer.lora_A["default"].weight) for layer in (one, two)]
    assert sum(ranks) == 8 and all(layer.scaling["default"] == 4 for layer in (one, two))
    trunk = fresh.backbone.trunk
    tokens = torch.cat([trunk.blocks[0].norm1(fresh.backbone.embed(batch["image"])[0]) for batch, _ in batches()])
    rows = tokens.flatten(0, 1)
    explained = (rows - rows.mean(0)) @ torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][: ranks[0]].T
    ours = (rows - rows.mean(0)) @ one.lora_A["default"].weight.T
    assert ours.square().sum() > 0.9 * explained.square().sum()
    torch.testing.assert_close(
        one.lora_A["default"].weight @ one.lora_A["default"].weight.T, torch.eye(ranks[0]), rtol=0, atol=1e-4
    )


def test_lora_ga_starts_from_the_losss_gradient() -> None:
    fresh = make_model("lora_ga", num_batches=2).eval()
    expected = fresh(image=images())
    weights = [layer.get_base_layer().weight.requires_grad_(True) for layer in tuned_layers(fresh)]
    loss = sum(F.cross_entropy(fresh(**inputs), labels) for inputs, labels in batches()[:2])
    gradients = torch.autograd.grad(loss, weights)  # type: ignore[arg-type]
    model = prepared("lora_ga", num_batches=2).eval()
    torch.testing.assert_close(model(image=images()), expected, rtol=0, atol=1e-4)
    for layer, weight, gradient in zip(tuned_layers(model), weights, gradients, strict=True):
        a, b = of(layer, "lora_A", "lora_B")
        u, _, v = torch.linalg.svd(gradient, full_matrices=False)
        cosines = (F.normalize(a, dim=1) @ v[:4].T).abs().diagonal()
        assert (cosines > 0.99).all()
        assert ((F.normalize(b, dim=0).T @ u[:, 4:8]).abs().diagonal() > 0.95).all()
        base = layer.get_base_layer().weight
        assert not base.requires_grad and (base - weight).abs().max() > 1e-4
        torch.testing.assert_close(base + 4 * b @ a, weight.detach(), rtol=1e-4, atol=1e-4)


def test_lora_ga_starts_from_the_gradient_of_findings() -> None:
    """That of the masked loss, summed by a loop over what is known."""
    targets = torch.tensor([[1.0, 0, torch.nan], [torch.nan, 1, 0], [0, 0, 1], [1, torch.nan, torch.nan]])
    pairs = [(inputs, targets) for inputs, _ in batches(2)]
    fresh = make_model("lora_ga", num_batches=2).eval()
    weights = [layer.get_base_layer().weight.requires_grad_(True) for layer in tuned_layers(fresh)]
    total = torch.zeros(())
    for inputs, own in pairs:
        logits = fresh(**inputs)
        known = [(i, c) for i in range(4) for c in range(3) if not own[i, c].isnan()]
        terms = [F.softplus(logits[i, c]) - own[i, c] * logits[i, c] for i, c in known]
        total = total + torch.stack(terms).mean()
    gradients = torch.autograd.grad(total, weights)
    model = make_model("lora_ga", num_batches=2).eval()
    config = make_config("lora_ga", NARROW.get("lora_ga", {}) | {"num_batches": 2})
    prepare = METHODS["lora_ga"].recipe(model, config, 4).prepare
    assert prepare is not None
    prepare(model, GivenBatches(pairs, masked_bce))
    for layer, gradient in zip(tuned_layers(model), gradients, strict=True):
        (a,) = of(layer, "lora_A")
        _, _, v = torch.linalg.svd(gradient, full_matrices=False)
        assert ((F.normalize(a, dim=1) @ v[: len(a)].T).abs().diagonal() > 0.99).all()


def train_adalora(steps: int, model: Any, recipe: Any, optimization: Any = None, start: int = 0) -> Any:
    optimization = optimization or make_optimization(model.train(), 1e-2, 0.0, "fp32", "cpu", recipe)
    optimization.step = start
    for _ in range(start, steps):
        training_step(model, {"image": images()}, LABELS, optimization)
    return optimization


def test_adalora_prunes_as_peft_does_and_goes_on_after_a_stop() -> None:
    """Ten steps: one of warm-up, four of pruning, five with the ranks that stay."""
    from peft import AdaLoraConfig
    from peft.tuners.adalora import AdaLoraModel
    from peft.tuners.adalora.layer import RankAllocator

    model = make_model("adalora")
    config = make_config("adalora", {"orthogonality": 0.0})
    theirs = copy.deepcopy(model)
    recipe = METHODS["adalora"].recipe(model, config, 10)
    optimization = train_adalora(6, model, recipe)
    stopped, state = copy.deepcopy(model), copy.deepcopy(optimization.optimizer.state_dict())
    train_adalora(10, model, recipe, optimization, 6)
    kept = [layer.lora_E["default"].count_nonzero().item() for layer in tuned_layers(model)]
    assert sum(kept) == 2 * 8

    resumed = make_model("adalora")  # as a process that was started anew
    resumed.load_state_dict(stopped.state_dict())
    anew = METHODS["adalora"].recipe(resumed, config, 10)
    again = make_optimization(resumed.train(), 1e-2, 0.0, "fp32", "cpu", anew)
    again.optimizer.load_state_dict(state)
    train_adalora(10, resumed, anew, again, 6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=1e-6)

    tuner = AdaLoraModel.__new__(AdaLoraModel)  # peft's loop around the same layers
    torch.nn.Module.__init__(tuner)
    stages = AdaLoraConfig(init_r=12, target_r=8, tinit=1, tfinal=5, total_step=10)
    tuner.model, tuner.trainable_adapter_name, tuner.peft_config = theirs.backbone, "default", {"default": stages}
    tuner.rankallocator = RankAllocator(theirs.backbone, stages, "default")
    plain = make_optimization(theirs.train(), 1e-2, 0.0, "fp32", "cpu")
    for step in range(10):
        F.cross_entropy(theirs(image=images()), LABELS).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters, 1.0)
        plain.optimizer.step()
        tuner.update_and_allocate(step)
        plain.optimizer.zero_grad()
    for their, our in zip(tuned_layers(theirs), tuned_layers(model), strict=True):
        torch.testing.assert_close(their.lora_E["default"], our.lora_E["default"], rtol=0, atol=1e-6)


def test_adaloras_penalty_is_the_mean_distance_from_orthogonal_factors() -> None:
    model = make_model("adalora")
    factors = [of(layer, "lora_A")[0] for layer in tuned_layers(model)]
    factors += [of(layer, "lora_B")[0].T for layer in tuned_layers(model)]
    distances = [((factor @ factor.T - torch.eye(12)) ** 2).sum().sqrt() for factor in factors]
    torch.testing.assert_close(orthogonality(model.backbone), sum(distances) / 4)
    added = METHODS["adalora"].recipe(model, make_config("adalora", {}), 10).extra_loss
    assert added is not None
    torch.testing.assert_close(added(model, images(), LABELS), 0.5 * sum(distances) / 4)


def test_scales_that_peft_holds_as_matrices_do_not_decay() -> None:
    for method, part in (("ia3", "ia3_l"), ("boft", "boft_s"), ("adalora", "lora_E")):
        model = make_model(method)
        spared = undecayed(model)
        assert all(p in spared for name, p in model.named_parameters() if part in name), method
    model = make_model("rslora")
    assert not any("lora_" in name and p in undecayed(model) for name, p in model.named_parameters())


@pytest.mark.parametrize("method", ["adalora", "boft", "eva", "fourierft", "lokr", "lora_ga", "pissa", "shira", "vera"])
def test_memory_is_predicted_where_values_are_read_or_drawn(method: str) -> None:
    options = tuple(NARROW.get(method, {}).items())
    phases = predict_memory(MemoryPoint(method, 32, 2, SMALL, options=options)).phases
    assert phases["train"].allocated > phases["setup"].allocated > 0


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "oft",
            {"block_size": 32},
            r"options must suit the backbone's layers, but peft's OFT refuses: Invalid `oft_bl",
        ),
        ("hra", {"rank": 3}, "peft's HRA refuses: The symmetric initialization can NOT be performed"),
        ("pissa", {"rank": 64}, "rank must leave a start of at most 48 directions, the narrowest layer's, got 64"),
        ("lora_ga", {"rank": 32}, "got 32, which takes 64"),
        ("adalora", {"target_rank": 12}, "target_rank must be below rank, 12, got 12"),
        ("adalora", {"warmup": 0.5}, "final must leave steps to prune in: below 0.5, got 0.5"),
        ("shira", {"rank": 40}, "rank must leave entries of a layer frozen: 7680 of 6912 would train, got 40"),
        ("peft", {"type": "LORE"}, r"type must be one of ADALORA, .*, XLORA, got 'LORE'"),
        ("peft", {"type": "SHIRA"}, "must be a tuner that is used as it is, got 'SHIRA'; ask for the method shira"),
        (
            "peft",
            {"type": "PREFIX_TUNING"},
            "type must suit images and the backbone, got 'PREFIX_TUNING': .*target_mod",
        ),
        ("peft", {"type": "POLY"}, "got 'POLY': its layers cannot be run: task_ids should not be None"),
        ("peft", {"type": "VBLORA"}, "got 'VBLORA': .* must be divisible by `vector_length`"),
        ("peft", {"type": "ADAMSS"}, "got 'ADAMSS': .* Cannot copy out of meta tensor"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        count_parameters(method, make_config(method, options), SMALL, 3)


@pytest.mark.parametrize("kind", ["BEFT", "DEFT", "LILY", "TINYLORA", "UNILORA"])
def test_other_tuners_of_peft_train_by_name(kind: str) -> None:
    parts, inputs = make_parts("augreg", "peft", 4, type=kind)
    optimization = make_optimization(parts.model, 1e-2, 0.0, "fp32", "cpu")
    first = training_step(parts.model, inputs, LABELS, optimization)
    for _ in range(5):
        last = training_step(parts.model, inputs, LABELS, optimization)
    assert last < first
    config = make_config("peft", {"type": kind})
    with torch.device("meta"):
        expected = METHODS["peft"].count(create_backbone(SMALL), config)
    assert count_parameters("peft", config, SMALL, 3)["trainable"] == expected > 0


def test_tuners_want_linear_layers_where_peft_has_no_convolution() -> None:
    assert lacks("resnet18", METHODS["vera"]) == ["convolutions in place of linear layers"]
    assert not lacks("resnet18", METHODS["dora"])
    assert count_parameters("dora", make_config("dora", {"rank": 2}), "resnet18", 3)["trainable"] > 0


def test_loras_later_options_change_no_stored_run() -> None:
    config = make_config("lora", {})
    assert identity(vars(config), type(config)).keys() == {"lr", "weight_decay", "rank", "alpha", "dropout"}
    assert type(make_config("peft", {})).shorthand == "type"
    assert build_parts("lora", config, SMALL, 3, 32).model.head.in_features == 48  # type: ignore[union-attr]
