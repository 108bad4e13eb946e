"""The contract that every method of the table fulfils; what is known of some of them alone comes after it."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.config import Precision
from benchmarks.model.backbone import create_backbone
from benchmarks.model.build import Parts, build_parts, count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.training.step import (
    AUTOCAST_DTYPES,
    GivenBatches,
    autocast,
    evaluation_step,
    extraction_step,
    make_optimization,
    training_step,
)
from methods import METHODS

BACKBONE = "vit_tiny_patch16_224[depth=4]"
# Another width and depth, patch size, registers, layer scale.
OTHER_BACKBONE = "vit_small_patch14_reg4_dinov2[depth=3]"
RESOLUTION = 64
NUM_CLASSES = 3
BATCH = 4
BASE = "vit_base_patch16_384"


def make_parts(method: str, **options: object) -> tuple[Parts, dict[str, Tensor], Tensor]:
    """A method on a tiny ViT with random weights, the model's inputs for a batch, and labels."""
    torch.manual_seed(0)
    config = make_config(method, options)
    parts = build_parts(method, config, BACKBONE, NUM_CLASSES, RESOLUTION)
    torch.manual_seed(1)  # the same images for every method
    views = {
        name: torch.randn(BATCH, 3, side, side) for name, side in METHODS[method].views(config, RESOLUTION).items()
    }
    if parts.extractor is not None:
        views |= extraction_step(parts.extractor, views.pop("image"), "fp32", "cpu")
    labels = torch.arange(BATCH) % NUM_CLASSES
    if METHODS[method].gradient_free:
        prepare(method, parts, views, labels)
    return parts, views, labels


def prepare(method: str, parts: Parts, inputs: dict[str, Tensor], labels: Tensor) -> None:
    """As a run does, from a batch that comes a few times, as nearest neighbours want some."""
    recipe = METHODS[method].recipe(parts.model, make_config(method, {}), 0)
    assert recipe.prepare is not None
    recipe.prepare(parts.model, GivenBatches([(inputs, labels)] * 5))


TRAINED = [name for name, method in METHODS.items() if not method.gradient_free]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TRAINED)
def trained(request: pytest.FixtureRequest) -> str:
    """A method that trains by gradients."""
    return str(request.param)


def test_config_is_frozen_with_rate_and_decay_where_it_trains(method: str) -> None:
    config = METHODS[method].config()
    if METHODS[method].gradient_free:
        assert not {"lr", "weight_decay", "lr_grid"} & set(dir(config))
    else:
        assert config.lr > 0 and config.weight_decay >= 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.anything = 1.0


def test_logits_have_a_row_an_image_and_a_column_a_class(method: str) -> None:
    parts, inputs, _ = make_parts(method)
    assert evaluation_step(parts.model.eval(), inputs, "fp32", "cpu").shape == (BATCH, NUM_CLASSES)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_logits_are_in_fp32_whatever_the_precision(method: str, precision: Precision) -> None:
    """And in training too, where the loss sees them; `evaluation_step` would make fp32 of rounded ones."""
    parts, inputs, _ = make_parts(method)
    for model in (parts.model.train(), parts.model.eval()):
        with autocast("cpu", precision):
            logits = model(**inputs)
        assert logits.dtype == torch.float32
        low = logits.to(AUTOCAST_DTYPES[precision]).float()
        assert (low != logits).any()


@pytest.mark.parametrize("backbone", [BACKBONE, OTHER_BACKBONE])
def test_what_trains_is_the_head_and_what_the_method_counts(method: str, backbone: str) -> None:
    config = make_config(method, {})
    with torch.device("meta"):
        parts = build_parts(method, config, backbone, NUM_CLASSES)
        expected = METHODS[method].count(create_backbone(backbone), config)
    if METHODS[method].gradient_free:
        counts = count_parameters(method, config, backbone, NUM_CLASSES)
        assert expected == counts["trainable_total"] == counts["trainable_head"] == counts["trainable"] == 0
        assert counts["percent"] == 0 < counts["frozen"] and not list(parts.model.parameters())
        return
    head: Any = parts.model.head
    assert all(parameter.requires_grad for parameter in head.parameters())
    assert sum(p.numel() for p in head.parameters()) == NUM_CLASSES * (head.in_features + 1)
    counts = count_parameters(method, config, backbone, NUM_CLASSES)
    assert (counts["trainable"], counts["trainable_head"]) == (expected, NUM_CLASSES * (head.in_features + 1))
    assert counts["trainable_total"] == counts["trainable"] + counts["trainable_head"]
    assert parts.extractor is None or not any(p.requires_grad for p in parts.extractor.parameters())


