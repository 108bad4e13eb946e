"""The step's optimiser: which parameters weight decay reaches, by AdamW's own rule; rates by step and by layer."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from small_backbones import make_parts
from test_recipe import BATCH, CONFIG, TRAIN, train_small
from torch import Tensor, nn

from benchmarks.config import identity
from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.training.step import make_optimization, undecayed
from methods import METHODS
from methods.contract import Recipe

LR, DECAY = 1e-2, 0.1


class Named(nn.Module):
    """A matrix, a vector, and a matrix that the module names."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.position = nn.Parameter(torch.ones(1, 4, 3))

    def no_weight_decay(self) -> set[str]:
        return {"position", "not_there"}


def shrunk(model: nn.Module, **settings: Any) -> dict[str, bool]:
    """Whether each parameter shrinks by lr x decay in a step without gradient, by name; else it stays as it is."""
    optimization = make_optimization(model, LR, DECAY, "fp32", "cpu", **settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimization.optimizer.step()
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = not torch.equal(parameter, before[name])
        expected: Tensor = before[name] * (1 - LR * DECAY) if found[name] else before[name]
        torch.testing.assert_close(parameter.detach(), expected)
    return found


def filled(model: nn.Module) -> nn.Module:
    """Without zeros, which cannot shrink."""
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    return model


def test_decay_spares_vectors_and_what_a_module_names_at_any_depth() -> None:
    model = filled(nn.Sequential(Named(), nn.LayerNorm(2)))
    names = {"0.head.weight": True, "0.head.bias": False, "0.position": False, "1.weight": False, "1.bias": False}
    assert shrunk(copy.deepcopy(model)) == names
    assert shrunk(copy.deepcopy(model), decay_all=True) == dict.fromkeys(names, True)


def test_a_recipes_group_keeps_the_decay_it_states_and_other_settings() -> None:
    model: Any = filled(Named())
    groups = [
        {"params": [model.head.weight, model.head.bias], "weight_decay": DECAY},
        {"params": [model.position], "lr": 0.5},
    ]
    optimization = make_optimization(model, LR, DECAY, "fp32", "cpu", Recipe(groups=lambda model: groups))
    found = [(group["lr"], group["weight_decay"]) for group in optimization.optimizer.param_groups]
    assert found == [(LR, DECAY), (0.5, 0.0)]


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.gradient_free])
def test_decay_is_alike_for_every_method(name: str) -> None:
    """By the names of timm's ViT; what a method adds decays where it has more than one axis, none of them of one."""
    model = make_parts("augreg", name)[0].model
    spared = {key for key, parameter in model.named_parameters() if parameter in undecayed(model)}
    tokens = ("pos_embed", "cls_token")
    assert spared == {
        key
        for key, p in model.named_parameters()
        if p.ndim < 2
        or key.rsplit(".", 1)[-1] in tokens
        or (p.requires_grad and name in COLUMNS and sum(size > 1 for size in p.shape) == 1)
    }
    assert any(key.endswith("prompts") for key, _ in model.named_parameters()) == (name in PROMPTED)
    assert not any(key.endswith("prompts") for key in spared)
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert {key for key, moved in shrunk_trainable(model).items() if moved} == trainable - spared


PROMPTED = ("vpt", "vpt_shallow", "fpt", "fpt_plus", "vqt")
COLUMNS = ("adalora", "ia3", "boft")  # their scales are matrices of one column


def shrunk_trainable(model: nn.Module) -> dict[str, bool]:
    filled(model)
    optimization = make_optimization(model, LR, DECAY, "fp32", "cpu")
    for parameter in optimization.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimization.optimizer.step()
    return {name: bool((parameter != 1).all()) for name, parameter in model.named_parameters()}


# Rates.


@pytest.mark.parametrize("warmup_steps", [0, 1, 3, 9])
def test_rates_rise_linearly_to_the_peak_then_fall_by_a_cosine(warmup_steps: int) -> None:
    """The rate of every step and group, by the closed formula; regrouping on the way changes none."""
    model: Any = Named()

    def groups(model: Any) -> Any:
        return [{"params": [model.head.weight]}, {"params": [model.head.bias, model.position], "lr": LR / 7}]

    optimization = make_optimization(model, LR, 0.0, "fp32", "cpu", Recipe(groups=groups))
    schedule, seen = optimization.start_schedule(10, warmup_steps), []
    for step in range(10):
        seen.append([group["lr"] for group in optimization.optimizer.param_groups])
        optimization.optimizer.step()
        if step == 4:
            optimization.regroup(model)
        schedule.step()
    steps = np.arange(10)
    falling = 0.5 * (1 + np.cos(np.pi * (steps - warmup_steps) / (10 - warmup_steps)))
    expected = LR * np.where(steps < warmup_steps, (steps + 1) / (warmup_steps + 1), falling)
    np.testing.assert_allclose(np.array(seen), expected[:, None] * [1, 1 / 7], rtol=1e-12)
    assert max(seen)[0] == LR and schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-18)


