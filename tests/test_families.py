"""Families of backbones: what each answers, against timm's own networks, and what methods do with it."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import check_needs, create_backbone, described, lacks, set_attention
from benchmarks.model.build import Parts, build_parts, check_runs, count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.training.step import evaluation_step, extraction_step, make_optimization, training_step
from methods import METHODS
from methods.backbone import Backbone
from methods.fpt import KeyValueExtractor
from methods.fpt_parts.lean_extraction import LeanExtractor

SMALL = "depth=2,embed_dim=48,num_heads=3"
ROTARY = {
    "dinov3": f"vit_small_patch16_dinov3[{SMALL}]",
    "dinov3, biases": f"vit_small_patch16_dinov3_qkvb[{SMALL}]",
    "dinov3, swiglu": f"vit_small_plus_patch16_dinov3[{SMALL}]",
    "eva02, joint": f"eva02_tiny_patch14_224[{SMALL}]",
    "eva02, apart": f"eva02_base_patch14_224[{SMALL}]",
    "eva02 clip": f"eva02_base_patch16_clip_224[{SMALL}]",
    "perception encoder": f"vit_pe_core_tiny_patch16_384[{SMALL}]",
    "pe spatial": f"vit_pe_spatial_tiny_patch16_512[{SMALL}]",
    "rope mixed": f"vit_small_patch16_rope_mixed_ape_224[{SMALL}]",
}
PLAIN = {
    "augreg": f"vit_tiny_patch16_224[{SMALL}]",
    "mae, pre-norm": f"vit_base_patch16_clip_quickgelu_224[{SMALL}]",
    "dinov2": f"vit_small_patch14_reg4_dinov2[{SMALL}]",
    "dinov2 giant's mlp": f"vit_giant_patch14_dinov2[{SMALL}]",
    "deit3": f"deit3_small_patch16_224[{SMALL}]",
    "distilled": f"deit_tiny_distilled_patch16_224[{SMALL}]",
    "siglip": f"vit_base_patch16_siglip_224[{SMALL}]",
    "siglip, mean": f"vit_base_patch16_siglip_gap_224[{SMALL}]",
    "aimv2": f"aimv2_large_patch14_224[{SMALL}]",
    "beit3": f"beit3_base_patch16_224[{SMALL}]",
    "eva": f"eva_giant_patch14_224[{SMALL}]",
}
OTHERS = {
    "beit": f"beit_base_patch16_224[{SMALL}]",
    "beitv2": f"beitv2_base_patch16_224[{SMALL}]",
    "swinv2": "swinv2_tiny_window8_256[depths=[1,2,1,1],embed_dim=12,num_heads=[1,1,2,2]]",
    "convnext": "convnext_tiny[depths=[1,2,1,1],dims=[8,16,16,32]]",
    "convnext, dinov3": "convnext_tiny.dinov3_lvd1689m[depths=[1,1,1,1],dims=[8,16,16,32]]",
    "convnextv2": "convnextv2_tiny[depths=[1,1,1,1],dims=[8,16,16,32]]",
    "resnet50": "resnet50[layers=[1,1,1,1]]",
    "parallel": f"vit_base_patch16_xp_224[{SMALL}]",
    "post-norm": f"vit_base_patch16_rpn_224[{SMALL}]",
}
ALL = ROTARY | PLAIN | OTHERS
TOKENS = ROTARY | PLAIN
STAGES = ("swinv2", "convnext", "convnext, dinov3", "convnextv2", "resnet50")
ONE_BRANCH = ("convnext", "convnext, dinov3", "convnextv2", "resnet50")
REFUSED = {  # by what the tests' table calls them; every other pair runs
    **{
        (family, method): "a bias for each pair of positions"
        for family in ("beit", "beitv2")
        for method in ("vpt", "fpt", "ssf")
    },
    **{(family, method): "no token sequence" for family in STAGES for method in ("vpt", "fpt", "ssf")},
    **{(family, method): "no attention" for family in ONE_BRANCH for method in ("attention", "adaptformer")},
    **{(family, "ssf"): "biases of queries and values beside their projection" for family in (*ROTARY, "eva")},
    **{(family, "convpass"): "no attention" for family in ONE_BRANCH},
    ("swinv2", "convpass"): "norms behind the branches",
    ("parallel", "convpass"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "convpass"): r"blocks of another kind \(ResPostBlock\)",
    **{(family, "fact_tt"): "no attention" for family in ONE_BRANCH},
    **{
        (family, "fact_tt"): "linear layers whose sizes are no multiples of its width"
        for family in ("eva02, joint", "eva02, apart", "eva02 clip", "dinov2 giant's mlp", "aimv2", "eva")
    },
    ("swinv2", "fact_tt"): "stages of different widths",
    ("parallel", "fact_tt"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "fact_tt"): r"blocks of another kind \(ResPostBlock\)",
    ("aimv2", "ssf"): r"an MLP of another kind \(SwiGLU\)",
    ("parallel", "ssf"): "no joint projection of queries, keys and values",
    ("post-norm", "ssf"): r"blocks of another kind \(ResPostBlock\)",
    ("parallel", "adaptformer"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "adaptformer"): r"blocks of another kind \(ResPostBlock\)",
    ("resnet50", "adapter"): "blocks without an MLP",
    ("parallel", "lora"): "no joint projection of queries, keys and values",
    ("parallel", "adapter"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("parallel", "fpt"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("parallel", "attention"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "adapter"): r"blocks of another kind \(ResPostBlock\)",
    ("post-norm", "fpt"): r"blocks of another kind \(ResPostBlock\)",
}
ALIKE = {"vpt_shallow": "vpt", "fpt_plus": "fpt", "houlsby": "adaptformer", "difffit": "adaptformer"}
ALIKE |= {"repadapter": "convpass", "fact_tk": "fact_tt"}


def reason(family: str, method: str) -> str | None:
    return REFUSED.get((family, ALIKE.get(method, method)))


def awake(backbone: Backbone) -> Backbone:
    """All weights at random: scales of 1e-5, and norms and biases that start at 0, would hide what is done to them."""
    generator = torch.Generator().manual_seed(1)
    for parameter in backbone.trunk.parameters():
        spread = 0.5 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.5
        parameter.data += spread * torch.randn(parameter.shape, generator=generator)
    return backbone


def with_settings(family: str, settings: str) -> str:
    return f"{ALL[family].removesuffix(']')},{settings}]"


def make(family: str, factor: int = 4) -> tuple[Backbone, Tensor]:
    """A backbone with random weights, and two images of some patches' side."""
    torch.manual_seed(0)
    side = factor * described(ALL[family]).stride
    return awake(create_backbone(ALL[family], side)).eval(), torch.randn(2, 3, side, side)


