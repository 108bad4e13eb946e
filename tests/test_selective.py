"""The methods that train some of the backbone's own parameters: which, against names; and what batch norms do."""

import dataclasses
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.build import Parts, build_parts, count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.training.step import extraction_step, make_optimization, training_step
from docs.tables import _saved_elements, kept, kept_by_block

NUM_CLASSES = 3
SIDE = 56
# Width, depth, and parameters of a block beside attention, MLP and norms: two layer scales.
TINY, SMALL = "vit_tiny_patch16_224[depth=3]", "vit_small_patch14_reg4_dinov2[depth=4]"
SIZES = {TINY: (192, 3, 0), SMALL: (384, 4, 2 * 384)}
Options = dict[str, Any]
METHODS: list[tuple[str, Options]] = [
    *(("bitfit", {}), ("layernorm", {}), ("attention", {}), ("partial", {})),
    ("partial", {"num_blocks": 2}),
]


def make(method: str, backbone: str, options: Options | None = None, side: int = SIDE) -> Parts:
    torch.manual_seed(0)
    return build_parts(method, make_config(method, options or {}), backbone, NUM_CLASSES, side)


def on_meta(method: str, backbone: str, options: Options | None = None) -> nn.Module:
    with torch.device("meta"):
        return build_parts(method, make_config(method, options or {}), backbone, NUM_CLASSES).model


def trained(model: nn.Module) -> set[str]:
    """Names, as timm's, of what trains beside the head."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} <= names
    return {name.removeprefix("backbone.trunk.") for name in names - {"head.weight", "head.bias"}}


def all_names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.backbone.trunk.named_parameters()}  # type: ignore[union-attr]


def by_name(method: str, options: Options, depth: int) -> str:
    """A pattern of the names of timm's ViT that a method trains."""
    last = "|".join(str(index) for index in range(depth - options.get("num_blocks", 1), depth))
    return {
        "bitfit": r".*\.bias",
        "layernorm": r"(blocks\.\d+\.norm[12]|norm)\.(weight|bias)",
        "attention": r"blocks\.\d+\.attn\.(qkv|proj)\.(weight|bias)",
        "partial": rf"blocks\.({last})\..*|norm\.(weight|bias)",
    }[method]


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_what_trains_goes_by_the_names_of_timms_vit(method: str, options: Options, backbone: str) -> None:
    model = on_meta(method, backbone, options)
    pattern = by_name(method, options, SIZES[backbone][1])
    assert trained(model) == {name for name in all_names(model) if re.fullmatch(pattern, name)} != set()


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_counts_are_the_closed_formulas(method: str, options: Options, backbone: str) -> None:
    (width, depth, scales), last = SIZES[backbone], options.get("num_blocks", 1)
    expected = {
        "bitfit": depth * 11 * width + 2 * width,
        "layernorm": depth * 4 * width + 2 * width,
        "attention": depth * (4 * width**2 + 4 * width),
        "partial": last * (12 * width**2 + 13 * width + scales) + 2 * width,
    }
    counts = count_parameters(method, make_config(method, options), backbone, NUM_CLASSES)
    assert counts["trainable"] == expected[method]


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_gradients_are_those_of_full_fine_tuning(method: str, options: Options, backbone: str) -> None:
    image, labels = torch.randn(4, 3, SIDE, SIDE), torch.arange(4) % NUM_CLASSES
    found = []
    for model in (make("full", backbone).model, make(method, backbone, options).model):
        F.cross_entropy(model(image=image), labels).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    full, own = found
    assert own.keys() == {f"backbone.trunk.{name}" for name in trained(model)} | {"head.weight", "head.bias"}
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, full[name], rtol=1e-5, atol=1e-7)


def test_the_biases_of_keys_stay_as_they_are() -> None:
    """Up to rounding, as a softmax is the same whatever is added to all its scores; queries' and values' move."""
    model: Any = make("bitfit", TINY).model
    F.cross_entropy(model(image=torch.randn(4, 3, SIDE, SIDE)), torch.arange(4) % NUM_CLASSES).backward()
    for block in model.backbone.blocks():
        query, key, value = block.attn.qkv.bias.grad.split(192)
        assert key.abs().max() < 1e-4 * min(query.abs().max(), value.abs().max())