def test_a_run_warms_up_for_whole_epochs() -> None:
    config = dataclasses.replace(CONFIG, warmup_epochs=2)
    assert (config.num_warmup_steps(TRAIN), CONFIG.num_warmup_steps(TRAIN)) == (2 * TRAIN // BATCH, 0)
    assert config.run_id != CONFIG.run_id


def test_a_training_goes_by_the_warm_up_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_recipe.CONFIG", dataclasses.replace(CONFIG, warmup_epochs=2))
    result, _, _ = train_small()
    rates = [entry["lr"] for entry in result.history]  # at the end of each epoch of 3 steps, 6 of 12 of them warm-up
    np.testing.assert_allclose(rates, CONFIG.lr * np.array([4 / 7, 1, 0.5, 0]), rtol=1e-12, atol=1e-18)


BACKBONES = ("vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("decay_all", [False, True])
def test_a_layers_rate_is_the_heads_times_the_decay_to_the_power_of_its_distance(
    backbone: str, decay_all: bool
) -> None:
    """Against BEiT's and MAE's rule, by the names of timm's ViT; what decays is what decays without it."""
    config = make_config("full", {"layer_decay": 0.5, "lr": 0.25})
    with torch.device("meta"):
        model = build_parts("full", config, backbone, 3).model
    depth = len(model.backbone.trunk.blocks)  # type: ignore[union-attr, arg-type]

    def layer(name: str) -> int:
        parts = name.removeprefix("backbone.trunk.").split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        return 0 if parts[0] in ("cls_token", "pos_embed", "reg_token", "patch_embed", "norm_pre") else depth + 1

    recipe = METHODS["full"].recipe(model, config, 10)
    groups = _groups(model, recipe, decay_all)
    plain = _groups(model, Recipe(), decay_all)
    assert set(groups) == {name for name, _ in model.named_parameters()} == set(plain)
    for name, (rate, decay) in groups.items():
        assert (rate, decay) == (0.25 * 0.5 ** (depth + 1 - layer(name)), plain[name][1]), name
    optimization = make_optimization(model, 0.25, DECAY, "fp32", "cpu", recipe, decay_all)
    assert optimization.start_schedule(10).get_last_lr()[0] == 0.25  # what a record's history shows


def _groups(model: nn.Module, recipe: Recipe, decay_all: bool) -> dict[str, tuple[float, float]]:
    """Rate and decay of each parameter, by name; each is in one group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = make_optimization(model, 0.25, DECAY, "fp32", "cpu", recipe, decay_all).optimizer.param_groups
    rows = [(names[p], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(rows) == len(names)
    return dict(rows)


def test_without_layer_decay_full_fine_tuning_has_one_rate_and_its_id_is_as_before() -> None:
    config = make_config("full", {})
    model = build_parts("full", config, BACKBONES[0], 3, 64).model
    assert METHODS["full"].recipe(model, config, 10) == Recipe()
    assert identity(dataclasses.asdict(config), METHODS["full"].config).keys() == {"lr", "weight_decay"}


def test_layer_decay_costs_no_memory() -> None:
    point = MemoryPoint("full", 64, batch_size=2, backbone=BACKBONES[0], num_classes=3)
    by_layer = predict_memory(dataclasses.replace(point, options=(("layer_decay", 0.75),))).phases["train"]
    plain = predict_memory(point).phases["train"]
    assert by_layer.breakdown["optimizer_state"] == plain.breakdown["optimizer_state"]
    assert by_layer.allocated == plain.allocated


@pytest.mark.parametrize("value", [0.0, 1.5, -0.1])
def test_a_layer_decay_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=rf"layer_decay of full must be a number, above 0 and at most 1, got {value}"):
        build_parts("full", make_config("full", {"layer_decay": value}), BACKBONES[0], 3, 64)
