"""FacT-TT and FacT-TK: every update by its equation added to a plain ViT's weights, counts, refusals, memory."""

import copy
from typing import Any

import pytest
import torch
from added import NUM_CLASSES, SIDE, SIZES, awake, check_memory, count, make
from torch import Tensor

from benchmarks.errors import UserError
from docs.tables import kept
from methods.low_rank.fact_tt import TensorUpdate, merge

METHODS = ("fact_tt", "fact_tk")
# Squares of a block of timm's ViT: layer, row and column of squares, in the order of their numbers.
SQUARES = [
    *(("attn.qkv", row, 0) for row in range(3)),
    ("attn.proj", 0, 0),
    *(("mlp.fc1", row, 0) for row in range(4)),
    *(("mlp.fc2", 0, column) for column in range(4)),
]


def core(method: str, factors: Any, number: int) -> Tensor:
    """S of a square: its own, or the core's slices weighed by its column."""
    if method == "fact_tt":
        return factors.core[number]
    return sum(factors.core[:, :, k] * factors.columns[k, number] for k in range(len(factors.columns)))


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_plain_vit_with_updated_weights(method: str, backbone: str) -> None:
    """Square by square: an input row passes U, S and V, one after another."""
    model: Any = awake(make(method, backbone, scale=0.5))
    plain: Any = make("full", backbone).eval()
    width, depth = SIZES[backbone]
    state = {name.replace(".layer.", "."): tensor for name, tensor in model.state_dict().items()}
    plain.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("factors.")})
    with torch.no_grad():
        for number in range(12 * depth):
            block, (layer, row, column) = plain.backbone.trunk.blocks[number // 12], SQUARES[number % 12]
            update = model.factors.down.T @ core(method, model.factors, number) @ model.factors.up.T  # input, output
            rows, columns = slice(row * width, (row + 1) * width), slice(column * width, (column + 1) * width)
            block.get_submodule(layer).weight[rows, columns] += 0.5 * update.T
        image = torch.randn(2, 3, SIDE, SIDE)
        expected = plain(image=image)
        torch.testing.assert_close(model(image=image), expected, rtol=1e-4, atol=1e-4)
        model.factors.up.zero_()
        assert (model(image=image) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("rank", [2, 16])
def test_counts_are_the_closed_formulas(backbone: str, rank: int) -> None:
    width, depth = SIZES[backbone]
    assert count("fact_tt", backbone, rank=rank) == 2 * width * rank + 12 * depth * rank**2
    assert count("fact_tk", backbone, rank=rank) == 2 * width * rank + rank**3 + 12 * depth * rank


def test_counts_are_the_published_ones() -> None:
    """Of a ViT-B, in the paper's ranks."""
    base = "vit_base_patch16_224"
    assert (count("fact_tt", base, rank=16), count("fact_tk", base, rank=32)) == (61_440, 86_528)


MERGED = [
    *("vit_tiny_patch16_224[depth=2]", "vit_tiny_patch16_224[depth=2,qkv_bias=false]"),
    *(f"vit_small_patch16_dinov3{kind}[depth=2]" for kind in ("", "_qkvb")),
    *("vit_pe_core_tiny_patch16_384[depth=2]", "beit_base_patch16_224[depth=2,embed_dim=48,num_heads=3]"),
]


@pytest.mark.parametrize("backbone", MERGED)
@pytest.mark.parametrize("method", METHODS)
def test_merged_computes_the_same_with_none_of_its_factors(method: str, backbone: str) -> None:
    model, image = awake(make(method, backbone, 64)).double(), torch.randn(2, 3, 64, 64).double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    merged: Any = merge(copy.deepcopy(model))
    assert not any(isinstance(module, TensorUpdate) for module in merged.modules())
    assert {name for name, p in merged.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(merged(image=image), model(image=image), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_factors_are_stored_once_and_follow_a_copy(method: str) -> None:
    """The layers' hold on them is none of their state; a copy's layers have the copy's factors."""
    model: Any = awake(make(method))
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len(model.state_dict())
    assert {name for name in names if "factors" in name} == {name for name in names if name.startswith("factors.")}
    image, other = torch.randn(1, 3, SIDE, SIDE), copy.deepcopy(model)
    before = model(image=image)
    with torch.no_grad():
        other.factors.up.zero_()
    assert before.shape == (1, NUM_CLASSES) and torch.equal(model(image=image), before)
    assert not torch.equal(other(image=image), before)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_is_of_training_alone(method: str) -> None:
    model, image = awake(make(method, dropout=0.5)), torch.randn(1, 3, SIDE, SIDE)
    assert torch.equal(model(image=image), model(image=image))
    assert not torch.equal(model.train()(image=image), model(image=image))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        *(("resnet18", "no attention"), ("swinv2_tiny_window8_256", "stages of different widths")),
        ("eva02_base_patch14_224", "linear layers whose sizes are no multiples of its width"),
        ("vit_base_patch16_rpn_224", r"blocks of another kind \(ResPostBlock\)"),
        ("efficientnet_b0", "no description of networks like it"),
    ],
)
def test_it_is_refused_where_layers_are_not_made_of_squares(method: str, backbone: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"backbone must suit {method}, got '{backbone}', which has .*{reason}"):
        make(method, backbone, 64)


def test_a_block_keeps_the_inputs_of_all_its_layers() -> None:
    """As full fine-tuning, 16 N·D, and what passes the factors."""
    assert [kept(method) for method in METHODS] == ["16.3", "16.5"]


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_predicted_in_every_phase(method: str) -> None:
    check_memory(method, more_than_full=True)