def make_parts(family: str, method: str, factor: int = 4, **options: object) -> tuple[Parts, dict[str, Tensor]]:
    torch.manual_seed(0)
    if method.startswith("fpt"):
        options |= {"side_resolution": 32, "side_reduction": 2}
    config = make_config(method, options)
    resolution = factor * described(ALL[family]).stride
    parts = build_parts(method, config, ALL[family], 3, resolution)
    if isinstance(getattr(parts.model, "backbone", None), Backbone):
        awake(parts.model.backbone)  # type: ignore[arg-type]
    sides = METHODS[method].views(config, resolution)
    views = {name: torch.randn(4, 3, side, side) for name, side in sides.items()}
    if parts.extractor is not None:
        views |= extraction_step(parts.extractor, views.pop("image"), "fp32", "cpu")
    return parts, views


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ALL)
def test_a_method_trains_on_a_family_at_two_resolutions_or_is_refused_with_the_reason(family: str, method: str) -> None:
    refusal = reason(family, method)
    if refusal is not None:
        with pytest.raises(UserError, match=f"backbone must suit {method}, got .* which has .*{refusal}.*; choose"):
            check_needs(ALL[family], METHODS[method])
        return
    for factor in (4, 7):
        parts, inputs = make_parts(family, method, factor)
        before = {name: tensor.detach().clone() for name, tensor in parts.model.state_dict().items()}
        optimization = make_optimization(parts.model, 1e-2, 0.0, "fp32", "cpu")
        for _ in range(2):
            training_step(parts.model, inputs, torch.arange(4) % 3, optimization)
        logits = evaluation_step(parts.model.eval(), inputs, "fp32", "cpu")
        assert logits.shape == (4, 3) and logits.isfinite().all()
        trains = {name for name, parameter in parts.model.named_parameters() if parameter.requires_grad}
        moved = {name for name, tensor in parts.model.state_dict().items() if not torch.equal(tensor, before[name])}
        running = {name for name in moved if "running_" in name or name.endswith("num_batches_tracked")}
        assert moved - running <= trains
        norms = {name.rpartition(".")[0] for name in trains}
        assert {name.rpartition(".")[0] for name in running} <= norms  # a frozen batch norm stays as it is
        assert moved & trains == trains - unused(family, trains)


