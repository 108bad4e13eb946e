"""FPT and FPT+ against a naive transcription of the papers: loops over images, heads and layers."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.config import Attention
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import create_backbone, set_attention
from benchmarks.model.build import build_parts, feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.training.step import extraction_step
from methods.side.fpt import KeyValueExtractor
from methods.side.fpt_parts import extraction, fast_path, lean_extraction
from methods.side.fpt_parts import parts as parts_of_work
from methods.side.fpt_parts.extraction import parse_layers
from methods.side.fpt_parts.fast_path import plain_path
from methods.side.fpt_parts.lean_extraction import (
    LeanExtractor,
    attend_fused,
    attend_in_chunks,
    attend_in_two_passes,
)

# One class token; class token and four registers, layer scale, patch 14; no prefix token at all; patch 32.
BACKBONES = ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"]
MORE_BACKBONES = [*BACKBONES, "vit_base_patch16_siglip_224", "vit_small_patch32_224"]
SIDES = {"vit_small_patch14_reg4_dinov2": 56, "vit_small_patch32_224": 128}


def naive_attention(query: Tensor, key: Tensor) -> Tensor:
    """Softmaxed attention of one head, `(N, E)` each, row by row."""
    rows = []
    for q in query:
        scores = torch.stack([(q * k).sum() for k in key]) / math.sqrt(key.shape[-1])
        weights = (scores - scores.max()).exp()
        rows.append(weights / weights.sum())
    return torch.stack(rows)


def naive_extract(vit: Any, image: Tensor, layers: tuple[int, ...], keep_ratio: float) -> dict[str, Tensor]:
    """Keys and values of the tokens that receive the most attention, `(B, L, A, M, E)`."""
    x = vit._pos_embed(vit.patch_embed(image))
    keys, values = [], []
    for index, block in enumerate(vit.blocks):
        attn, heads = block.attn, []
        width = attn.head_dim
        for tokens in block.norm1(x):  # (N, D)
            projected = tokens @ attn.qkv.weight.T + attn.qkv.bias
            per_head = []
            for head in range(attn.num_heads):
                q, k, v = (
                    projected[:, part * vit.embed_dim + head * width : part * vit.embed_dim + (head + 1) * width]
                    for part in range(3)
                )
                per_head.append((naive_attention(q, k), k, v))
            heads.append(per_head)
        if index in layers:
            kept = [
                [weights.mean(0).topk(math.floor(keep_ratio * x.shape[1])).indices.sort().values for weights, _, _ in h]
                for h in heads
            ]
            keys.append(
                torch.stack([torch.stack([h[a][1][kept[b][a]] for a in range(len(h))]) for b, h in enumerate(heads)])
            )
            values.append(
                torch.stack([torch.stack([h[a][2][kept[b][a]] for a in range(len(h))]) for b, h in enumerate(heads)])
            )
        attended = torch.stack([torch.cat([w @ v for w, _, v in h], dim=-1) for h in heads])
        x = x + block.ls1(attn.proj(attended))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return {"keys": torch.stack(keys, dim=1), "values": torch.stack(values, dim=1)}


def naive_fuse(model: Any, method: str, layer: int, keys: Tensor, values: Tensor) -> Tensor:
    """Fused prompts of one layer, `(B, P, S)`, without dropout."""
    fusion, outputs = model.fusion, []
    prompts = fusion.prompts[layer]
    query = fusion.query_proj(prompts) if method == "fpt" else fusion.norm(prompts)
    for image_keys, image_values in zip(keys, values, strict=True):
        heads, width = [], image_keys.shape[-1]
        for head, (k, v) in enumerate(zip(image_keys, image_values, strict=True)):
            heads.append(naive_attention(query[:, head * width : (head + 1) * width], k) @ v)
        attended = torch.cat(heads, dim=-1)
        outputs.append(fusion.out_proj(attended) + prompts if method == "fpt" else fusion.out_proj(attended + prompts))
    return torch.stack(outputs)


def naive_forward(model: Any, method: str, image_low: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    side = model.side_network
    x = side._pos_embed(side.patch_embed(image_low))
    num_tokens = x.shape[1]
    for layer, block in enumerate(side.blocks):
        prompts = naive_fuse(model, method, layer, keys[:, layer], values[:, layer])
        x = torch.stack([torch.cat([tokens, extra]) for tokens, extra in zip(x, prompts, strict=True)])
        x = x + block.attn(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
        x = x[:, :num_tokens]
    return side.head(side.norm(x)[:, 0])


@pytest.mark.parametrize(
    ("name", "layers"),
    [("vit_tiny_patch16_224", spec) for spec in ("all", "6-11", "0,3,6,9")]
    + [(name, "2-4") for name in MORE_BACKBONES],
)
def test_extraction_equals_the_naive_one(name: str, layers: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, SIDES.get(name, 64))
    vit = backbone.trunk
    chosen = parse_layers(layers, len(vit.blocks))
    image = torch.randn(2, 3, *vit.patch_embed.img_size)
    with torch.no_grad():
        expected = naive_extract(vit, image, chosen, 0.3)
        plain = KeyValueExtractor(backbone, chosen, 0.3, "float32")
        for attention in ("eager", "sdpa"):
            set_attention(vit, attention)
            for extractor in (plain, LeanExtractor(plain)):
                features = extractor(image)
                for part in ("keys", "values"):
                    assert features[part].shape == expected[part].shape
                    torch.testing.assert_close(features[part], expected[part], rtol=1e-5, atol=1e-5)


Attend = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


@pytest.mark.parametrize("attend", [attend_fused, attend_in_two_passes])
def test_fused_attention_tells_what_each_token_receives(attend: Attend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_extraction, "CACHED_SCORES", 133 * 20)
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 133, 8) * 1.5 for _ in range(3))
    attended, received = attend(query, key, value, 8**-0.5)
    attention = (query @ key.mT * 8**-0.5).softmax(dim=-1)
    torch.testing.assert_close(attended, attention @ value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(received, attention.mean(dim=2), rtol=1e-5, atol=1e-7)


def test_no_image_depends_on_its_company() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(5, 3, 17, 8) for _ in range(3))
    together = attend_fused(query, key, value, 8**-0.5)
    for i in range(5):
        alone = attend_fused(query[[i]], key[[i]], value[[i]], 8**-0.5)
        assert all(torch.equal(one[0], all_[i]) for one, all_ in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_attention_counts_in_fp32_what_tokens_in_16_bits_receive(dtype: torch.dtype) -> None:
    """Against fp32 arithmetic on the same 16-bit queries and keys; 16-bit counts would be off by up to 4e-3."""
    torch.manual_seed(0)
    query, key, value = ((torch.randn(2, 3, 133, 64) * 1.5).to(dtype) for _ in range(3))
    _, received = attend_fused(query, key, value, 64**-0.5)
    _, expected = attend_in_chunks(query.float(), key.float(), value.float(), 64**-0.5)
    assert received.dtype == torch.float32
    torch.testing.assert_close(received, expected, rtol=1e-4, atol=0)


def test_chunks_change_nothing() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 17, 8) for _ in range(3))
    whole = attend_in_chunks(query, key, value, 8**-0.5)
    for scores in (17 * 5, 4 * 17 * 17):  # five queries of a head at a time; four heads, the last chunk has two
        chunked = attend_in_chunks(query, key, value, 8**-0.5, scores)
        torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-6)
    attention = torch.stack(
        [torch.stack([naive_attention(*pair) for pair in zip(*h, strict=True)]) for h in zip(query, key, strict=True)]
    )
    torch.testing.assert_close(whole[0], attention @ value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole[1], attention.mean(-2), rtol=1e-5, atol=1e-6)


def test_205_of_1025_tokens_are_kept() -> None:
    """At 512 px and patch 16 with a ratio of 0.2; shapes alone, on the meta device."""
    with torch.device("meta"):
        vit = create_backbone("vit_base_patch16_384", 512)
        features = KeyValueExtractor(vit, range(12), 0.2, "float16")(torch.empty(2, 3, 512, 512))
    assert features["keys"].shape == (2, 12, 12, 205, 64)
    assert features["values"].dtype == torch.float16


def output_and_gradients(model: Any, forward: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    output = forward()
    (output**2).sum().backward()
    return output.detach(), {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def assert_alike(first: tuple[Tensor, dict[str, Tensor]], second: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Outputs and gradients equal to 1e-5 of each tensor's largest entry."""
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-5)
    assert first[1].keys() == second[1].keys()
    for key in first[1]:
        largest = second[1][key].abs().max()
        assert (first[1][key] - second[1][key]).abs().max() <= 1e-5 * largest, key


