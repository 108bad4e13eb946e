"""VQT and SynQT: against queries that join the tokens and are sliced off again, as the authors have it."""

import copy
import math
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from small_backbones import TOKENS, make
from torch import Tensor

from benchmarks.memory import trace
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import create_backbone, set_attention
from benchmarks.model.build import feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.speed.side_plain import TRANSCRIPTIONS
from benchmarks.training.step import extraction_step
from methods import METHODS
from methods.side.fpt_parts.extraction import stored
from methods.side.fpt_parts.fast_path import plain_path
from methods.side.fpt_parts.fusion import Stored, attend
from methods.side.fpt_parts.lean_fusion import attend_to_features
from methods.side.key_values import KeysAndValues
from methods.side.query_stream import QueryStream

NAMES = ("vqt", "synqt")
# One class token; class token and four registers, layer scale, patch 14; another width and depth.
BACKBONES = {
    "vit_tiny_patch16_224[depth=3]": 64,
    "vit_small_patch14_reg4_dinov2[depth=2,embed_dim=48,num_heads=3]": 56,
}


def make_method(method: str, name: str, **options: object) -> tuple[Any, Any, Tensor]:
    """The model without dropout on an awake backbone, its trunk, and two images."""
    torch.manual_seed(0)
    backbone = create_backbone(name, BACKBONES[name]).eval()
    for parameter in backbone.trunk.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    config = make_config(method, {"feature_dtype": "float32", "num_prompt_tokens": 3} | options)
    model = METHODS[method].build(backbone, 3, config).eval()
    return model, METHODS[method].extractor(backbone, config), torch.randn(2, 3, BACKBONES[name], BACKBONES[name])


