"""Quantised frozen weights: their bits, their gradients, and what is quantised of each method."""

import copy
import gc
import itertools
import math
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_backbones import NARROW, OTHERS, ROTARY, SMALL
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.config import NO_SAVERS, Precision, Quantize, Savers
from benchmarks.errors import UserError
from benchmarks.memory.phases import synthetic_images
from benchmarks.memory.point import MemoryPoint
from benchmarks.model.build import Parts, build_parts
from benchmarks.model.choose import choose_variants
from benchmarks.model.method_config import make_config
from benchmarks.training.frozen import save_weights
from benchmarks.training.quantized import (
    NF4,
    Kind,
    QuantizedLinear,
    dequantize,
    dequantized,
    quantize_frozen,
    quantized,
    values_of_bytes,
)
from benchmarks.training.savers import check_savers, why_not_quantized
from benchmarks.training.step import GivenBatches, extraction_step, make_optimization, training_step
from methods import METHODS
from methods.contract import IMAGE, Head

BACKBONE = f"vit_tiny_patch16_224[{SMALL}]"
KINDS: tuple[Kind, ...] = ("int8", "nf4")
REFUSED = {  # method: why
    "full": "leaves no linear layer of the backbone frozen",
    "eva": "starts from data with weights in fp32",
    "lora_ga": "starts from data with weights in fp32",
}


def restored(weight: Tensor, kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and scales of a weight, and what they stand for."""
    codes, scales = quantized(weight, kind)
    table = values_of_bytes() if kind == "nf4" else None
    return codes, scales, dequantized(codes, scales, table, (weight.shape[0], weight.shape[1]))


# 1. Bits.


@pytest.mark.parametrize("shape", [(64, 128), (48, 192), (768, 64), (3, 64)])
def test_int8_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    ops = pytest.importorskip("bitsandbytes") and torch.ops.bitsandbytes
    weight = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codes, scales, found = restored(weight, "int8")
    theirs, largest, _ = ops.int8_vectorwise_quant(weight.clone())
    assert torch.equal(codes, theirs)
    torch.testing.assert_close(scales[:, 0], largest / 127, rtol=0, atol=0)
    torch.testing.assert_close(found, ops.int8_vectorwise_dequant(theirs, largest), rtol=3e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 128), (48, 192), (768, 64), (3, 64)])
def test_nf4_is_that_of_bitsandbytes_bit_for_bit(shape: tuple[int, int], dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    weight = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codes, scales, found = restored(weight, "nf4")
    theirs, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    assert torch.equal(codes, theirs[:, 0]) and torch.equal(scales[:, 0], state.absmax)
    state.dtype = dtype
    assert torch.equal(found.to(dtype), functional.dequantize_4bit(theirs, state))


@pytest.mark.parametrize("shape", [(64, 128), (48, 144), (5, 7)])
def test_nf4_is_the_nearest_of_its_values_in_a_naive_loop(shape: tuple[int, int]) -> None:
    """Also where rows end inside a block, and the last block is not full."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    *_, found = restored(weight, "nf4")
    flat, expected = weight.flatten().tolist(), []
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        largest = max(map(abs, block))
        expected += [largest * min(NF4, key=lambda value: abs(value - one / largest)) for one in block]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected), rtol=1e-6, atol=0)


def test_rounding_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    _, scales, found = restored(weight, "int8")
    assert ((weight - found).abs() <= scales / 2 * (1 + 1e-4)).all()
    _, scales, found = restored(weight, "nf4")
    widest = max(second - first for first, second in itertools.pairwise(NF4))
    assert ((weight - found).abs().view(-1, 64) <= scales * widest / 2 * (1 + 1e-4)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_the_largest_weights_stay(kind: Kind) -> None:
    weight = torch.randn(4, 64)
    weight[1], weight[2, 5] = 0, 1e-30
    *_, found = restored(weight, kind)
    assert torch.equal(found[1], weight[1]) and found.isfinite().all()
    place = weight[0].abs().argmax()
    torch.testing.assert_close(found[0, place], weight[0, place], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kind", "num_bytes"), [("int8", 144 * 48 + 4 * 144), ("nf4", 144 * 24 + 4 * 108 + 2048)])
def test_bytes_of_a_layer(kind: Kind, num_bytes: int) -> None:
    layer = QuantizedLinear(nn.Linear(48, 144, bias=False), kind)
    assert sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers())) == num_bytes


