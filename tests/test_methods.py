"""The contract that every method of the table fulfils, and its parameter count against a closed formula."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.model.build import Parts, build_parts, count_parameters, make_config
from benchmarks.training.step import evaluation_step, extraction_step, make_optimization, training_step
from methods import METHODS

BACKBONE = "vit_tiny_patch16_224"
RESOLUTION = 64
NUM_CLASSES = 3
BATCH = 4
BASE = "vit_base_patch16_384"

D, L, S, P = 768, 12, 96, 16
LINEAR_PUBLISHED = {"full": 100.0, "vpt": 0.17, "adapter": 2.03, "lora": 0.68, "fpt": 1.81, "fpt_plus": 1.03}
SIDE_BLOCK = 2 * 2 * S + (3 * S * S + 3 * S) + (S * S + S) + (4 * S * S + 4 * S) + (4 * S * S + S)


def side_network(num_layers: int, num_tokens: int) -> int:
    return (3 * 16 * 16 * S + S) + S + num_tokens * S + num_layers * SIDE_BLOCK + 2 * S


TRAINABLE = {
    "full": (3 * 16 * 16 * D + D) + D + 577 * D + L * (12 * D * D + 13 * D) + 2 * D,
    "linear": 0,
    "lora": L * (D * 16 + 16 * 3 * D),
    "vpt": L * P * D,
    "vpt_shallow": 10 * D,
    "adapter": L * (D * 96 + 96 + 96 * D + D),
    "fpt": L * P * S + (S * D + D) + (D * S + S) + side_network(L, 14 * 14 + 1),
    "fpt_plus": 6 * P * D + 2 * D + (D * S + S) + side_network(6, 8 * 8 + 1),
}


def make_parts(method: str, **options: object) -> tuple[Parts, dict[str, Tensor], Tensor]:
    """A method on a tiny ViT with random weights, the model's inputs for a batch, and labels."""
    torch.manual_seed(0)
    config = make_config(method, options)
    parts = build_parts(method, config, BACKBONE, NUM_CLASSES, RESOLUTION)
    views = {
        name: torch.randn(BATCH, 3, side, side) for name, side in METHODS[method].views(config, RESOLUTION).items()
    }
    if parts.extractor is not None:
        views |= extraction_step(parts.extractor, views.pop("image"), "fp32", "cpu")
    return parts, views, torch.arange(BATCH) % NUM_CLASSES


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_config_is_frozen_with_rate_and_decay(method: str) -> None:
    config = METHODS[method].config()
    assert config.lr > 0 and config.weight_decay >= 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0


def test_logits_have_a_row_an_image_and_a_column_a_class(method: str) -> None:
    parts, inputs, _ = make_parts(method)
    assert evaluation_step(parts.model.eval(), inputs, "fp32", "cpu").shape == (BATCH, NUM_CLASSES)


EXPECTED_NAMES = {
    "full": lambda name: True,
    "linear": lambda name: name.startswith("head."),
    "lora": lambda name: ".attn.qkv.lora_" in name or name.startswith("backbone.head."),
    "vpt": lambda name: name == "prompts" or name.startswith("backbone.head."),
    "vpt_shallow": lambda name: name == "prompts" or name.startswith("backbone.head."),
    "adapter": lambda name: ".ls2.1." in name or name.startswith("backbone.head."),
    "fpt": lambda name: True,
    "fpt_plus": lambda name: True,
}


def test_exactly_the_methods_own_parameters_and_the_head_train(method: str) -> None:
    parts, _, _ = make_parts(method)
    trainable = {name for name, parameter in parts.model.named_parameters() if parameter.requires_grad}
    expected = {name for name, _ in parts.model.named_parameters() if EXPECTED_NAMES[method](name)}
    assert trainable == expected
    assert parts.extractor is None or not any(p.requires_grad for p in parts.extractor.parameters())


def test_two_steps_reach_every_trainable_tensor_and_no_frozen_one(method: str) -> None:
    parts, inputs, labels = make_parts(method)
    before = {name: tensor.detach().clone() for name, tensor in parts.model.named_parameters()}
    reached: set[str] = set()
    hooks = [
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: reached.add(name) if p.grad is not None and p.grad.abs().max() > 0 else None
        )
        for name, parameter in parts.model.named_parameters()
        if parameter.requires_grad
    ]
    optimization = make_optimization(parts.model, 1e-3, 0.0, "fp32", "cpu")
    for _ in range(2):
        training_step(parts.model, inputs, labels, optimization)
    for hook in hooks:
        hook.remove()
    assert reached == {name for name, parameter in parts.model.named_parameters() if parameter.requires_grad}
    for name, parameter in parts.model.named_parameters():
        assert parameter.requires_grad != torch.equal(parameter, before[name]), name


def test_trainable_count_equals_the_closed_formula(method: str) -> None:
    counts = count_parameters(method, make_config(method, {}), BASE, 5)
    assert counts["trainable"] == TRAINABLE[method]
    assert counts["trainable_head"] == 5 * ((S if method.startswith("fpt") else D) + 1)
    assert counts["trainable_total"] == counts["trainable"] + counts["trainable_head"]


