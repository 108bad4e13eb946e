"""Convpass and RepAdapter: against their equations on timm's own blocks, what they see, and merged."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from added import NUM_CLASSES, SIDE, SIZES, TINY, attention, awake, check_memory, count, make, mlp, tokens_of
from torch import Tensor, nn

from benchmarks.errors import UserError
from docs.tables import kept
from methods.adapters import repadapter
from methods.adapters.convpass import Config, ConvBypass

METHODS = ("convpass", "repadapter")


def conv_bypass(module: Any, num_prefix: int, x: Tensor) -> Tensor:
    """Token by token: each patch sums its nine neighbours' products with their taps, a prefix token its own alone."""
    kernel, bias = module.conv.weight, module.conv.bias
    narrow = quick_gelu(x @ module.down_proj.weight.T + module.down_proj.bias)
    side = math.isqrt(x.shape[1] - num_prefix)
    out = []
    for n in range(x.shape[1]):
        total = bias.expand(x.shape[0], -1)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                row, column = divmod(n - num_prefix, side)
                inside = 0 <= row + i < side and 0 <= column + j < side
                if (n < num_prefix and i == j == 0) or (n >= num_prefix and inside):
                    total = total + narrow[:, n + i * side + j] @ kernel[:, :, 1 + i, 1 + j].T
        out.append(total)
    return quick_gelu(torch.stack(out, dim=1)) @ module.up_proj.weight.T + module.up_proj.bias


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def convpass_block(block: Any, num_prefix: int, x: Tensor) -> Tensor:
    inner, scale1 = block.attn.branch.layer, block.attn.branch.behind[0]
    layer, scale2 = block.mlp.branch
    u = block.norm1(x)
    x = x + scale1(attention(nn.ModuleDict({"attn": inner}), u)) + conv_bypass(block.attn.module, num_prefix, u)
    u = block.norm2(x)
    return x + scale2(mlp(layer, u)) + conv_bypass(block.mlp.module, num_prefix, u)


def repadapter_block(block: Any, num_prefix: int, x: Tensor) -> Tensor:
    def bottleneck(module: Any, u: Tensor) -> Tensor:
        first, second = (u @ module.down_proj.weight.T + module.down_proj.bias).chunk(2, dim=-1)
        up = module.up_weight
        return u + torch.cat([first @ up[0].T, second @ up[1].T], dim=-1) + module.up_bias

    (norm1, adapter1), (norm2, adapter2) = block.norm1, block.norm2
    x = x + block.ls1(attention(block, bottleneck(adapter1, norm1(x))))
    return x + block.ls2(mlp(block.mlp, bottleneck(adapter2, norm2(x))))


