"""Methods on block outputs: one cache for all, lean code against transcriptions, and what each paper promises."""

import csv
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from added import NUM_CLASSES, SIDE, SIZES, TINY, awake, count
from small_backbones import ALL, TOKENS, with_settings
from small_backbones import make as make_backbone
from torch import Tensor

from benchmarks.environment import method_files
from benchmarks.errors import UserError
from benchmarks.features.cache import FeatureRequest, open_feature_cache
from benchmarks.model.backbone import create_backbone
from benchmarks.model.build import Parts, build_parts, feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.speed import side_memory
from benchmarks.speed.side_plain import TRANSCRIPTIONS
from benchmarks.training.step import extraction_step
from docs.tables import kept_by_block
from methods import METHODS
from methods.side import lean
from methods.side.unipt import query

SIDE_METHODS = ("lst", "res_tuning_bypass", "unipt", "dtl", "dtl_plus")
IMAGES = 5


def make(method: str, backbone: str = TINY, **options: Any) -> tuple[Parts, Tensor, dict[str, Tensor]]:
    """A method's parts off its start, images, and their features."""
    torch.manual_seed(0)
    config = make_config(method, {"feature_dtype": "float32"} | options)
    parts = build_parts(method, config, backbone, NUM_CLASSES, SIDE)
    awake(parts.model)
    torch.manual_seed(1)
    image = torch.randn(IMAGES, 3, SIDE, SIDE)
    assert parts.extractor is not None
    return parts, image, extraction_step(parts.extractor, image, "fp32", "cpu")


def gradients(logits: Tensor, model: torch.nn.Module) -> list[Tensor]:
    loss = F.cross_entropy(logits, torch.arange(len(logits)) % NUM_CLASSES)
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


# What all share.


def test_features_are_the_blocks_outputs_as_hooks_see_them() -> None:
    torch.manual_seed(0)
    parts = build_parts("lst", make_config("lst", {"feature_dtype": "float32"}), TINY, NUM_CLASSES, SIDE)
    extractor: Any = parts.extractor
    vit, seen = extractor.backbone.trunk, list[Tensor]()
    hooks = [block.register_forward_hook(lambda module, args, output: seen.append(output)) for block in vit.blocks]
    hooks.append(vit.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0])))
    image = torch.randn(2, 3, SIDE, SIDE)
    outputs = extraction_step(extractor, image, "fp32", "cpu")["outputs"]
    assert len(seen) == outputs.shape[1] == len(extractor.parts) == 4
    assert all(torch.equal(outputs[:, index], x) for index, x in enumerate(seen))