# 2. A layer.


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_and_its_gradients_are_those_of_its_dequantised_weight(kind: Kind, precision: Precision) -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(48, 144), kind)
    x, upstream = torch.randn(2, 5, 48), torch.randn(2, 5, 144)
    found = []
    for own in (layer, lambda x: F.linear(x, layer.weight, layer.bias)):
        layer.bias.grad, leaf = None, x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = own(leaf)
        output.backward(upstream.to(output.dtype))
        found.append((output, leaf.grad, layer.bias.grad))
    for first, second in zip(*found, strict=True):
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_kept_for_the_backward_pass_but_codes(kind: Kind) -> None:
    layer = QuantizedLinear(nn.Linear(64, 256), kind)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(4, 64, requires_grad=True))
    assert {tensor.untyped_storage().data_ptr() for tensor in kept} <= own


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_copied_compiled_and_written_down(kind: Kind) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer, x = QuantizedLinear(nn.Linear(48, 144), kind), torch.randn(4, 48, requires_grad=True)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    (grad,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(grad, layer.weight.sum(0).expand(4, -1))
    other = QuantizedLinear(nn.Linear(48, 144), kind)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected) and "table" not in layer.state_dict()


def test_a_quantised_weight_cannot_begin_to_train() -> None:
    with pytest.raises(RuntimeError, match="floating point"):
        QuantizedLinear(nn.Linear(48, 144), "nf4").requires_grad_(True)


# 3. Methods.


def made(method: str, kind: Quantize, backbone: str = BACKBONE, side: int = 64, **options: Any) -> Parts:
    """A method on a small backbone, from one seed."""
    torch.manual_seed(0)
    options |= NARROW.get(method, {}) | ({"side_reduction": 4} if method in ("fpt", "fpt_plus") else {})
    parts = build_parts(method, make_config(method, options), backbone, 3, side)
    save_weights(parts, Savers(quantize=kind))
    return parts


def layers_of(parts: Parts) -> dict[str, QuantizedLinear]:
    """Quantised layers by name."""
    modules = [dict(part.named_modules()) for part in (parts.model, parts.extractor) if part is not None]
    return {name: layer for each in modules for name, layer in each.items() if isinstance(layer, QuantizedLinear)}


def inputs_of(method: str, parts: Parts, precision: Precision) -> dict[str, Tensor]:
    inputs = synthetic_images(MemoryPoint(method, 64, 4, BACKBONE), torch.device("cpu"))
    if parts.extractor is not None:
        inputs |= extraction_step(parts.extractor, inputs.pop(IMAGE), precision, "cpu")
    return inputs


def losses(method: str, parts: Parts, savers: Savers = NO_SAVERS, precision: Precision = "fp32") -> list[float]:
    """Of some steps on one batch."""
    torch.manual_seed(1)
    inputs, labels = inputs_of(method, parts, precision), torch.tensor([0, 1, 2, 0])
    recipe = METHODS[method].recipe(parts.model, make_config(method, {}), 3)
    if METHODS[method].gradient_free:
        assert recipe.prepare is not None
        recipe.prepare(parts.model, GivenBatches([(inputs, labels)] * 8))
        return []
    optimization = make_optimization(parts.model, 1e-3, 0.01, precision, "cpu", recipe, savers=savers)
    if recipe.prepare is not None:
        recipe.prepare(parts.model, GivenBatches([(inputs, labels)]))
        optimization.regroup(parts.model)
    return [training_step(parts.model, inputs, labels, optimization).item() for _ in range(3)]


def test_methods_that_cannot_have_it_are_those_refused() -> None:
    reasons = {
        method: why_not_quantized(method, make_config(method, NARROW.get(method, {})), BACKBONE) for method in METHODS
    }
    assert {method: why.removeprefix("which ") for method, why in reasons.items() if why} == REFUSED
    for variant in choose_variants(list(REFUSED), (), BACKBONE)[0]:
        with pytest.raises(
            UserError, match=f"quantize must be none for {variant.name}, which {REFUSED[variant.method]}"
        ):
            check_savers(vars(Savers(quantize="nf4")), ["fp32"], [variant], BACKBONE)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in REFUSED])
