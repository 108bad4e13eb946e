"""The step's optimiser: which parameters weight decay reaches, by AdamW's own rule."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.training.step import make_optimization, undecayed
from docs.examples import ssf
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


@pytest.mark.parametrize("name", [*METHODS, "ssf"])
def test_decay_is_alike_for_every_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of timm's ViT; what a method adds decays where it has more than one axis."""
    monkeypatch.setitem(METHODS, "ssf", ssf.METHOD)
    model = build_parts(name, make_config(name, {}), "vit_tiny_patch16_224", 3, 64).model
    spared = {key for key, parameter in model.named_parameters() if parameter in undecayed(model)}
    tokens = ("pos_embed", "cls_token")
    assert spared == {key for key, p in model.named_parameters() if p.ndim < 2 or key.rsplit(".", 1)[-1] in tokens}
    assert any(key.endswith("prompts") for key, _ in model.named_parameters()) == (name in PROMPTED)
    assert not any(key.endswith("prompts") for key in spared)
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert {key for key, moved in shrunk_trainable(model).items() if moved} == trainable - spared


PROMPTED = ("vpt", "vpt_shallow", "fpt", "fpt_plus")


def shrunk_trainable(model: nn.Module) -> dict[str, bool]:
    filled(model)
    optimization = make_optimization(model, LR, DECAY, "fp32", "cpu")
    for parameter in optimization.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimization.optimizer.step()
    return {name: bool((parameter != 1).all()) for name, parameter in model.named_parameters()}