# Other families; patterns of timm's names by method.
FAMILIES: dict[str, dict[str, str]] = {
    "vit_small_patch16_dinov3[depth=2]": {
        "bitfit": r"(patch_embed\.proj|norm|blocks\.\d\.(norm[12]|attn\.proj|mlp\.fc[12]))\.bias",
        "attention": r"blocks\.\d\.attn\.(qkv\.weight|proj\.(weight|bias))",
        "partial": r"blocks\.1\..*|norm\..*",
    },
    "vit_small_patch16_dinov3_qkvb[depth=2]": {
        "bitfit": r"(patch_embed\.proj|norm|blocks\.\d\.(norm[12]|attn\.proj|mlp\.fc[12]))\.bias|.*\.attn\.[qv]_bias",
        "attention": r"blocks\.\d\.attn\.(qkv\.weight|proj\.(weight|bias)|[qv]_bias)",
    },
    "eva02_base_patch14_224[depth=2]": {
        "bitfit": r".*bias",
        "layernorm": r"(blocks\.\d\.(norm[12]|mlp\.norm)|fc_norm)\..*",
        "attention": r"blocks\.\d\.attn\..*",
    },
    "beit_base_patch16_224[depth=2]": {
        "bitfit": r"((patch_embed|.*\.attn)\.proj|fc_norm|blocks\.\d\.(norm[12]|mlp\.fc[12]))\.bias|.*\.[qv]_bias",
        "layernorm": r"(blocks\.\d\.norm[12]|fc_norm)\..*",
        "attention": r".*\.attn\..*",
        "partial": r"blocks\.1\..*|fc_norm\..*",
    },
    "vit_base_patch16_xp_224[depth=2]": {"bitfit": r".*bias"},
    "swinv2_tiny_window8_256": {
        "bitfit": r".*bias",
        "layernorm": r"(.*\.)?norm[12]?\..*",
        "attention": r".*\.attn\..*",
        "partial": r"layers\.3\.blocks\.1\..*|norm\..*",
    },
    "convnextv2_atto": {
        "bitfit": r".*\.bias",
        "layernorm": r"(.*\.norm|.*\.grn|stem\.1|stages\.\d\.downsample\.0)\..*",
        "partial": r"stages\.3\.blocks\.1\..*|head\.norm\..*",
    },
    "resnet18": {
        "bitfit": r".*\.bias|bn1\.bias",
        "layernorm": r"(.*\.)?(bn[12]|downsample\.1)\..*",
        "partial": r"layer4\.1\..*",
    },
}
CASES = [(backbone, method) for backbone, patterns in FAMILIES.items() for method in patterns]


@pytest.mark.parametrize(("backbone", "method"), CASES)
def test_what_trains_in_other_families_goes_by_timms_names(backbone: str, method: str) -> None:
    model = on_meta(method, backbone)
    assert trained(model) == {name for name in all_names(model) if re.fullmatch(FAMILIES[backbone][method], name)}


def test_a_trained_block_has_the_downsampling_in_front_of_it() -> None:
    def parts(num_blocks: int) -> set[str]:
        names = trained(on_meta("partial", "convnextv2_atto", {"num_blocks": num_blocks}))
        return {".".join(name.split(".")[: 4 if "blocks" in name else 3]) for name in names}

    last = {"stages.3.blocks.1", "head.norm.weight", "head.norm.bias"}
    stage = {"stages.3.downsample", "stages.3.blocks.0"}
    assert (parts(1), parts(2), parts(3)) == (last, last | stage, last | stage | {"stages.2.blocks.5"})


# Refusals.


def test_bitfit_is_refused_where_there_is_no_bias() -> None:
    bare = "vit_tiny_patch16_224[depth=2,norm_layer=RmsNorm,pre_norm=true,proj_bias=false,qkv_bias=false]"
    with pytest.raises(UserError, match="bitfit must have parameters to train beside its head, got none"):
        make("bitfit", bare)


def test_no_more_blocks_train_than_there_are() -> None:
    assert trained(on_meta("partial", TINY, {"num_blocks": 3})) >= {"blocks.0.attn.qkv.weight", "norm.bias"}
    with pytest.raises(UserError, match=r"num_blocks must be at most 3, the backbone's blocks, got 4 \(an option"):
        on_meta("partial", TINY, {"num_blocks": 4})


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        *(("resnet18", "no attention"), ("convnext_atto", "no attention")),
        ("vit_base_patch16_xp_224", r"blocks of another kind \(ParallelScalingBlock\)"),
        ("efficientnet_b0", r"no description of networks like it \(EfficientNet\)"),
    ],
)
def test_attention_is_refused_where_there_are_no_layers_of_it(backbone: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"backbone must suit attention, got '{backbone}', which has {reason}"):
        on_meta("attention", backbone)


def test_partial_is_refused_where_blocks_are_not_known() -> None:
    with pytest.raises(UserError, match=r"backbone must suit partial, got 'efficientnet_b0', which has no description"):
        on_meta("partial", "efficientnet_b0")


# Memory.