def test_one_cache_serves_all_methods(tmp_path: Path) -> None:
    """LST's first, of x_0 to x_L; each other's extractor agrees in all that the key is made of."""
    identities = [make(method)[0].extractor.identity for method in SIDE_METHODS]  # type: ignore[union-attr]
    code = [method_files(METHODS[method].extractor.__module__) for method in SIDE_METHODS]
    assert all(identity == identities[0] for identity in identities) and all(files == code[0] for files in code)
    assert code[0] == ("methods/backbone.py", "methods/contract.py", "methods/side/block_outputs.py")
    outputs = extraction_step(make("lst")[0].extractor, make("lst")[1], "fp32", "cpu")["outputs"]  # type: ignore[arg-type]
    read = []
    for method in SIDE_METHODS:
        shapes, parts = feature_shapes(method, make_config(method, {"feature_dtype": "float32"}), TINY, SIDE)
        request = FeatureRequest({}, parts, shapes, [range(IMAGES)])
        cache = open_feature_cache(tmp_path, request, lambda missing: iter([{"outputs": outputs}]), lambda: None)
        assert cache.reused == (method != "lst")
        with ThreadPoolExecutor(1) as pool:
            read.append(cache.read(np.arange(IMAGES), False, pool.map)["outputs"])
        assert torch.equal(read[-1], make(method)[2]["outputs"])
    assert [each.shape[1] for each in read] == [4, 4, 4, 2, 2]


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("method", SIDE_METHODS)
def test_lean_is_the_transcription_in_logits_and_gradients(
    method: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of the batch that do not divide it."""
    parts, _, inputs = make(method, backbone)
    monkeypatch.setattr(lean, "MAX_NUMBERS", 2**60)
    logits, plain = parts.model(**inputs), TRANSCRIPTIONS[method](parts.model, **inputs)
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)
    for ours, expected in zip(gradients(logits, parts.model), gradients(plain, parts.model), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


COUNTS: dict[str, tuple[str, tuple[int, ...], Callable[[int, int, int], int]]] = {  # option, values; of D, L, value
    "lst": (
        "reduction",
        (8, 4),
        lambda d, n, f: d * (d // f) * (n + 1) + n + n * (12 * (d // f) ** 2 + 13 * (d // f)) + 2 * (d // f),
    ),
    "res_tuning_bypass": ("bottleneck_dim", (10, 3), lambda d, n, r: 2 * n * (2 * d * r + r + d)),
    "unipt": (
        "reduction",
        (8, 2),
        lambda d, n, f: (n + 1) * (d + 3) * (d // f) + (d // f) ** 2 + 4 * (d // f) + d // f * d + d,
    ),
    "dtl": ("rank", (2, 5), lambda d, n, r: 2 * n * d * r),
    "dtl_plus": ("rank", (2, 5), lambda d, n, r: 2 * n * d * r + 9 * d),
}


@pytest.mark.parametrize("method", SIDE_METHODS)
def test_counts_are_the_closed_formulas(method: str) -> None:
    option, values, formula = COUNTS[method]
    for backbone, (width, depth) in SIZES.items():
        for value in values:
            assert count(method, backbone, **{option: value}) == formula(width, depth, value)


@pytest.mark.parametrize("method", SIDE_METHODS)
def test_no_gradient_asks_for_the_features_nor_the_backbone(method: str) -> None:
    parts, _, inputs = make(method)
    logits = parts.model(**{name: feature.requires_grad_(False) for name, feature in inputs.items()})
    gradients(logits, parts.model)
    frozen = [p for p in parts.model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in (*frozen, *parts.extractor.parameters()))  # type: ignore[union-attr]


def test_kept_is_no_copy_of_features_in_another_type() -> None:
    """Beside its weight, a linear map keeps the stored features themselves."""
    saved: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        saved.add(tensor.data_ptr())
        return tensor

    features, weight = torch.randn(2, 3, 8).half(), torch.randn(4, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        lean.linear(features, weight)
    assert saved == {features.data_ptr(), weight.data_ptr()}


@pytest.mark.parametrize("family", TOKENS)
def test_a_tail_goes_on_where_the_rest_ends(family: str) -> None:
    """The context, known without an image, included; together they have every parameter once, but the head's."""
    backbone, image = make_backbone(family)
    with torch.no_grad():
        expected = backbone(image)
        head = sum(parameter.numel() for parameter in backbone.head_parameters())
        total = sum(parameter.numel() for parameter in backbone.parameters()) - head
        tail = backbone.tail(1)
        backbone.drop_tail(1)
        x, context = backbone.embed(image)
        x = tail.run(1, backbone.run(0, x, context), tail.context())
        torch.testing.assert_close(tail.pool_tokens(x), expected, rtol=1e-5, atol=1e-5)
    shared = getattr(backbone.trunk, "rope", None)
    twice = 0 if shared is None else sum(parameter.numel() for parameter in shared.parameters())
    assert total == sum(parameter.numel() for part in (backbone, tail) for parameter in part.parameters()) - twice


@pytest.mark.parametrize("pool", ["native", "cls", "avg", "cls+avg"])
def test_tokens_of_another_width_are_pooled_where_the_features_are(pool: str) -> None:
    """Where the network's own norm stands in front of its pooling."""
    for name in ("dinov2", "dinov3"):
        backbone = create_backbone(with_settings(name, f"pool={pool}"), 64)
        backbone.trunk.fc_norm = torch.nn.Identity()
        x = torch.randn(2, backbone.num_prefix_tokens + 16, backbone.embed_dim)
        torch.testing.assert_close(backbone.pooling()(x), backbone.pooled(x))
    assert create_backbone(ALL["siglip"], 64).pooling() == (False, True, 0)  # it pools by attention


# Each by what its paper promises.


def test_with_closed_gates_the_ladder_hears_the_tokens_alone() -> None:
    parts, _, inputs = make("lst")
    model: Any = parts.model
    before = model(**inputs)
    other = inputs["outputs"].clone()
    other[:, 1:] = torch.randn_like(other[:, 1:])
    assert (model(outputs=other) - before).abs().max() > 1e-3
    for rung in model.rungs:
        rung.gate.data.fill_(1e3)
    assert torch.equal(model(outputs=other), model(**inputs))


def test_gates_start_half_open() -> None:
    model: Any = build_parts("lst", make_config("lst", {}), TINY, NUM_CLASSES, SIDE).model
    rung = model.rungs[0]
    seen: list[Tensor] = []
    rung.block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    h, x = torch.randn(1, 2, 24), torch.randn(1, 2, 192)
    rung(h, x)
    torch.testing.assert_close(seen[0], (h + x @ rung.down_proj.weight.T) / 2)


def test_a_bypass_without_bottlenecks_is_the_sum_of_all_outputs() -> None:
    parts, image, inputs = make("res_tuning_bypass")
    model: Any = parts.model
    for tuner in (*model.of_blocks, *model.of_path):
        torch.nn.init.zeros_(tuner.up_proj.weight)
        torch.nn.init.zeros_(tuner.up_proj.bias)
    vit = whole_backbone().trunk
    total = x = vit._pos_embed(vit.patch_embed(image))
    for block in vit.blocks:
        x = block(x)
        total = total + x
    torch.testing.assert_close(model(**inputs), model.head(vit.norm(total)[:, 0]), rtol=1e-4, atol=1e-4)


def test_one_token_finds_itself_or_nothing() -> None:
    """UniPT's map of a single token is 2, or 1 where the product is negative."""
    tokens = torch.randn(1, 1, 8)
    for last, factor in ((tokens * 3, 2), (-tokens, 1)):
        found, mean = query(last, tokens)
        torch.testing.assert_close(found, factor * tokens)
        assert torch.equal(mean, tokens[:, 0])


def test_dtl_keeps_what_blocks_after_its_first_do() -> None:
    """10 N·D for each but the first of the last blocks, and a little of the side path's."""
    assert kept_by_block("dtl").startswith("10.") and kept_by_block("dtl_plus").startswith("10.")
    assert kept_by_block("dtl").endswith("; frozen 0")


@pytest.mark.parametrize(("method", "hears"), [("dtl", False), ("dtl_plus", True)])
def test_order_of_patches_is_heard_by_the_convolution_alone(method: str, hears: bool) -> None:
    parts, _, inputs = make(method)
    model: Any = parts.model
    model.path.up.data.mul_(10)
    num_patches = inputs["outputs"].shape[2] - 1
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(num_patches)])
    shuffled = inputs["outputs"][:, :, order]
    assert ((model(outputs=shuffled) - model(**inputs)).abs().max() > 1e-3) == hears
    if hears:
        centre = torch.zeros(3, 3)
        centre[1, 1] = 1
        model.path.conv.weight.data.mul_(centre)
        torch.testing.assert_close(model(outputs=shuffled), model(**inputs), rtol=1e-4, atol=1e-4)