def joined_block(block: Any, prompts: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """timm's block on prompts and tokens in one sequence, whose keys and values are the tokens' alone.

    Returns the tokens' output, the prompts', and of the latter what attention and what the MLP added.
    """
    num_prompts, attn = prompts.shape[1], block.attn
    sequence = torch.cat([prompts, x], dim=1)
    query, key, value = attn.qkv(block.norm1(sequence)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key[:, :, num_prompts:].mT / math.sqrt(query.shape[-1])
    attended = scores.softmax(dim=-1) @ value[:, :, num_prompts:]
    attention = block.ls1(attn.proj(attended.transpose(1, 2).flatten(2)))
    mlp = block.ls2(block.mlp(block.norm2(sequence + attention)))
    output = sequence + attention + mlp
    return output[:, num_prompts:], *(part[:, :num_prompts] for part in (output, attention, mlp))


def joined_vqt(model: Any, vit: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the tokens behind the last block."""
    x, summary = vit._pos_embed(vit.patch_embed(image)), []
    for block, prompts in zip(vit.blocks, model.prompts, strict=True):
        x, output, _, _ = joined_block(block, prompts.expand(len(image), -1, -1), x)
        summary.append(output.flatten(1))
    summary = [vector / vector.square().sum(dim=1, keepdim=True).sqrt() for vector in (vit.norm(x)[:, 0], *summary)]
    return model.head(torch.cat(summary, dim=1)), x


def adapter(module: Any, x: Tensor) -> Tensor:
    hidden = x @ module.down_proj.weight.T + module.down_proj.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + hidden @ module.up_proj.weight.T + module.up_proj.bias


def joined_synqt(model: Any, vit: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    x = vit._pos_embed(vit.patch_embed(image))
    collected: tuple[list[Tensor], ...] = ([], [], [])
    for block, made in zip(vit.blocks, model.synthesis, strict=True):
        p = made.queries.expand(len(image), -1, -1)
        if collected[0]:
            p = p + model.feedback_scale * collected[0][-1].unsqueeze(1)
        p = adapter(made.adapter, p)
        inner, normed = made.attention, made.norm1(p)
        q = adapter(inner.query, inner.query_norm(normed))
        k, v = (adapter(layer, inner.key_value_norm(normed)) for layer in (inner.key, inner.value))
        p = p + made.attention_scale * adapter(inner.proj, (q @ k.mT / math.sqrt(p.shape[-1])).softmax(dim=-1) @ v)
        p = p + made.mlp_scale * adapter(made.mlp, made.norm2(p))
        x, *answers = joined_block(block, p, x)
        for vectors, answer in zip(collected, answers, strict=True):
            vectors.append(answer.mean(dim=1))
    last, combination = collected[0][-1], model.combination
    outputs, attention, mlp = collected
    collected_vectors = (last, *outputs, *attention, *mlp)
    vectors = [v + adapter(combination.adapter, combination.norm(v)) for v in collected_vectors]
    weights = torch.tanh(F.gelu(combination.weigh(vectors[0])))
    total = vectors[0] + sum(weights[:, i : i + 1] * vector for i, vector in enumerate(vectors[1:]))
    return model.head(model.norm(total / len(vectors))), x


JOINED = {"vqt": joined_vqt, "synqt": joined_synqt}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("method", NAMES)
def test_outputs_and_gradients_are_those_of_queries_that_join_the_tokens(method: str, name: str, plain: bool) -> None:
    if plain:
        with plain_path():
            model, extractor, image = make_method(method, name)
    else:
        model, extractor, image = make_method(method, name)
    vit = extractor.backbone.trunk
    trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected, tokens = JOINED[method](model, vit, image)
    with torch.no_grad():
        torch.testing.assert_close(tokens, vit.blocks(vit._pos_embed(vit.patch_embed(image))), rtol=1e-4, atol=1e-4)
    logits = model(**extraction_step(extractor, image, "fp32", "cpu"))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    transcribed = TRANSCRIPTIONS[method](model, **extraction_step(extractor, image, "fp32", "cpu"))
    torch.testing.assert_close(transcribed, expected, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(logits.square().sum(), trains)
    wanted = torch.autograd.grad(expected.square().sum(), trains)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert other.abs().max() > 0


def test_queries_of_one_block_learn_whatever_the_others_ask() -> None:
    model, extractor, image = make_method("vqt", next(iter(BACKBONES)))
    features = extraction_step(extractor, image, "fp32", "cpu")
    gradients = []
    for _ in range(2):
        gradients.append(torch.autograd.grad(model(**features).sum(), model.prompts)[0])
        model.prompts.data[::2].normal_()
    torch.testing.assert_close(gradients[1][1], gradients[0][1], rtol=1e-5, atol=1e-7)
    assert (gradients[1][0] - gradients[0][0]).abs().max() > 1e-4


@pytest.mark.parametrize("family", TOKENS)
def test_a_token_that_only_asks_gets_what_the_block_gives_it(family: str) -> None:
    """Tokens without a position, as a prefix's, are among those of timm's block; no others where it rotates."""
    backbone, image = make(family)
    stream = QueryStream(backbone)
    with torch.no_grad():
        x, context = backbone.embed(image)
        for index in range(len(backbone.blocks())):
            asking = x[:, : backbone.num_prefix_tokens] if context is not None else x
            assert asking.shape[1] > 0
            _, key, value = backbone.attention(index, x, context)
            heads = Stored(key.unsqueeze(1), value.unsqueeze(1))
            attended = stream.attend(stream.queries(index, asking).unsqueeze(1), heads)[:, 0]
            attention, mlp = stream.branches(index, asking, attended)
            x = backbone.run(index, x, context)
            torch.testing.assert_close(asking + attention + mlp, x[:, : asking.shape[1]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["augreg", "dinov3", "eva02, apart", "siglip"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_features_are_all_keys_and_values_and_the_pooled_feature(family: str, attention: Any) -> None:
    backbone, image = make(family)
    expected = backbone(image).detach()
    set_attention(backbone, attention)
    features = extraction_step(KeysAndValues(backbone, "float32"), image, "fp32", "cpu")
    torch.testing.assert_close(features["feature"], expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        x, context = backbone.embed(image)
        for index in range(len(backbone.blocks())):
            _, key, value = backbone.attention(index, x, context)
            torch.testing.assert_close(features["keys"][:, index], key, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(features["values"][:, index], value, rtol=1e-4, atol=1e-4)
            x = backbone.run(index, x, context)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_lean_attention_of_each_images_own_queries_is_the_plain_one(storage: Any) -> None:
    """And equals the shared queries' where all images ask alike."""
    torch.manual_seed(0)
    kept = {name: torch.randn(5, 3, 2, 7, 4) for name in ("keys", "values")}
    layers = [{k: v for name in kept for k, v in stored(name, kept[name][:, i], storage).items()} for i in range(3)]
    features = Stored(**{name: torch.stack([layer[name] for layer in layers], dim=1) for name in layers[0]})
    query = torch.randn(5, 3, 2, 8, requires_grad=True)
    weights = torch.randn(5, 3, 2, 8)
    results = []
    for function in (attend, attend_to_features):
        output = function(query, features)
        results.append((output, *torch.autograd.grad((output * weights).sum(), query)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    alike = query[:1].expand(5, -1, -1, -1)
    shared = attend_to_features(query[0], features)
    torch.testing.assert_close(attend_to_features(alike, features), shared, rtol=1e-5, atol=1e-6)


def test_both_read_one_cache() -> None:
    extractors = [METHODS[name].extractor for name in NAMES]
    assert extractors[0] is extractors[1]
    shapes = [feature_shapes(name, make_config(name, {}), next(iter(BACKBONES)), 64) for name in NAMES]
    assert shapes[0] == shapes[1]
    identities = [make_method(name, next(iter(BACKBONES)))[1].identity for name in NAMES]
    assert identities[0] == identities[1]


@pytest.mark.parametrize("method", NAMES)
def test_features_in_8_bits_are_near_and_take_half(method: str) -> None:
    name = next(iter(BACKBONES))
    model, extractor, image = make_method(method, name)
    small = KeysAndValues(copy.deepcopy(extractor.backbone), "int8")
    with torch.no_grad():
        expected = model(**extractor(image))
        torch.testing.assert_close(model(**small(image)), expected, rtol=0.05, atol=0.05)
    assert small(image)["keys"].dtype == torch.int8


@pytest.mark.parametrize("method", NAMES)
def test_training_needs_a_quarter_more_at_most_than_what_it_cannot_do_without(method: str) -> None:
    """Features of the batch, parameters, gradients and AdamW's two states; workspaces of libraries are beside that."""
    backbone = "vit_base_patch16_384[depth=3]"
    point = MemoryPoint(method, 512, 16, backbone, attention="sdpa")
    with mock.patch.object(trace, "library_workspaces", lambda func: []):
        train = predict_memory(point).phases["train"]
    held = train.breakdown
    trained = METHODS[method].count(create_backbone(backbone), make_config(method, {}))
    features = 16 * (6 * 1025 * 768 * 2 + 768 * 4)
    assert held["input features"] == pytest.approx(features, rel=1e-3)
    assert train.allocated < 1.25 * (features + held["parameters"] + 12 * trained)