def test_a_block_keeps_what_its_gradients_need() -> None:
    """By hand, N·D: what a gradient that passes needs is 10; the normalised input of qkv makes 11."""
    assert [kept(name) for name in ("bitfit", "layernorm", "attention")] == ["10.0", "10.0", "11.0"]


def test_frozen_blocks_below_the_trained_ones_keep_nothing() -> None:
    assert _saved_elements("partial", 3) == _saved_elements("partial", 2)
    assert kept_by_block("partial") == "16.0; frozen 0.0"


def point(method: str, depth: int = 3, **options: Any) -> MemoryPoint:
    backbone = f"vit_tiny_patch16_224[depth={depth}]"
    return MemoryPoint(method, 64, 64, backbone, NUM_CLASSES, options=tuple(options.items()))


def activations(predicted: dict[str, int]) -> int:
    return sum(size for name, size in predicted.items() if name.startswith("activations"))


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_memory_is_predicted_in_every_phase(method: str, options: Options) -> None:
    """States of the optimiser are two numbers a trainable one; weights are the same in training and in use."""
    asked = point(method, **options)
    phases = predict_memory(asked).phases
    assert list(phases) == ["setup", "train", "eval"]
    counts = count_parameters(method, make_config(method, options), asked.backbone, NUM_CLASSES)
    states = phases["train"].breakdown["optimizer_state"]
    small = 512 * 2 * 40  # what the allocator rounds vectors up by
    assert 8 * counts["trainable_total"] <= states <= 8 * counts["trainable_total"] + small
    assert phases["train"].breakdown["parameters"] == phases["eval"].breakdown["parameters"]
    full = predict_memory(point("full")).phases
    used, used_full = (each["eval"].allocated - each["eval"].breakdown["optimizer_state"] for each in (phases, full))
    assert used == pytest.approx(used_full, rel=1e-3)
    assert activations(phases["train"].breakdown) < activations(full["train"].breakdown)


def test_the_memory_of_activations_goes_with_the_trained_blocks_alone() -> None:
    def kept_bytes(depth: int, num_blocks: int, checkpointing: bool = False) -> int:
        asked = dataclasses.replace(point("partial", depth, num_blocks=num_blocks), grad_checkpointing=checkpointing)
        return activations(predict_memory(asked).phases["train"].breakdown)

    one, two, three = (kept_bytes(6, num_blocks) for num_blocks in (1, 2, 3))
    assert three - two == two - one > 0
    assert kept_bytes(3, 1) == one
    assert kept_bytes(3, 1, checkpointing=True) == kept_bytes(6, 1, checkpointing=True)


# Batch norms.

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def changed(method: str) -> set[str]:
    """The batch norms of a ResNet whose running statistics two steps changed, all three of them or none."""
    parts = make(method, "resnet18", side=64)
    network: Any = (parts.model if parts.extractor is None else parts.extractor).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    optimization = make_optimization(parts.model, 1e-3, 0.0, "fp32", "cpu")
    for _ in range(2):
        image, labels = torch.randn(4, 3, 64, 64), torch.arange(4) % NUM_CLASSES
        inputs = {"image": image} if parts.extractor is None else extraction_step(network, image, "fp32", "cpu")
        training_step(parts.model, inputs, labels, optimization)
    found = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    layers = {name.rpartition(".")[0] for name in found}
    assert len(before) == 20 * 3 and found == {f"{layer}.{name}" for layer in layers for name in STATISTICS}
    return {layer.removeprefix("backbone.trunk.") for layer in layers}


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_a_frozen_batch_norm_keeps_its_statistics(method: str) -> None:
    assert changed(method) == set()


@pytest.mark.parametrize("method", ["full", "layernorm", "bitfit"])
def test_a_batch_norm_that_trains_follows_the_batches(method: str) -> None:
    network: Any = make(method, "resnet18", side=64).model
    trunk = network.backbone.trunk
    every = {name for name, module in trunk.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert len(every) == 20
    assert changed(method) == every


def test_of_batch_norms_those_of_the_trained_blocks_alone_follow_the_batches() -> None:
    assert changed("partial") == {"layer4.1.bn1", "layer4.1.bn2"}


def test_a_batch_norm_that_trains_is_used_with_its_running_statistics() -> None:
    """Against their update, by hand, and one image's logits against the same image's in a batch."""
    model: Any = make("layernorm", "resnet18", side=64).model
    image = torch.randn(4, 3, 64, 64)
    trunk = model.backbone.trunk
    seen = trunk.conv1(image).mean(dim=(0, 2, 3)).detach()
    model(image=image)
    torch.testing.assert_close(trunk.bn1.running_mean, 0.1 * seen)
    model.eval()
    torch.testing.assert_close(model(image=image[:1]), model(image=image)[:1], rtol=1e-4, atol=1e-5)