def unused(family: str, trains: set[str]) -> set[str]:
    """What no gradient reaches: keys have no use for a bias that is the same for all of them."""
    return {name for name in trains if "k_proj.bias" in name}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ALL)
def test_what_trains_is_what_the_method_counts(family: str, method: str) -> None:
    if reason(family, method) is not None:
        return
    config = make_config(method, {"side_reduction": 2} if method.startswith("fpt") else {})
    with torch.device("meta"):
        expected = METHODS[method].count(create_backbone(ALL[family]), config)
    assert count_parameters(method, config, ALL[family], 3)["trainable"] == expected


@pytest.mark.parametrize("family", [*TOKENS, "parallel", "post-norm"])
def test_token_by_token_it_computes_what_timm_does(family: str) -> None:
    backbone, image = make(family)
    with torch.no_grad():
        x, context = backbone.embed(image)
        for index in range(len(backbone.blocks())):
            x = backbone.run(index, x, context)
        expected = backbone.trunk.forward_head(backbone.trunk.forward_features(image), pre_logits=True)
        torch.testing.assert_close(backbone.pool_tokens(x), expected, rtol=0, atol=0)
        torch.testing.assert_close(backbone(image), expected, rtol=0, atol=0)
    assert backbone.num_features == expected.shape[1]


@pytest.mark.parametrize("family", TOKENS)
def test_softmax_of_what_a_block_asks_and_answers_is_the_block(family: str) -> None:
    """Queries, keys and values are normed and rotated as timm's block does it inside."""
    backbone, image = make(family)
    with torch.no_grad():
        x, context = backbone.embed(image)
        for index in range(len(backbone.blocks())):
            query, key, value = backbone.attention(index, x, context)
            assert query.shape == key.shape == value.shape == (2, backbone.num_heads, x.shape[1], backbone.head_dim)
            attention = (query @ key.mT * backbone.head_dim**-0.5).softmax(dim=-1)
            expected = backbone.run(index, x, context)
            torch.testing.assert_close(
                backbone.add_mlp(index, backbone.add_attention(index, x, attention @ value)),
                expected,
                rtol=1e-4,
                atol=1e-4,
            )
            assert (expected - x).abs().max() > 0.1
            x = expected