def test_two_steps_reach_every_trainable_tensor_and_no_frozen_one(trained: str) -> None:
    parts, inputs, labels = make_parts(trained)
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


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.starts_as_pretrained])
def test_a_method_that_says_so_starts_as_the_pretrained_model(method: str) -> None:
    has_storage = "feature_dtype" in {field.name for field in dataclasses.fields(METHODS[method].config)}
    parts, inputs, _ = make_parts(method, **({"feature_dtype": "float32"} if has_storage else {}))
    plain, image, _ = make_parts("full")
    plain.model.head.load_state_dict(parts.model.head.state_dict())  # type: ignore[union-attr]
    logits = evaluation_step(parts.model.eval(), inputs, "fp32", "cpu")
    expected = evaluation_step(plain.model.eval(), image, "fp32", "cpu")
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_what_is_used_after_training_computes_the_same(trained: str) -> None:
    parts, inputs, labels = make_parts(trained)
    recipe = METHODS[trained].recipe(parts.model, make_config(trained, {}), 2)
    optimization = make_optimization(parts.model, 1e-3, 0.0, "fp32", "cpu", recipe)
    for _ in range(2):
        training_step(parts.model, inputs, labels, optimization)
    expected = evaluation_step(parts.model.eval(), inputs, "fp32", "cpu")
    used = copy.deepcopy(parts.model)
    used = used if recipe.before_inference is None else recipe.before_inference(used)
    torch.testing.assert_close(evaluation_step(used.eval(), inputs, "fp32", "cpu"), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(evaluation_step(parts.model, inputs, "fp32", "cpu"), expected, rtol=0, atol=0)


def test_gradient_checkpointing_changes_no_gradient(trained: str) -> None:
    gradients = []
    for enable in (False, True):
        parts, inputs, labels = make_parts(trained)
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
        if METHODS[method].gradient_free:
            prepare(method, parts, views, torch.arange(BATCH) % NUM_CLASSES)
        logits.append(evaluation_step(parts.model.eval(), views, "fp32", "cpu"))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


D, L, S, P = 768, 12, 96, 16
PUBLISHED_PERCENT = {"full": 100.0, "vpt": 0.17, "adapter": 2.03, "lora": 0.68, "fpt": 1.81, "fpt_plus": 1.03}
# Formulas of their own, so that a method's `count` and its model cannot be wrong together.
FULL = (3 * 16 * 16 * D + D) + D + 577 * D + L * (12 * D * D + 13 * D) + 2 * D
BASE_COUNTS = {"full": FULL, "linear": 0, "lora": 589_824, "vpt": 147_456, "vpt_shallow": 7_680}
BASE_COUNTS |= {"adapter": 1_779_840, "fpt": 1_601_856, "fpt_plus": 900_480}
BASE_COUNTS |= {"bitfit": 102_912, "layernorm": 38_400, "attention": 28_348_416, "partial": 7_087_872 + 1_536}
BASE_COUNTS |= {"adaptformer": 1_189_632, "houlsby": 2_379_264, "adapter_plus": 165_984, "difffit": 140_544}
BASE_COUNTS |= {"ssf": 205_824, "convpass": 327_552, "repadapter": 239_808, "fact_tt": 21_504, "fact_tk": 30_976}
BASE_COUNTS |= {"ep": 614_400, "attentive_probe": 7_088_640}
BASE_COUNTS |= {"vqt": 9_216, "synqt": 2_761_106 - 18_469}  # the second: what the authors' code never uses
BASE_COUNTS |= {"side_tuning": (1_601_856 - 166_752) + (S * D + D) + 1}  # FPT's side network without its fusion
BASE_COUNTS |= {"lst": 2_300_748, "res_tuning_bypass": 387_312, "dtl": 36_864, "dtl_plus": 43_776}
BASE_COUNTS |= {"unipt": 1_046_305 - 1}  # without the gate's bias, which softmax does not hear
BASE_COUNTS |= {"knn": 0, "simpleshot": 0, "head2toe": 0}
LORA_16 = 4 * D * 16 * L
BASE_COUNTS |= {"dora": LORA_16 + 3 * D * L, "rslora": LORA_16, "pissa": LORA_16, "eva": LORA_16, "lora_ga": LORA_16}
BASE_COUNTS |= {"adalora": 442_512, "vera": 30_720, "ia3": 64_512, "lokr": 21_504, "loha": 589_824, "oft": 142_848}
BASE_COUNTS |= {"boft": 64_512, "hra": 73_728, "fourierft": 12_000, "randlora": 230_400, "miss": 1_769_472}
BASE_COUNTS |= {"road": 27_648, "shira": 1_179_648, "hira": 1_179_648, "delora": 294_924, "peft": 1_179_648}


@pytest.mark.parametrize("name", METHODS)
def test_counts_on_the_papers_backbone(name: str) -> None:
    assert count_parameters(name, make_config(name, {}), BASE, 5)["trainable"] == BASE_COUNTS[name]


@pytest.mark.parametrize("name", PUBLISHED_PERCENT)
def test_percent_is_the_published_one(name: str) -> None:
    assert round(count_parameters(name, make_config(name, {}), BASE, 5)["percent"], 2) == PUBLISHED_PERCENT[name]


def test_vpt_inserts_prompts_after_the_prefix_tokens_of_any_vit() -> None:
    """Against a naive forward that rebuilds the sequence at every block, on a ViT with registers."""
    torch.manual_seed(0)
    config = make_config("vpt", {"dropout": 0.0})
    name = "vit_small_patch14_reg4_dinov2"
    parts = build_parts("vpt", config, name, NUM_CLASSES, 56)
    model: Any = parts.model.eval()
    vit = model.backbone.trunk
    image = torch.randn(2, 3, 56, 56)
    x = vit._pos_embed(vit.patch_embed(image))
    assert vit.num_prefix_tokens == 5
    for index, block in enumerate(vit.blocks):
        rows = [torch.cat([row[:5], model.prompts[index], row[5:]]) for row in x]
        x = block(torch.stack(rows))
        x = torch.stack([torch.cat([row[:5], row[5 + P :]]) for row in x])
    expected = model.head(vit.norm(x)[:, 0])
    torch.testing.assert_close(model(image=image), expected, rtol=1e-5, atol=1e-5)


def test_lora_equals_the_formula() -> None:
    parts, inputs, labels = make_parts("lora", rank=4, alpha=8)
    optimization = make_optimization(parts.model, 1e-2, 0.0, "fp32", "cpu")
    for _ in range(2):
        training_step(parts.model, inputs, labels, optimization)
    model: Any = parts.model
    layer = model.backbone.trunk.blocks[3].attn.qkv
    x = torch.randn(5, 192)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 8 / 4 * (x @ down.T @ up.T)
    assert up.abs().max() > 0
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
