"""Bottlenecks at other places than the adapter's: against their equations on timm's own blocks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from added import NUM_CLASSES, SIDE, SIZES, attention, awake, check_memory, count, make, mlp, tokens_of
from torch import Tensor

from benchmarks.errors import UserError
from benchmarks.model.method_config import make_config
from docs.tables import kept

METHODS = ("adaptformer", "houlsby", "adapter_plus")
Act = Callable[[Tensor], Tensor]


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def bottleneck(adapter: Any, act: Act, x: Tensor) -> Tensor:
    """up(act(down(x))), token by token."""
    down, up = adapter.down_proj, adapter.up_proj
    return act(x @ down.weight.T + down.bias) @ up.weight.T + up.bias


def adaptformer_block(block: Any, x: Tensor) -> Tensor:
    """What stood in the block: its norm, MLP and layer scale."""
    (norm, layer, scale), adapter = block.mlp.branch, block.mlp.module
    x = x + block.ls1(attention(block, block.norm1(x)))
    return x + scale(mlp(layer, norm(x))) + 0.1 * bottleneck(adapter, relu, x)


def houlsby_block(block: Any, x: Tensor) -> Tensor:
    (scale1, adapter1), (scale2, adapter2) = block.ls1, block.ls2
    h = scale1(attention(block, block.norm1(x)))
    x = x + h + bottleneck(adapter1, gelu, h)
    h = scale2(mlp(block.mlp, block.norm2(x)))
    return x + h + bottleneck(adapter2, gelu, h)


def adapter_plus_block(block: Any, x: Tensor) -> Tensor:
    block, (adapter,) = block.layer, block.behind
    x = x + block.ls1(attention(block, block.norm1(x)))
    x = x + block.ls2(mlp(block.mlp, block.norm2(x)))
    return x + adapter.scale * bottleneck(adapter, gelu, x)


BLOCKS = {"adaptformer": adaptformer_block, "houlsby": houlsby_block, "adapter_plus": adapter_plus_block}


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_it_computes_its_equation(method: str, backbone: str) -> None:
    model, image = awake(make(method, backbone)), torch.randn(2, 3, SIDE, SIDE)
    vit = model.backbone.trunk
    with torch.no_grad():
        x = tokens_of(vit, image)
        for block in vit.blocks:
            x = BLOCKS[method](block, x)
        torch.testing.assert_close(model(image=image), model.head(vit.norm(x)[:, 0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_with_its_up_projections_at_zero_it_is_the_plain_vit(method: str, backbone: str) -> None:
    model, plain = make(method, backbone).eval(), make("full", backbone).eval()
    image = torch.randn(2, 3, SIDE, SIDE)
    plain.head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "up_proj" in name:
                parameter.zero_()
        torch.testing.assert_close(model(image=image), plain(image=image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("rank", [1, 8])
def test_counts_are_the_closed_formulas(backbone: str, rank: int) -> None:
    width, depth = SIZES[backbone]
    one = 2 * width * rank + rank + width
    found = {method: count(method, backbone, bottleneck_dim=rank) for method in METHODS}
    assert found == {"adaptformer": depth * one, "houlsby": 2 * depth * one, "adapter_plus": depth * (one + width)}


def test_counts_are_the_published_ones() -> None:
    """Of Steitz & Roth's tables: Adapter+ of rank 16 has as many as Houlsby's of rank 8."""
    base = "vit_base_patch16_224"
    assert count("adapter_plus", base, bottleneck_dim=16) == count("houlsby", base, bottleneck_dim=8) == 313_536


@pytest.mark.parametrize("method", ["houlsby", "adapter_plus"])
def test_it_starts_near_the_pretrained_model(method: str) -> None:
    """Both projections normal, cut at twice their deviation; far from it with a large one."""
    model = make(method, std=0.02)
    weights = torch.cat(
        [p.flatten() for name, p in model.named_parameters() if name.endswith(("down_proj.weight", "up_proj.weight"))]
    )
    assert weights.abs().max() <= 0.04
    assert weights.std().item() == pytest.approx(0.02 * 0.8796, rel=0.02)  # of a normal that is cut at 2
    image, logits = torch.randn(2, 3, SIDE, SIDE), []
    for std in (1e-6, 0.01, 1.0):
        with torch.no_grad():
            logits.append(make(method, std=std).eval()(image=image))
    assert (logits[1] - logits[0]).abs().max() < 0.05 < 0.1 < (logits[2] - logits[0]).abs().max()


def test_dropout_is_of_the_bottleneck_alone_and_of_training_alone() -> None:
    adapter: Any = make("adaptformer", dropout=0.5).backbone.blocks()[0].mlp.module
    torch.nn.init.ones_(adapter.up_proj.weight)
    x = torch.randn(1, 1, 192).expand(1, 4000, 192)
    with torch.no_grad():
        dropped, whole = adapter.train()(x)[..., 0], adapter.eval()(x)[..., 0]
    assert dropped.std() > 0 and whole.std() < 1e-5
    assert dropped.mean().item() == pytest.approx(whole.mean().item(), rel=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bottleneck_dim": 0}, "bottleneck_dim of .* must be a whole number, at least 1, got 0"),
        ({"bottleneck": 8}, "option of .* must be one of lr, .*, got 'bottleneck'"),
    ],
)
def test_options_that_make_no_sense_are_refused(method: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(method, options)


@pytest.mark.parametrize("method", ["adaptformer", "houlsby"])
@pytest.mark.parametrize("backbone", ["convnext_atto", "resnet18"])
def test_it_is_refused_where_there_is_no_attention(method: str, backbone: str) -> None:
    with pytest.raises(UserError, match=f"backbone must suit {method}, got '{backbone}', which has no attention"):
        make(method, backbone, 64)


@pytest.mark.parametrize(
    ("backbone", "widths"),
    [
        ("convnext_atto", [40, 40, 80, 80, *[160] * 6, 320, 320]),
        ("resnet18", [64, 64, 128, 128, 256, 256, 512, 512]),
    ],
)
def test_adapter_plus_stands_behind_blocks_of_any_kind(backbone: str, widths: list[int]) -> None:
    assert count("adapter_plus", backbone) == sum(2 * 8 * width + 8 + 2 * width for width in widths)
    assert make("adapter_plus", backbone, 64).eval()(image=torch.randn(1, 3, 64, 64)).shape == (1, NUM_CLASSES)


def test_a_block_keeps_little_beside_what_every_gradient_needs() -> None:
    """10 N·D, and the bottlenecks' inputs where those are not kept anyway."""
    assert [kept(method) for method in METHODS] == ["10.3", "12.4", "12.0"]


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_predicted_in_every_phase(method: str) -> None:
    check_memory(method)
