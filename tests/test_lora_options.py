"""Options of LoRA: where it sits, how fast it learns, what it keeps."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_backbones import ALL, awake
from torch import Tensor

from benchmarks.errors import UserError
from benchmarks.model.backbone import create_backbone
from benchmarks.model.build import build_parts, count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.training.step import make_optimization, training_step
from docs.tables import kept
from methods import METHODS
from methods.low_rank.lora import RowUpdate

D, L, R = 48, 2, 4
SMALL = ALL["augreg"]
QUERY_VALUE = ("augreg", "dinov3", "eva02, apart", "beit", "swinv2")
BASE = "vit_base_patch16_384"


def make_model(family: str = "augreg", **options: object) -> Any:
    torch.manual_seed(0)
    backbone = awake(create_backbone(ALL[family], 64 if family == "swinv2" else 32 if "eva" not in family else 56))
    return METHODS["lora"].build(backbone, 3, make_config("lora", {"rank": R, "alpha": 8} | options))


def images(side: int = 32) -> Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target": "qv"}, 4 * 768 * 16 * 12),
        ({"target": "all-linear"}, 16 * 768 * 16 * 12),
        ({"freeze_a": True}, 3 * 768 * 16 * 12),
        ({"target": "qv", "freeze_a": True}, 2 * 768 * 16 * 12),
        ({"lora_plus": 16.0}, 589_824),
        ({"velora_groups": 64}, 589_824),
    ],
)
def test_what_trains(options: dict[str, Any], expected: int) -> None:
    config = make_config("lora", options)
    assert count_parameters("lora", config, BASE, 5)["trainable"] == expected
    with torch.device("meta"):
        assert METHODS["lora"].count(create_backbone(BASE), config) == expected
        small = METHODS["lora"].count(create_backbone(SMALL), config)
    assert count_parameters("lora", config, SMALL, 5)["trainable"] == small == expected * D * L // (768 * 12)


def test_all_linear_is_every_layer_of_the_blocks_and_no_other() -> None:
    model = make_model(target="all-linear")
    tuned = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert tuned == {f"backbone.trunk.blocks.{index}.{layer}" for index in range(L) for layer in layers}


@pytest.mark.parametrize("family", ["swinv2", "eva02, joint", "convnext"])
def test_all_linear_of_other_families_trains_what_it_counts(family: str) -> None:
    config = make_config("lora", {"target": "all-linear", "rank": 2})
    with torch.device("meta"):
        backbone = create_backbone(ALL[family])
        assert not any("cpb_mlp" in name for name in backbone.linear_layers())
        expected = METHODS["lora"].count(backbone, config)
    assert count_parameters("lora", config, ALL[family], 3)["trainable"] == expected


@pytest.mark.parametrize("family", QUERY_VALUE)
def test_queries_and_values_alone_are_updated(family: str) -> None:
    """What the layers make of an input changes in their rows, by the formula, and nowhere else."""
    model = make_model(family, target="qv").eval()
    updates = [module for module in model.modules() if isinstance(module, RowUpdate)]
    assert updates
    for update in updates:
        x = torch.randn(2, 5, update.layer.in_features)
        torch.testing.assert_close(update(x), update.layer(x))  # as pretrained
        expected = update.layer(x).detach().clone()
        joint = len(update.rows) == 2
        starts = (0, 2 * update.layer.out_features // 3) if joint else (0,)
        for start, down, up in zip(starts, update.down, update.up, strict=True):
            height = update.layer.out_features // 3 if joint else update.layer.out_features
            up.weight.data.normal_()  # type: ignore[operator]
            expected[..., start : start + height] += 8 / R * x @ (up.weight @ down.weight).T  # type: ignore[operator]
        torch.testing.assert_close(update(x), expected, rtol=1e-4, atol=1e-4)


def test_queries_and_values_are_heard_where_timm_reads_weights() -> None:
    for family in QUERY_VALUE:
        model = make_model(family, target="qv").eval()
        side = 64 if family == "swinv2" else 32 if "eva" not in family else 56
        plain = model(image=images(side))
        for module in model.modules():
            if isinstance(module, RowUpdate):
                module.up[0].weight.data.normal_()  # type: ignore[operator]
        assert (model(image=images(side)) - plain).abs().max() > 1e-4, family


@pytest.mark.parametrize(
    ("family", "target"),
    [
        *((family, target) for family in ("augreg", "eva02, apart") for target in ("projections", "qv", "all-linear")),
        ("resnet50", "projections"),
    ],
)
def test_merged_computes_the_same_with_none_of_its_factors(family: str, target: str) -> None:
    model = make_model(family, target=target).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    image = images(56 if "eva" in family else 32)
    expected = model(image=image)
    before_inference = METHODS["lora"].recipe(model, make_config("lora", {}), 4).before_inference
    assert before_inference is not None
    merged = before_inference(copy.deepcopy(model))
    assert {name for name, p in merged.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    assert not any("lora_" in name or ".down." in name for name in merged.state_dict())
    torch.testing.assert_close(merged(image=image), expected, rtol=1e-4, atol=1e-4)


def test_lora_plus_speeds_up_b_alone() -> None:
    """Not the head's bias, as peft's optimiser for it does."""
    for target in ("projections", "qv"):
        config = make_config("lora", {"lora_plus": 16.0, "target": target})
        model = build_parts("lora", config, SMALL, 3, 32).model
        recipe = METHODS["lora"].recipe(model, config, 4)
        optimizer = make_optimization(model, config.lr, 0.1, "fp32", "cpu", recipe).optimizer
        rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert rates.keys() == names.keys()
        for parameter, name in names.items():
            assert rates[parameter] == (16e-3 if "lora_B" in name or ".up." in name else 1e-3), name


@pytest.mark.parametrize("target", ["projections", "qv"])
def test_a_that_is_frozen_stays(target: str) -> None:
    model = make_model(target=target, freeze_a=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimization = make_optimization(model, 1e-2, 0.0, "fp32", "cpu")
    for _ in range(2):
        training_step(model, {"image": images()}, torch.arange(4) % 3, optimization)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_B" in name or ".up." in name or name.startswith("head")}


def test_velora_computes_the_same_and_learns_a_from_less() -> None:
    """Of each group of channels one number is kept; B and all before it get the exact gradient."""
    gradients = []
    for groups in (None, 8):
        model = make_model(velora_groups=groups)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.01)
        logits = model(image=images())
        F.cross_entropy(logits, torch.arange(4) % 3).backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        gradients.append(found | {"logits": logits.detach()})
    exact, less = gradients
    for name, value in exact.items():
        if "lora_A" in name:
            assert not torch.allclose(less[name], value) and less[name].norm() > 0.1 * value.norm()
        else:
            torch.testing.assert_close(less[name], value, rtol=1e-4, atol=1e-6)


def test_what_is_kept_for_backward_follows_from_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """In N·D a block: attention's 10, and qkv's input where A trains on it."""
    shown = {}
    for options in ({}, {"freeze_a": True}):
        monkeypatch.setattr("docs.tables.make_config", lambda name, _, own=options: make_config(name, own))
        shown[next(iter(options), "plain")] = float(kept("lora"))
    assert shown["plain"] == 11.0 and shown["freeze_a"] < 10.5


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet18", {"target": "all-linear"}, "target must be projections on a backbone without linear layers in its"),
        ("resnet18", {"target": "qv"}, "target must be projections on a backbone without queries and values, got 'qv'"),
        (SMALL, {"velora_groups": 8, "freeze_a": True}, "velora_groups must be null where A is frozen or target is qv"),
        ("resnet18", {"velora_groups": 8}, "options must suit the backbone's layers, but peft's LORA refuses"),
    ],
)
def test_what_cannot_be_is_refused(backbone: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        count_parameters("lora", make_config("lora", options), backbone, 3)
