"""Families of backbones: what each answers, against timm's own networks."""

import math

import pytest
import timm
import torch
from small_backbones import ALL, ROTARY, TOKENS, awake, make, with_settings

from benchmarks.errors import UserError
from benchmarks.model.backbone import create_backbone, set_attention
from methods.side.fpt import KeyValueExtractor
from methods.side.fpt_parts.lean_extraction import LeanExtractor


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


@pytest.mark.parametrize("name", [ALL["swinv2"], "swin_tiny_patch4_window7_224[depths=[1,1,1,1],embed_dim=24]"])
def test_no_network_drops_paths_unless_it_is_asked_to(name: str) -> None:
    def rates(name: str) -> set[float]:
        with torch.device("meta"):
            modules = create_backbone(name).trunk.modules()
        return {module.drop_prob for module in modules if isinstance(module, timm.layers.DropPath)}

    assert rates(name) == {0.0}
    assert max(rates(f"{name.removesuffix(']')},drop_path_rate=0.2]")) == pytest.approx(0.2)