@pytest.mark.parametrize("family", ["perception encoder", "pe spatial"])
def test_grouped_and_normed_queries_are_answered_too(family: str) -> None:
    """As in Sapiens2."""
    torch.manual_seed(0)
    name = with_settings(family, "qkv_fused=false,num_kv_heads=1,qk_norm=true")
    backbone = awake(create_backbone(name, 64)).eval()
    with torch.no_grad():
        x, context = backbone.embed(torch.randn(2, 3, 64, 64))
        query, key, value = backbone.attention(1, x, context)
        attention = (query @ key.mT * backbone.head_dim**-0.5).softmax(dim=-1)
        expected = backbone.run(1, x, context)
        torch.testing.assert_close(
            backbone.add_mlp(1, backbone.add_attention(1, x, attention @ value)), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("family", ROTARY)
def test_prompts_are_not_rotated(family: str) -> None:
    """Against timm's block with the prompts last and rows of the table behind the patches' that turn nothing."""
    backbone, image = make(family)
    num_prompts, prefix = 3, backbone.num_prefix_tokens
    with torch.no_grad():
        x, context = backbone.embed(image)
        prompts = torch.randn(2, num_prompts, x.shape[2])
        found = backbone.run(1, torch.cat([x[:, :prefix], prompts, x[:, prefix:]], dim=1), context, num_prompts)
        table = context[1] if context.dim() > 2 else context
        still = torch.zeros(*table.shape[:-2], num_prompts, table.shape[-1])
        still[..., table.shape[-1] // 2 :] = 1  # sine 0, cosine 1
        block = backbone.blocks()[1]
        expected = block(torch.cat([x, prompts], dim=1), rope=torch.cat([table, still], dim=-2))
        order = [*range(prefix), *range(x.shape[1], x.shape[1] + num_prompts), *range(prefix, x.shape[1])]
        torch.testing.assert_close(found, expected[:, order], rtol=1e-4, atol=1e-5)
        again = backbone.run(1, x, context)  # what was changed for the prompts is as it was
        torch.testing.assert_close(again, block(x, rope=table), rtol=0, atol=0)


@pytest.mark.parametrize("family", TOKENS)
def test_extraction_equals_a_naive_one(family: str) -> None:
    """Head by head: of each head the tokens that receive most attention, their rotated keys and their values."""
    backbone, image = make(family)
    with torch.no_grad():
        x, context = backbone.embed(image)
        expected = []
        for index in range(2):
            query, key, value = backbone.attention(index, x, context)
            rows = []
            for b in range(2):
                for head in range(backbone.num_heads):
                    scores = query[b, head] @ key[b, head].T / math.sqrt(backbone.head_dim)
                    received = (scores - scores.logsumexp(dim=1, keepdim=True)).exp().mean(dim=0)
                    kept = received.topk(math.floor(0.3 * x.shape[1])).indices.sort().values
                    rows.append((key[b, head][kept], value[b, head][kept]))
            shape = (2, backbone.num_heads, -1, backbone.head_dim)
            expected.append([torch.stack(part).reshape(shape) for part in zip(*rows, strict=True)])
            x = backbone.run(index, x, context)
        plain = KeyValueExtractor(backbone, (0, 1), 0.3, "float32")
        for attention in ("eager", "sdpa"):
            set_attention(backbone, attention)
            for extractor in (plain, LeanExtractor(plain)):
                features = extractor(image)
                for part, name in enumerate(("keys", "values")):
                    whole = torch.stack([layer[part] for layer in expected], dim=1)
                    torch.testing.assert_close(features[name], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [name for name in ALL if reason(name, "lora") is None])
def test_low_rank_updates_are_heard(family: str) -> None:
    """Where timm reads a layer's weight instead of calling it, what is added to the layer would change nothing."""
    parts, inputs = make_parts(family, "lora", rank=2)
    model: Any = parts.model.eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    plain = model(**inputs)
    names = [name for name, _ in model.named_parameters() if "lora_B" in name]
    assert len(names) == len(described(ALL[family]).projections())
    for name in names:
        parameter = model.get_parameter(name)
        parameter.data.normal_()
        assert (model(**inputs) - plain).abs().max() > 1e-4, name
        parameter.data.zero_()


@pytest.mark.parametrize("family", [name for name in ALL if reason(name, "adapter") is None])
def test_an_adapter_edits_what_the_mlp_adds_behind_its_scale(family: str) -> None:
    backbone, image = make(family)
    with torch.no_grad():
        plain = backbone(image)

        class Nothing(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                assert x.shape[-1] == width
                return torch.zeros_like(x)

        for index in range(len(backbone.blocks())):
            backbone.put_behind_mlp(index, nn.Identity())
        torch.testing.assert_close(backbone(image), plain, rtol=1e-5, atol=1e-5)
        width = backbone.block_widths()[1]
        backbone.put_behind_mlp(1, Nothing())
        silent, _ = make(family)
        block: Any = silent.blocks()[1]
        last = block.norm2 if family == "swinv2" else block.mlp.fc2  # whose output is the branch's
        last.weight.zero_()
        if last.bias is not None:
            last.bias.zero_()
        torch.testing.assert_close(backbone(image), silent(image), rtol=1e-5, atol=1e-5)
        assert (backbone(image) - plain).abs().max() > 1e-3


class Recorder(nn.Module):
    """Keeps what it gets, and answers with a multiple of it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        self.got = x
        return self.factor * x


def block_output(backbone: Backbone, image: Tensor, index: int) -> Tensor:
    """What a block yields, `(B, ..., D)`."""
    found = []
    handle = backbone.blocks()[index].register_forward_hook(lambda module, arguments, output: found.append(output))
    backbone(image)
    handle.remove()
    return found[0].movedim(1, -1) if backbone.family in ("ConvNeXt", "ResNet") else found[0]


def silenced(family: str, index: int, swin: str, other: str) -> Backbone:
    """A backbone one of whose branches adds nothing: the last layer of it, by its name, yields 0."""
    backbone, _ = make(family)
    last: Any = backbone.blocks()[index].get_submodule(swin if family == "swinv2" else other)
    last.weight.zero_()
    if last.bias is not None:
        last.bias.zero_()
    return backbone


BRANCHES = [name for name in ALL if reason(name, "adaptformer") is None]


@pytest.mark.parametrize("family", BRANCHES)
def test_what_stands_behind_the_attention_edits_what_it_adds_behind_its_scale(family: str) -> None:
    with torch.no_grad():
        backbone, image = make(family)
        plain = backbone(image)
        for index in range(len(backbone.blocks())):
            backbone.put_behind_attention(index, nn.Identity())
        torch.testing.assert_close(backbone(image), plain, rtol=1e-5, atol=1e-5)
        backbone.put_behind_attention(1, Recorder(0.0))
        expected = silenced(family, 1, "norm1", "attn.proj")(image)
        torch.testing.assert_close(backbone(image), expected, rtol=1e-5, atol=1e-5)
        assert (expected - plain).abs().max() > 1e-3


@pytest.mark.parametrize("family", BRANCHES)
def test_what_stands_beside_the_mlp_gets_the_stream_and_adds_to_it(family: str) -> None:
    """The stream is what a block yields whose MLP adds nothing."""
    with torch.no_grad():
        backbone, image = make(family)
        plain = block_output(backbone, image, 1)
        module = Recorder(2.0)
        backbone.put_beside_mlp(1, module)
        found = block_output(backbone, image, 1)
        stream = block_output(silenced(family, 1, "norm2", "mlp.fc2"), image, 1)
        torch.testing.assert_close(module.got.reshape(stream.shape), stream, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found, plain + 2 * stream, rtol=1e-4, atol=1e-4)


INPUTS = [name for name in ALL if reason(name, "convpass") is None]


@pytest.mark.parametrize("family", INPUTS)
def test_what_stands_beside_layers_gets_what_they_get_and_adds_to_the_stream(family: str) -> None:
    """Of a block one of whose branches adds nothing, the other is what it yields less what it gets."""
    with torch.no_grad():
        backbone, image = make(family)
        first, plain = block_output(backbone, image, 0), block_output(backbone, image, 1)
        stream = block_output(silenced(family, 1, "", "mlp.fc2"), image, 1)
        norms = [backbone.blocks()[1].get_submodule(name) for name in ("norm1", "norm2")]
        modules = Recorder(0.0), Recorder(2.0)
        backbone.put_beside_layers(1, *modules)
        found = block_output(backbone, image, 1)
        for norm, module, x in zip(norms, modules, (first, stream), strict=True):
            torch.testing.assert_close(module.got, norm(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, plain + 2 * modules[1].got, rtol=1e-4, atol=1e-4)
        modules[0].factor, modules[1].factor = 2.0, 0.0
        block_output(backbone, image, 1)
        torch.testing.assert_close(modules[1].got, norms[1](stream + 2 * modules[0].got), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", INPUTS)
def test_of_a_blocks_layers_those_that_read_a_norm_are_its_readers(family: str) -> None:
    """Seen by hooks on every linear layer of the block: what is the norm's output, and what is not."""
    backbone, image = make(family)
    block: Any = backbone.blocks()[1]
    got: dict[nn.Module, Tensor] = {}
    for module in block.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, arguments, output: got.update({module: arguments[0]}))
    for norm, expected in zip((block.norm1, block.norm2), backbone.inputs(1), strict=True):
        assert expected.norm.parent is block and getattr(block, expected.norm.name) is norm
        norm.register_forward_hook(lambda module, arguments, output: got.update({module: output}))
        with torch.no_grad():
            backbone(image)
        readers = {layer for layer, x in got.items() if isinstance(layer, nn.Linear) and x is got[norm]}
        assert readers == set(expected.readers) != set()


@pytest.mark.parametrize("family", [name for name in ALL if reason(name, "fact_tt") is None])
def test_a_blocks_weights_of_squares_are_all_but_gates(family: str) -> None:
    backbone, _ = make(family)
    width = backbone.embed_dim
    for index, block in enumerate(backbone.blocks()):
        found = [getattr(parent, name) for parent, name, _ in backbone.squares(index)]
        assert found == [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
        assert [site.width for site in backbone.squares(index)] == [len(layer.weight) for layer in found]
        assert not any(size % width for layer in found for size in layer.weight.shape)


@pytest.mark.parametrize("family", ALL)
def test_what_stands_behind_a_block_gets_what_it_yields(family: str) -> None:
    with torch.no_grad():
        backbone, image = make(family)
        plain = block_output(backbone, image, 1)
        widths, module = backbone.block_widths(), Recorder(3.0)
        assert widths[1] == plain.shape[-1]
        backbone.put_behind_block(1, module)
        found = backbone(image)
        torch.testing.assert_close(module.got, plain, rtol=0, atol=0)
        other, _ = make(family)
        other.blocks()[1].register_forward_hook(lambda module, arguments, output: 3 * output)
        torch.testing.assert_close(found, other(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ALL)
def test_every_parameter_has_one_layer(family: str) -> None:
    backbone, _ = make(family)
    backbone.drop_head()
    layers, blocks = backbone.layers(), backbone.blocks()
    assert len(layers) == len(blocks) + 2
    flat = [parameter for layer in layers for parameter in layer]
    assert len(flat) == len({id(parameter) for parameter in flat}) and set(flat) == set(backbone.parameters())
    for layer, block in zip(layers[1:-1], blocks, strict=True):
        assert set(block.parameters()) <= set(layer)
    first, last = next(backbone.trunk.parameters()), list(backbone.trunk.parameters())[-1]
    assert first in set(layers[0])
    assert last in set(layers[-1]) or last in set(layers[-2])


def test_what_stands_between_stages_learns_as_the_block_behind_it() -> None:
    backbone, _ = make("swinv2")
    names = {parameter: name for name, parameter in backbone.trunk.named_parameters()}
    layers = [{names[parameter].split(".blocks.")[0] for parameter in layer} for layer in backbone.layers()]
    assert layers[1] == {"layers.0"}
    assert layers[2] == {"layers.1", *(name for name in names.values() if name.startswith("layers.1.downsample"))}


@pytest.mark.parametrize("family", [*TOKENS, "beit"])
def test_pools(family: str) -> None:
    """Against the tokens that timm's forward pass yields."""
    torch.manual_seed(0)
    native, image = make(family)
    has_class_token = native.trunk.cls_token is not None
    tokens = native.trunk.forward_features(image).detach()
    means = tokens[:, native.num_prefix_tokens :].mean(dim=1)
    expected = {"avg": [means], "cls": [tokens[:, 0]], "cls+avg": [tokens[:, 0], means]}
    for pool, parts in expected.items():
        name = with_settings(family, f"pool={pool}")
        if "cls" in pool and not has_class_token:
            with pytest.raises(UserError, match="pool must be native or avg where there is no class token, got 'cls"):
                create_backbone(name)
            continue
        backbone = create_backbone(name, image.shape[-1], native.trunk.state_dict() if family != "siglip" else None)
        if family == "siglip":
            backbone.trunk.load_state_dict(native.trunk.state_dict(), strict=False)
        with torch.no_grad():
            whole = torch.cat([native.trunk.fc_norm(part) for part in parts], dim=1)
            torch.testing.assert_close(backbone(image), whole, rtol=1e-5, atol=1e-5)
        assert backbone.num_features == whole.shape[1]


def test_the_class_token_of_dinov3_is_what_its_authors_pool() -> None:
    backbone, image = make("dinov3")
    authors = timm.create_model("vit_small_patch16_dinov3", depth=2, embed_dim=48, num_heads=3, global_pool="token")
    authors.load_state_dict(backbone.trunk.state_dict())
    own = create_backbone(with_settings("dinov3", "pool=cls"), 64, backbone.trunk.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(own(image), authors.eval()(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["swinv2", "convnext", "resnet50"])
def test_where_there_are_no_tokens_pooling_is_the_networks_own(family: str) -> None:
    with pytest.raises(UserError, match="pool must be native where there is no token sequence, got 'avg' for"):
        create_backbone(with_settings(family, "pool=avg"))


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")  # timm's own, of BEiT
@pytest.mark.parametrize("family", ALL)
def test_weights_of_the_pretrained_size_fit_any_other(family: str) -> None:
    """Against timm's network of the pretrained size, that loads them and is resized then."""
    torch.manual_seed(0)
    native = awake(create_backbone(ALL[family])).eval()
    state = {name: tensor.clone() for name, tensor in native.trunk.state_dict().items()}
    side = 5 * native.stride
    resized = create_backbone(ALL[family], side, state)
    if hasattr(native.trunk, "set_input_size") and family != "swinv2":  # whose windows it would scale too
        native.trunk.set_input_size((side, side))
    elif family == "swinv2":
        native.trunk.set_input_size((side, side), window_size=8)
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(resized(image), native(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["dinov3", "eva02, apart", "beit", "swinv2", "convnext", "resnet50"])
@pytest.mark.parametrize("method", ["full", "lora", "adapter", "vpt"])
def test_gradient_checkpointing_and_eager_attention_change_no_gradient(family: str, method: str) -> None:
    if reason(family, method) is not None:
        return
    gradients = []
    for checkpointing, attention in ((False, "sdpa"), (True, "sdpa"), (False, "eager")):
        parts, inputs = make_parts(family, method)
        parts.model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
        set_attention(parts.model, attention)  # type: ignore[arg-type]
        parts.model.eval()  # batch norms that train would count a batch twice
        nn.functional.cross_entropy(parts.model(**inputs), torch.arange(4) % 3).backward()
        gradients.append([parameter.grad for parameter in parts.model.parameters() if parameter.grad is not None])
    for others in gradients[1:]:
        for plain, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "family", ["dinov3", "eva02, apart", "perception encoder", "beit", "swinv2", "convnext", "resnet50"]
)
def test_memory_is_predicted(family: str) -> None:
    """Parameters, gradients and AdamW's state of full fine-tuning at least; more at a higher resolution."""
    stride = described(ALL[family]).stride
    peaks = []
    for factor in (4, 8):
        phases = predict_memory(MemoryPoint("full", factor * stride, 4, ALL[family])).phases
        peaks.append(phases["train"].allocated)
    assert 16 * count_parameters("full", make_config("full", {}), ALL[family], 5)["trainable"] < peaks[0] < peaks[1]


@pytest.mark.parametrize("method", ["full", "linear"])
def test_a_size_that_a_network_cannot_take_is_refused_before_a_run(method: str) -> None:
    """Halo attention wants maps of whole blocks."""
    config = make_config(method, {})
    check_runs(METHODS[method], config, "halonet26t", 256)
    with pytest.raises(UserError, match=r"backbone must take images of 224 px, got 'halonet26t' \(.*\); choose"):
        check_runs(METHODS[method], config, "halonet26t", 224)


@pytest.mark.parametrize("name", [ALL["swinv2"], "swin_tiny_patch4_window7_224[depths=[1,1,1,1],embed_dim=24]"])
def test_no_network_drops_paths_unless_it_is_asked_to(name: str) -> None:
    def rates(name: str) -> set[float]:
        with torch.device("meta"):
            modules = create_backbone(name).trunk.modules()
        return {module.drop_prob for module in modules if isinstance(module, timm.layers.DropPath)}

    assert rates(name) == {0.0}
    assert max(rates(f"{name.removesuffix(']')},drop_path_rate=0.2]")) == pytest.approx(0.2)


def test_a_network_without_checkpoints_is_refused_them() -> None:
    config = make_config("full", {})
    with pytest.raises(
        UserError, match="grad checkpointing must be off on a backbone that has none, got 'cspdarknet53'"
    ):
        build_parts("full", config, "cspdarknet53", 3, 64, grad_checkpointing=True)


def test_another_network_of_timm_gives_its_features() -> None:
    name = "regnety_002"
    assert described(name).family == "other"
    assert lacks(name, METHODS["lora"]) == ["no description of networks like it (RegNet)"]
    for method in ("full", "linear"):
        model = build_parts(method, make_config(method, {}), name, 3, 64)
        assert model.model.head.in_features == described(name).num_features  # type: ignore[union-attr]
    torch.manual_seed(0)
    backbone = create_backbone(name, 64).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = backbone.trunk(image)
        torch.testing.assert_close(backbone.trunk.head.fc(backbone(image)), logits, rtol=1e-5, atol=1e-5)