@pytest.mark.parametrize("name", LINEAR_PUBLISHED)
def test_percent_is_the_published_one(name: str) -> None:
    assert round(count_parameters(name, make_config(name, {}), BASE, 5)["percent"], 2) == LINEAR_PUBLISHED[name]


@pytest.mark.parametrize("name", ["lora", "adapter"])
def test_starts_as_the_pretrained_model(name: str) -> None:
    parts, inputs, _ = make_parts(name)
    plain, _, _ = make_parts("full")
    plain.model.load_state_dict(
        {
            key: tensor
            for key, tensor in _plain_names(parts.model.state_dict()).items()
            if key in plain.model.state_dict()
        }
    )
    logits = evaluation_step(parts.model.eval(), inputs, "fp32", "cpu")
    expected = evaluation_step(plain.model.eval(), inputs, "fp32", "cpu")
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(".base_layer", "").replace(".ls2.0", ".ls2"): tensor for name, tensor in state.items()}


def test_gradient_checkpointing_changes_no_gradient(method: str) -> None:
    gradients = []
    for enable in (False, True):
        parts, inputs, labels = make_parts(method)
        parts.model.set_grad_checkpointing(enable)  # type: ignore[operator]
        torch.manual_seed(1)
        torch.nn.functional.cross_entropy(parts.model(**inputs), labels).backward()
        gradients.append([p.grad for p in parts.model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


def test_attention_backends_agree(method: str) -> None:
    logits = []
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        config = make_config(method, {})
        parts = build_parts(method, config, BACKBONE, NUM_CLASSES, RESOLUTION, attention)
        modules = [m for m in parts.model.modules() if hasattr(m, "fused_attn")]
        assert all(m.fused_attn == (attention == "sdpa") for m in modules)
        torch.manual_seed(1)
        sides = METHODS[method].views(config, RESOLUTION)
        views = {name: torch.randn(BATCH, 3, side, side) for name, side in sides.items()}
        if parts.extractor is not None:
            views |= extraction_step(parts.extractor, views.pop("image"), "fp32", "cpu")
        logits.append(evaluation_step(parts.model.eval(), views, "fp32", "cpu"))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_unknown_option_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"option of lora must be one of lr, .*rank.*, got 'ranks'"):
        make_config("lora", {"ranks": 8})


@pytest.mark.parametrize(
    ("method", "option", "value", "rule"),
    [
        ("lora", "rank", 8.5, "a whole number"),
        ("lora", "rank", "8", "a whole number"),
        ("lora", "rank", True, "a whole number"),
        ("lora", "rank", None, "a whole number"),
        ("lora", "alpha", "much", "a number"),
        ("fpt", "layers", None, "a text"),
    ],
)
def test_an_option_of_another_type_is_refused(method: str, option: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{option} of {method} must be {rule}, got {value!r}"):
        make_config(method, {option: value})


def test_equal_settings_are_equal_however_they_are_written() -> None:
    config = make_config("lora", {"alpha": 16, "dropout": "1e-1"})
    assert (config.dropout, repr(config.alpha)) == (0.1, repr(make_config("lora", {}).alpha))
    assert make_config("fpt", {"layers": 3}).layers == "3"


def test_vpt_inserts_prompts_after_the_prefix_tokens_of_any_vit() -> None:
    """Against a naive forward that rebuilds the sequence at every block, on a ViT with registers."""
    torch.manual_seed(0)
    config = make_config("vpt", {"dropout": 0.0})
    name = "vit_small_patch14_reg4_dinov2"
    parts = build_parts("vpt", config, name, NUM_CLASSES, 56)
    model: Any = parts.model.eval()
    vit = model.backbone
    image = torch.randn(2, 3, 56, 56)
    x = vit._pos_embed(vit.patch_embed(image))
    assert vit.num_prefix_tokens == 5
    for index, block in enumerate(vit.blocks):
        rows = [torch.cat([row[:5], model.prompts[index], row[5:]]) for row in x]
        x = block(torch.stack(rows))
        x = torch.stack([torch.cat([row[:5], row[5 + P :]]) for row in x])
    expected = vit.head(vit.norm(x)[:, 0])
    torch.testing.assert_close(model(image=image), expected, rtol=1e-5, atol=1e-5)


def test_lora_equals_the_formula() -> None:
    parts, inputs, labels = make_parts("lora", rank=4, alpha=8)
    optimization = make_optimization(parts.model, 1e-2, 0.0, "fp32", "cpu")
    for _ in range(2):
        training_step(parts.model, inputs, labels, optimization)
    model: Any = parts.model
    layer = model.backbone.blocks[3].attn.qkv
    x = torch.randn(5, 192)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 8 / 4 * (x @ down.T @ up.T)
    assert up.abs().max() > 0
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