def make_model(
    method: str, name: str, attention: Attention = "sdpa", checkpointing: bool = False, dropout: float = 0.0
) -> Any:
    torch.manual_seed(0)
    config = make_config(method, {"dropout": dropout, "layers": "0,3,6,9", "side_resolution": 32})
    model = build_parts(method, config, name, 3, None, attention, checkpointing).model
    nn.init.normal_(model.fusion.prompts)  # type: ignore[union-attr, arg-type]
    return model


@pytest.mark.parametrize("method", ["fpt", "fpt_plus"])
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("path", ["plain", "lean", "lean, as on a gpu"])
def test_model_equals_the_naive_one_in_outputs_and_gradients(
    monkeypatch: pytest.MonkeyPatch, method: str, name: str, attention: Attention, checkpointing: bool, path: str
) -> None:
    monkeypatch.setattr(parts_of_work, "SMALL_PART", 20_000)  # work in parts; layers of an image, images of a batch
    monkeypatch.setattr(parts_of_work, "LARGE_PART", 60_000)
    with plain_path() if path == "plain" else nullcontext():
        model = make_model(method, name, attention, checkpointing)
    if "gpu" in path:
        monkeypatch.setattr(Tensor, "is_cpu", False)
    heads = 6 if "small" in name else 3
    keys, values = (torch.randn(5, 4, heads, 7, 64) for _ in range(2))
    image_low = torch.randn(5, 3, 32, 32)
    ours = output_and_gradients(model, lambda: model(image_low, keys, values))
    assert ours[1].keys() == dict(model.named_parameters()).keys()
    assert_alike(ours, output_and_gradients(model, lambda: naive_forward(model, method, image_low, keys, values)))