def test_dtl_enters_as_many_blocks_as_asked_for() -> None:
    for num_blocks, parts in ((None, (0, 1)), (1, (0, 1, 2)), (3, (0,))):
        shapes, found = feature_shapes("dtl", make_config("dtl", {"num_blocks": num_blocks}), TINY, SIDE)
        assert found == parts and shapes["outputs"] == ((len(parts), 10, 192), "float16")
        made, image, inputs = make("dtl", num_blocks=num_blocks)
        model: Any = made.model
        model.path.up.data.zero_()
        expected = model.head(whole_backbone()(image))
        torch.testing.assert_close(model(**inputs), expected, rtol=1e-4, atol=1e-4)


def whole_backbone() -> Any:
    """That which `make` gives to methods."""
    torch.manual_seed(0)
    return create_backbone(TINY, SIDE)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lst", {"reduction": 5}, "reduction must leave a width divisible by 3 heads, got 38"),
        ("unipt", {"reduction": 200}, "reduction must be at most 192, the width D, got 200"),
        ("dtl", {"num_blocks": 4}, "num_blocks must be at most 3, the backbone's blocks, got 4"),
        ("dtl_plus", {"num_blocks": 1}, "num_blocks must be at least 2 where features are the class token's, got 1"),
    ],
)
def test_options_that_do_not_suit_the_backbone_are_refused(method: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_parts(method, make_config(method, options), TINY, NUM_CLASSES, SIDE)


# What they need.


@pytest.mark.parametrize("method", ["lst", "dtl"])
def test_memory_lies_between_its_floor_and_the_transcription(
    method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_memory, "PROTOCOLS", (("fp32", "sdpa"),))
    options = ["--backbone", "vit_tiny_patch16_224[depth=3]", "--batch-size", "8", "--format", "csv"]
    assert side_memory.main(["--methods", method, "--res", "224", *options]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert int(row["features"]) + int(row["kept"]) <= int(row["floor"]) < int(row["ours"]) < int(row["transcription"])
