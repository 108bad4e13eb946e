"""Probes that pool the last tokens themselves: against PyTorch's attention, naive loops, and what is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_backbones import ALL, make
from torch import Tensor, nn

from benchmarks.environment import code_digest, method_files, read_sources
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.training.step import autocast
from methods import METHODS
from methods.probes.attentive_probe import AttentiveProbe
from methods.probes.ep import EfficientProbe

B, N, D, C = 3, 11, 24, 4


def tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return (2 * torch.randn(B, N, D) + 0.5).to(dtype)


def awake(model: nn.Module) -> Any:
    """All parameters at random: what starts at 0 or 1 would hide where it goes."""
    torch.manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def saved_bytes(function: Callable[[], Tensor], model: nn.Module) -> int:
    """Of what a forward pass keeps for the backward pass, parameters and views of them aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert function().requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def naive_ep(model: EfficientProbe, x: Tensor, num_queries: int) -> Tensor:
    rows = []
    for image in x:
        values = image @ model.value.weight.T  # (N, D / d)
        size = values.shape[1] // num_queries
        parts = []
        for m, query in enumerate(model.queries):
            weights = torch.stack([query @ token / D**0.5 for token in image]).softmax(dim=0)
            parts.append(sum(a * v[m * size : (m + 1) * size] for a, v in zip(weights, values, strict=True)))
        rows.append(torch.cat(parts))
    pooled = torch.stack(rows)
    mean, variance = pooled.mean(0), pooled.var(0, correction=0)
    return model.head((pooled - mean) / (variance + 1e-6).sqrt())


@pytest.mark.parametrize(("num_queries", "reduction"), [(4, 1), (6, 2), (1, 1), (24, 1)])
def test_ep_equals_a_loop_over_queries_and_tokens_that_makes_every_value(num_queries: int, reduction: int) -> None:
    model = awake(EfficientProbe(D, num_queries, reduction, C))
    outputs = (model(tokens=tokens()), naive_ep(model, tokens(), num_queries))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(each.square().sum(), list(model.parameters())) for each in outputs]
    for lean, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(lean, naive, rtol=1e-3, atol=1e-4)


def test_queries_of_zero_pool_by_the_mean() -> None:
    model = EfficientProbe(D, 4, 1, C).eval()
    nn.init.zeros_(model.queries)
    expected = model.head(
        tokens().mean(1) @ model.value.weight.T / (1 + 1e-6) ** 0.5
    )  # nothing seen: mean 0, variance 1
    torch.testing.assert_close(model(tokens=tokens()), expected, rtol=1e-5, atol=1e-5)


def plain_attentive(model: AttentiveProbe, x: Tensor) -> Tensor:
    """As the paper has it, through torch.nn.MultiheadAttention with the probe's weights."""
    own: Any = model.attention
    attention = nn.MultiheadAttention(x.shape[-1], x.shape[-1] // own.head_dim, batch_first=True)
    parameters = {
        "in_proj_weight": torch.cat([own.query.weight, own.key_value.weight]),
        "in_proj_bias": torch.cat([own.query.bias, own.key_value.bias]),
        "out_proj.weight": own.proj.weight,
        "out_proj.bias": own.proj.bias,
    }
    queries, normed = model.query.expand(len(x), 1, -1), own.norm(x)
    inputs = (queries, normed, normed)
    attended, _ = torch.func.functional_call(attention, parameters, inputs, {"need_weights": False})
    y = queries + attended
    y = y + model.mlp(model.norm(y))
    return model.head(y[:, 0])


@pytest.mark.parametrize("head_dim", [4, 24])
def test_the_attentive_probe_equals_pytorchs_attention_in_outputs_and_gradients(head_dim: int) -> None:
    model = awake(AttentiveProbe(D, head_dim, C))
    outputs = (model(tokens=tokens()), plain_attentive(model, tokens()))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(each.square().mean(), list(model.parameters())) for each in outputs]
    for (name, _), lean, plain in zip(model.named_parameters(), *gradients, strict=True):
        torch.testing.assert_close(lean, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()), msg=name)


def test_it_starts_as_the_authors_does() -> None:
    torch.manual_seed(0)
    model: Any = AttentiveProbe(192, 64, C)
    layers = (model.attention.query, model.attention.proj, model.mlp[2])
    stds = [layer.weight.detach().std().item() for layer in layers]
    assert stds == pytest.approx([0.02, 0.02 / 2**0.5, 0.02 / 2**0.5], rel=0.03)
    assert model.query.detach().std().item() == pytest.approx(0.02, rel=0.2)
    assert not any(parameter.any() for name, parameter in model.named_parameters() if "bias" in name)


@pytest.mark.parametrize("make_model", [lambda: EfficientProbe(96, 8, 1, C), lambda: AttentiveProbe(96, 32, C)])
def test_one_copy_of_the_tokens_is_kept_and_no_more(make_model: Callable[[], nn.Module]) -> None:
    """In fp32 and in mixed precision; the plain forms keep 2 and 4 of them."""
    model = make_model()
    x = torch.randn(B, 400, 96).half()
    for precision, size in (("fp32", 4), ("bf16", 2)):

        def forward(precision: Any = precision) -> Tensor:
            with autocast("cpu", precision):
                return model(tokens=x)

        one = x.numel() * size
        parameters = 4 * sum(p.numel() for p in model.parameters())  # queries and weights as they are used
        assert one <= saved_bytes(forward, model) < 1.4 * one + parameters
    if isinstance(model, AttentiveProbe):
        assert saved_bytes(lambda: plain_attentive(model, x.float()), model) > 3 * 4 * x.numel()


@pytest.mark.parametrize("family", ALL)
def test_last_tokens_are_what_features_are_pooled_from_behind_the_last_norm(family: str) -> None:
    backbone, image = make(family)
    trunk = backbone.trunk
    with torch.no_grad():
        x, plain = backbone.last_tokens(image), trunk.forward_features(image)
        if family.startswith("convnext"):
            norm = trunk.head.norm
            places = [plain[:, :, i, j] for i in range(plain.shape[2]) for j in range(plain.shape[3])]
            expected = torch.stack([F.layer_norm(p, p.shape[1:], norm.weight, norm.bias, norm.eps) for p in places], 1)
        elif family in ("swinv2", "resnet50"):
            assert x.ndim == 3 and x.shape[1] > 1
            x, expected = x.mean(1), backbone(image)
        else:
            assert x.shape[1] == backbone.num_prefix_tokens + 16
            expected = trunk.fc_norm(plain)
    assert x.shape[-1] == backbone.embed_dim
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pair", [("ep", "attentive_probe")])
def test_they_share_one_cache_which_no_edit_of_one_makes_stale(pair: tuple[str, str]) -> None:
    """The same extractor, of the same files, with the same identity."""
    first, second = (METHODS[name] for name in pair)
    assert first.extractor is second.extractor
    identities = []
    for name in pair:
        extractor: Any = build_parts(name, make_config(name, {}), "vit_tiny_patch16_224", 2, 32).extractor
        identities.append((extractor.identity, extractor.parts, extractor.augment_live))
    assert identities[0] == identities[1]
    files = method_files(first.extractor.__module__)
    sources = read_sources()
    edited = sources | {f"methods/probes/{name}.py": b"edited" for name in pair}
    assert code_digest(files, edited) == code_digest(files, sources)
    other: Any = build_parts(
        pair[0], make_config(pair[0], {"feature_dtype": "float32"}), "vit_tiny_patch16_224", 2, 32
    ).extractor
    assert other.identity != identities[0][0]
    assert other(torch.randn(2, 3, 32, 32))["tokens"].dtype == torch.float32