BLOCKS = {"convpass": convpass_block, "repadapter": repadapter_block}


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_it_computes_its_equation(method: str, backbone: str) -> None:
    model, image = awake(make(method, backbone)), torch.randn(2, 3, SIDE, SIDE)
    vit = model.backbone.trunk
    with torch.no_grad():
        x = tokens_of(vit, image)
        for block in vit.blocks:
            x = BLOCKS[method](block, vit.num_prefix_tokens, x)
        torch.testing.assert_close(model(image=image), model.head(vit.norm(x)[:, 0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("rank", [2, 8])
def test_counts_are_the_closed_formulas(backbone: str, rank: int) -> None:
    width, depth = SIZES[backbone]
    both = 2 * width * rank + rank + width
    assert count("convpass", backbone, bottleneck_dim=rank) == 2 * depth * (both + 9 * rank**2 + rank)
    for groups in (1, 2):
        expected = 2 * depth * (width * rank + rank + width * rank // groups + width)
        assert count("repadapter", backbone, bottleneck_dim=rank, groups=groups) == expected


# Convpass.


def bypass(num_prefix: int) -> Any:
    torch.manual_seed(0)
    module = ConvBypass(12, num_prefix, Config(dropout=0.0))
    nn.init.normal_(module.up_proj.weight)
    return module


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_it_starts_as_a_bottleneck_without_a_convolution(num_prefix: int) -> None:
    """With two nonlinearities."""
    module, x = bypass(num_prefix), torch.randn(2, num_prefix + 16, 12)
    narrow = quick_gelu(quick_gelu(x @ module.down_proj.weight.T))
    torch.testing.assert_close(module(x), narrow @ module.up_proj.weight.T)


@pytest.mark.parametrize(("patch", "neighbours"), [(0, 4), (1, 6), (5, 9), (15, 4)])
def test_a_patch_is_seen_by_itself_and_its_neighbours_alone(patch: int, neighbours: int) -> None:
    module, x = bypass(1), torch.randn(1, 17, 12)
    nn.init.normal_(module.conv.weight)
    other = x.clone()
    other[:, 1 + patch] += 1
    moved = (module(other) != module(x)).any(dim=-1)[0]
    assert moved.sum() == neighbours and moved[1 + patch] and not moved[0]


# RepAdapter.

MERGED = [
    *("vit_tiny_patch16_224[depth=2]", "vit_tiny_patch16_224[depth=2,qkv_bias=false]"),
    "aimv2_large_patch14_224[depth=2,embed_dim=48,num_heads=3]",
    *(f"vit_small_patch16_dinov3{kind}[depth=2]" for kind in ("", "_qkvb")),
    *(f"eva02_{size}_patch14_224[depth=2,embed_dim=48,num_heads=3]" for size in ("tiny", "base")),
    *("vit_pe_core_tiny_patch16_384[depth=2]", "beit_base_patch16_224[depth=2,embed_dim=48,num_heads=3]"),
]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("backbone", MERGED)
def test_merged_computes_the_same_with_none_of_its_bottlenecks(backbone: str, groups: int) -> None:
    """Whatever the projections: joint or apart, with biases, without, or with biases beside them."""
    model = awake(make("repadapter", backbone, 64 if "16" in backbone else 56, groups=groups), 0.3).double()
    image = torch.randn(2, 3, 64 if "16" in backbone else 56, 64 if "16" in backbone else 56).double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    merged = repadapter.merge(copy.deepcopy(model))
    assert not any(isinstance(module, repadapter.LinearAdapter) for module in merged.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    with torch.no_grad():
        expected = model(image=image)
        torch.testing.assert_close(merged(image=image), expected, rtol=1e-8, atol=1e-8)
        for name, parameter in model.named_parameters():
            if ".up_" in name:
                parameter.zero_()
        assert (model(image=image) - expected).abs().max() > 1e-6


def test_as_one_layer_it_is_what_it_computes() -> None:
    torch.manual_seed(0)
    module = repadapter.LinearAdapter(12, repadapter.Config(bottleneck_dim=4, scale=0.5)).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 12)
    torch.testing.assert_close(F.linear(x, *module.affine()), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, r"groups must divide bottleneck_dim, 8, got 3 \(an option of repadapter\)"),
        ({"groups": 5, "bottleneck_dim": 10}, r"groups must divide the backbone's width, 192, got 5 \(an option"),
    ],
)
def test_groups_that_do_not_divide_the_widths_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("repadapter", TINY, **options)


# Both.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("backbone", "reason"), [("resnet18", "no attention"), ("swinv2_tiny_window8_256", "norms behind the branches")]
)
def test_it_is_refused_where_no_branch_reads_a_norm(method: str, backbone: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"backbone must suit {method}, got '{backbone}', which has {reason}"):
        make(method, backbone, 64)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_is_of_training_alone(method: str) -> None:
    model, image = awake(make(method, dropout=0.5)), torch.randn(1, 3, SIDE, SIDE)
    assert model(image=image).shape == (1, NUM_CLASSES)
    assert torch.equal(model(image=image), model(image=image))
    assert not torch.equal(model.train()(image=image), model(image=image))


def test_a_block_keeps_the_inputs_of_its_layers() -> None:
    """Beside the 10 N·D of every gradient, both norms' outputs."""
    assert [kept(method) for method in METHODS] == ["12.2", "12.1"]


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_predicted_in_every_phase(method: str) -> None:
    check_memory(method)