@pytest.mark.parametrize("method", ["fpt", "fpt_plus"])
def test_bf16_stays_near_fp32(method: str) -> None:
    model = make_model(method, "vit_tiny_patch16_224")
    keys, values = (torch.randn(4, 4, 3, 7, 64, dtype=torch.float16) for _ in range(2))
    image_low = torch.randn(4, 3, 32, 32)
    exact = output_and_gradients(model, lambda: model(image_low, keys, values))

    def in_bf16() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(image_low, keys, values).float()

    rounded = output_and_gradients(model, in_bf16)
    torch.testing.assert_close(rounded[0], exact[0], rtol=0, atol=0.03)
    for key, gradient in exact[1].items():
        assert rounded[1][key].dtype == torch.float32
        assert (rounded[1][key] - gradient).norm() <= 0.06 * gradient.norm(), key


def test_eight_bits_round_to_half_a_step_a_channel() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 50, 8) * torch.tensor([1e-3, 1.0, 50.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    rounded, scale = extraction.quantize(features)
    assert rounded.dtype == torch.int8 and scale.shape == (2, 3, 1, 8)
    assert ((rounded * scale - features).abs() <= scale * 0.5001).all()
    assert (rounded.abs().amax(dim=2)[..., :7] == 127).all() and (rounded[..., 7] == 0).all()


@pytest.mark.parametrize("method", ["fpt", "fpt_plus"])
def test_eight_bits_train_as_what_they_stand_for(method: str) -> None:
    """Scales are applied to queries and results; the same as features multiplied by them."""
    model = make_model(method, "vit_tiny_patch16_224")
    image_low = torch.randn(5, 3, 32, 32)
    keys, values = (torch.randn(5, 4, 3, 7, 64) for _ in range(2))
    pairs = [extraction.quantize(features.flatten(0, 1)) for features in (keys, values)]
    (k, k_scale), (v, v_scale) = [tuple(tensor.unflatten(0, (5, 4)) for tensor in pair) for pair in pairs]
    whole = output_and_gradients(model, lambda: model(image_low, k * k_scale, v * v_scale))
    assert_alike(output_and_gradients(model, lambda: model(image_low, k, v, k_scale, v_scale)), whole)


@pytest.mark.parametrize("storage", ["float16", "float32", "int8"])
def test_features_are_stored_in_the_type_asked_for(storage: str) -> None:
    torch.manual_seed(0)
    parts = build_parts("fpt", make_config("fpt", {"feature_dtype": storage}), "vit_tiny_patch16_224", 2, 64)
    assert parts.extractor is not None
    features = extraction_step(parts.extractor, torch.randn(2, 3, 64, 64), "fp32", "cpu")
    shapes, layers = feature_shapes("fpt", make_config("fpt", {"feature_dtype": storage}), "vit_tiny_patch16_224", 64)
    assert {name: (tuple(f.shape[1:]), str(f.dtype)[6:]) for name, f in features.items()} == shapes
    assert layers == tuple(range(12)) and features["keys"].dtype == getattr(torch, storage)
    assert set(features) == {"keys", "values"} | ({"keys_scale", "values_scale"} if storage == "int8" else set())


def test_an_unknown_storage_type_is_refused() -> None:
    with pytest.raises(ValueError, match="feature_dtype of fpt must be one of float16, float32, int8, got 'int4'"):
        build_parts("fpt", make_config("fpt", {"feature_dtype": "int4"}), "vit_tiny_patch16_224", 2, 64)


# MiB under the papers' protocol, plain and with gradient checkpointing: a third and a quarter of the authors'.
GOALS = {
    "fpt": (1222 / 3, 1222 / 4),
    "fpt_plus": (343 / 3, 343 / 4),
}


@pytest.mark.parametrize("method", GOALS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_takes_a_fraction_of_the_published_memory(
    monkeypatch: pytest.MonkeyPatch, method: str, attention: Attention, checkpointing: bool
) -> None:
    """Counted as the authors' models were (docs/methods.md): every storage, but no workspace of cuBLAS."""
    monkeypatch.setattr("benchmarks.memory.trace.library_workspaces", lambda func: [])
    point = MemoryPoint(method, 512, attention=attention, grad_checkpointing=checkpointing)
    peak = predict_memory(point).phases["train"].allocated / 2**20
    assert peak <= GOALS[method][checkpointing]


@pytest.mark.parametrize("method", ["fpt", "fpt_plus"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_plain_and_lean_modules_are_the_same_model(
    method: str, checkpointing: bool, storage: extraction.FeatureDtype
) -> None:
    """Parameters under the same names from the same random numbers, the same dropout, outputs and gradients."""
    with plain_path():
        plain = make_model(method, "vit_tiny_patch16_224", "sdpa", checkpointing, dropout=0.5)
        after_plain = torch.rand(1)
    lean = make_model(method, "vit_tiny_patch16_224", "sdpa", checkpointing, dropout=0.5)
    assert torch.rand(1) == after_plain
    assert {type(module) for module in lean.modules()} - {type(module) for module in plain.modules()}
    torch.testing.assert_close(lean.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert [name for name, _ in lean.named_parameters()] == [name for name, _ in plain.named_parameters()]
    features = {name: torch.randn(5, 4, 3, 7, 64) for name in ("keys", "values")}
    if storage == "int8":
        features = {
            k: v.unflatten(0, (5, 4))
            for n, f in features.items()
            for k, v in extraction.stored(n, f.flatten(0, 1), storage).items()
        }
    inputs = features | {"image_low": torch.randn(5, 3, 32, 32)}

    def results(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(1)
        return output_and_gradients(model, lambda: model(**inputs))

    assert_alike(results(lean), results(plain))


OPERATORS = [
    (torch.ops.aten, "gelu_backward"),
    (torch.ops.aten, "native_layer_norm_backward"),
    (torch, "native_layer_norm"),
    (torch, "_softmax"),
    (torch, "_softmax_backward_data"),
    (torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"),
    (torch.ops.aten, "_scaled_dot_product_flash_attention"),
    (torch.ops.aten, "_scaled_dot_product_efficient_attention"),
]


@pytest.fixture
def another_torch() -> Iterator[None]:
    """A process that has not tried the fast path, before and behind."""
    fast_path._computes_the_same.cache_clear()
    yield
    fast_path._computes_the_same.cache_clear()


@pytest.mark.usefixtures("another_torch")
@pytest.mark.parametrize(("place", "name"), OPERATORS)
@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_without_an_operator_the_plain_modules_run_and_say_so(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, fault: str
) -> None:
    there = getattr(place, name)

    class Fault:
        """Stands in for the operator, and for its variants."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if fault == "missing":
                raise AttributeError(f"no operator {name}")
            result = there(*args, **kwargs)
            return (
                2 * result if isinstance(result, Tensor) else tuple(t if t is None else 2 * t.double() for t in result)
            )

        def out(self, *args: Any, **kwargs: Any) -> Any:
            return self(*args[:4]) if fault == "missing" else there.out(*args, **kwargs).mul_(2)

    monkeypatch.setattr(place, name, Fault())
    with pytest.warns(UserWarning, match="run their plain modules, which take more memory and time: with torch"):
        parts = build_parts("fpt", make_config("fpt", {}), "vit_tiny_patch16_224", 2, 64)
    assert isinstance(parts.extractor, KeyValueExtractor)
    assert not any(type(module).__name__.startswith("Lean") for module in parts.model.modules())
    build_parts("fpt_plus", make_config("fpt_plus", {}), "vit_tiny_patch16_224", 2, 64)  # it is said once


@pytest.mark.usefixtures("another_torch")
def test_trying_the_fast_path_draws_no_random_number() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.device("meta"), torch.no_grad():
        assert fast_path.fast_path()
    assert torch.equal(torch.rand(3), expected)


def test_side_network_is_as_published() -> None:
    model: Any = build_parts("fpt_plus", make_config("fpt_plus", {}), "vit_base_patch16_384", 5).model
    side = model.side_network
    assert (side.embed_dim, len(side.blocks), side.blocks[0].attn.num_heads) == (96, 6, 12)
    assert side.patch_embed.patch_size == (16, 16) and side.pos_embed.shape == (1, 65, 96)
    assert side.norm.eps == side.blocks[0].norm1.eps == 1e-6
    assert side.blocks[0].mlp.fc1.out_features == 384
    assert model.fusion.prompts.std().item() == pytest.approx(1e-6, rel=0.05)
    assert model.fusion.dropout.p == 0.5


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", range(12)),
        ("last-half", range(6, 12)),
        ("6-11", range(6, 12)),
        ("0,3,6,9", (0, 3, 6, 9)),
        ("1-2,5", (1, 2, 5)),
    ],
)
def test_layers_are_read(spec: str, expected: tuple[int, ...]) -> None:
    assert parse_layers(spec, 12) == tuple(expected)


@pytest.mark.parametrize("spec", ["some", "6-", "-3", "", "1,,2", "12", "5-3"])
def test_bad_layers_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="layers must"):
        parse_layers(spec, 12)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5])
def test_bad_keep_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="keep_ratio of fpt must be a number, above 0 and at most 1"):
        make_config("fpt", {"keep_ratio": ratio})