def test_every_method_trains_on_quantised_weights(method: str) -> None:
    torch.manual_seed(0)
    parts = made(method, "none")
    before = {name: parameter for name, parameter in parts.model.named_parameters() if parameter.requires_grad}
    originals = {layer: weakref.ref(layer) for layer in frozen_linear(parts)}
    assert originals
    quantize_frozen(parts, "nf4")
    alive = list(originals.values())
    originals.clear()
    gc.collect()
    assert not any(weak() is not None for weak in alive), "something else holds a layer in fp32"
    layers = layers_of(parts)
    codes = {name: layer.codes.clone() for name, layer in layers.items()}
    after = {name: parameter for name, parameter in parts.model.named_parameters() if parameter.requires_grad}
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert all(map(math.isfinite, losses(method, parts)))
    assert all(torch.equal(layer.codes, codes[name]) for name, layer in layers.items())


def frozen_linear(parts: Parts) -> set[nn.Module]:
    """Found in another way than by the code: by where a backbone has its blocks."""
    blocks = [
        module
        for part in (parts.model, parts.extractor)
        if part is not None
        for name, module in part.named_modules()
        if "trunk." in name and type(module) is nn.Linear and not module.weight.requires_grad
    ]
    return {module for module in blocks if min(module.weight.shape) >= 48}


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "vpt", "partial", "dora", "pissa", "fpt", "ssf"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_fall_and_are_close_to_those_of_plain_weights(method: str, precision: Precision) -> None:
    plain, found = (losses(method, made(method, kind), precision=precision) for kind in ("none", "int8"))
    assert found[-1] < found[0]
    assert all(math.isclose(first, second, rel_tol=0.1) for first, second in zip(plain, found, strict=True))


@pytest.mark.parametrize("method", ["lora", "dora", "shira", "partial", "vpt", "hra", "synqt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_method_computes_what_it_would_on_the_dequantised_weights(method: str, kind: Kind) -> None:
    parts, other = made(method, kind), made(method, kind)
    dequantize(other.model)
    if other.extractor is not None:
        dequantize(other.extractor)
    assert layers_of(parts) and not layers_of(other)
    assert losses(method, parts) == pytest.approx(losses(method, other), rel=1e-5)


@pytest.mark.parametrize("savers", [{"offload": "activations"}, {"recompute": "cheap"}], ids=str)
@pytest.mark.parametrize("method", ["lora", "fpt"])
def test_savers_that_keep_numbers_keep_them_beside_it(method: str, savers: dict[str, Any]) -> None:
    parts = made(method, "nf4")
    parts.model.set_grad_checkpointing("recompute" in savers)  # type: ignore[operator]
    assert losses(method, parts, Savers(**savers)) == losses(method, made(method, "nf4"))


def test_only_frozen_linear_layers_of_the_backbone_are_quantised() -> None:
    blocks = {
        f"blocks.{block}.{layer}" for block in (0, 1) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    prefix = "backbone.trunk."
    assert layers_of(made("bitfit", "nf4")).keys() == {prefix + name for name in blocks}
    tuned = {prefix + name + ".base_layer" * name.endswith("qkv") for name in blocks}
    parts = made("lora", "nf4", freeze_a=True)
    assert layers_of(parts).keys() == tuned  # LoRA-FA's A is frozen, but not the backbone's
    assert type(parts.model.head) is Head
    assert layers_of(made("partial", "nf4")).keys() == {prefix + name for name in blocks if "blocks.0" in name}
    attention = {prefix + name for name in blocks if "attn" in name}
    assert layers_of(made("attention", "nf4")).keys() == {prefix + name for name in blocks} - attention


def test_a_layer_that_several_modules_have_stays_one() -> None:
    model = nn.ModuleDict({"first": nn.Sequential(nn.Linear(4, 4)), "second": nn.Sequential()}).requires_grad_(False)
    layer = model["first"][0]  # type: ignore[index]
    layer._is_pretrained = True
    model["second"].append(layer)  # type: ignore[operator]
    quantize_frozen(Parts(model, None), "int8")
    assert isinstance(model["first"][0], QuantizedLinear)  # type: ignore[index]
    assert model["second"][0] is model["first"][0]  # type: ignore[index]


@pytest.mark.parametrize("family", ["swinv2", "convnext", "beit", "eva02, joint", "dinov3, swiglu"])
def test_families_run_on_quantised_weights(family: str) -> None:
    """Rows of some end inside a block of 64, and some read a weight themselves."""
    backbone = (OTHERS | ROTARY)[family]
    parts = made("bitfit", "nf4", backbone, 224 if "14" in backbone else 256)
    other = copy.deepcopy(parts.model)
    dequantize(other)
    image = torch.randn(1, 3, 224, 224) if "14" in backbone else torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(parts.model.eval()(image), other.eval()(image), rtol=1e-4, atol=1e-5)
