"""Maps of what a model looks at, against naive loops, closed forms and models that read one patch alone."""

import math
import sys
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from small_backbones import ALL, awake, make_parts
from torch import Tensor, nn

from benchmarks.config import RunConfig
from benchmarks.errors import MachineError, UserError
from benchmarks.inference.maps.curves import area, centred, curves_of, ranks
from benchmarks.inference.maps.explain import peak_of
from benchmarks.inference.maps.occlusion import CELLS
from benchmarks.inference.maps.patches import PatchMap
from benchmarks.inference.maps.pictures import overlay
from benchmarks.inference.maps.rollout import rollout
from benchmarks.inference.maps.ways import WAYS, blank_views, choose_way, suiting
from benchmarks.inference.trained import TrainedModel
from benchmarks.model.backbone import described
from benchmarks.model.build import Parts
from methods import METHODS
from methods.backbone import Backbone


def trained(method: str, sides: dict[str, int], parts: Parts, backbone: str = "") -> TrainedModel:
    """Parts as a model in use, of three classes, whose images are not normalised."""
    config = RunConfig(method, "images", "", sides["image"], 0, backbone, "none", None, 1, 4, 1e-3, 0.0)
    card: Any = {
        "config": {name: getattr(config, name) for name in config.__dataclass_fields__},
        "dataset": {
            "classes": ["a", "b", "c"],
            "normalization": {"mean": [0.0] * 3, "std": [1.0] * 3},
            "counts": {"train": {"a": 4}},
        },
        "input": {"views": sides},
    }
    return TrainedModel(card, parts, torch.device("cpu"))


def small(family: str, method: str, factor: int = 4) -> tuple[TrainedModel, dict[str, Tensor]]:
    """A small method with random weights, and an image of noise."""
    parts, _ = make_parts(family, method, factor)
    if parts.extractor is not None and isinstance(parts.extractor.backbone, Backbone):
        awake(parts.extractor.backbone)
    resolution = factor * described(ALL[family]).stride
    sides = {"image": resolution} | ({"image_low": 32} if method.startswith("fpt") else {})
    model = trained(method, sides, parts, ALL[family])
    generator = torch.Generator().manual_seed(3)
    pixels = {
        name: torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
        for name, side in sides.items()
    }
    return model, model.inputs(pixels)


SUITING = {
    ("augreg", "ep"): ["attention", "grad-cam", "occlusion"],
    ("augreg", "attentive_probe"): ["attention", "grad-cam", "occlusion"],
    ("convnext", "ep"): ["attention", "grad-cam", "occlusion"],
    ("augreg", "fpt"): ["attention", "occlusion"],
    ("dinov3", "fpt_plus"): ["attention", "occlusion"],
    ("augreg", "lora"): ["rollout", "grad-cam", "occlusion"],
    ("dinov2", "full"): ["rollout", "grad-cam", "occlusion"],
    ("dinov3", "bitfit"): ["rollout", "grad-cam", "occlusion"],
    ("augreg", "vpt"): ["rollout", "grad-cam", "occlusion"],
    ("dinov3", "vpt"): ["grad-cam", "occlusion"],
    ("augreg", "convpass"): ["grad-cam", "occlusion"],
    ("beit", "full"): ["grad-cam", "occlusion"],
    ("augreg", "linear"): ["grad-cam", "occlusion"],
    ("swinv2", "full"): ["grad-cam", "occlusion"],
    ("resnet50", "lora"): ["grad-cam", "occlusion"],
    ("augreg", "lst"): ["occlusion"],
    ("augreg", "dtl"): ["occlusion"],
    ("augreg", "head2toe"): ["occlusion"],
}


@pytest.mark.parametrize(("family", "method"), SUITING)
def test_each_model_has_the_ways_that_suit_it(family: str, method: str) -> None:
    model, views = small(family, method)
    ways = suiting(model)
    assert ways == SUITING[family, method]
    assert choose_way(model, None) == ways[0]
    for way in ways:
        found: PatchMap = WAYS[way].make(model, views, 1)
        cells = (CELLS, CELLS) if way == "occlusion" else (4, 4)
        assert found.values.shape == cells and found.values.isfinite().all()
        if WAYS[way].of_class:
            assert found.share is None
        else:
            assert float(found.values.sum()) == pytest.approx(1, abs=1e-5)
            assert found.values.min() >= 0 and 0 < found.share <= 1 + 1e-6  # type: ignore[operator]


def test_a_way_that_does_not_suit_is_refused_with_those_that_do() -> None:
    model, _ = small("augreg", "fpt")
    reason = "how must suit the model, got 'rollout', which needs a ViT that was tuned; choose among attention, occl"
    with pytest.raises(UserError, match=reason):
        choose_way(model, "rollout")
    with pytest.raises(UserError, match=r"got 'grad-cam', which needs a gradient from the logits to the backbone's"):
        choose_way(model, "grad-cam")
    with pytest.raises(UserError, match=r"got 'grad-cam', which needs .*reads other layers too"):
        choose_way(small("augreg", "lst")[0], "grad-cam")
    with pytest.raises(UserError, match=r"got 'attention', which needs queries or prompts of the method's own"):
        choose_way(small("augreg", "lora")[0], "attention")
    with pytest.raises(UserError, match=r"got 'rollout', which needs tokens that all have a place"):
        choose_way(small("dinov3", "vpt")[0], "rollout")
    with pytest.raises(UserError, match=r"got 'rollout', which needs blocks that attend as the backbone's own"):
        choose_way(small("augreg", "convpass")[0], "rollout")


def test_without_captum_grad_cam_says_what_to_do() -> None:
    model, views = small("augreg", "linear")
    with (
        patch.dict(sys.modules, {"captum.attr": None}),
        pytest.raises(MachineError, match=r"grad-cam must have captum.*: pip install captum, or take --how occlusion"),
    ):
        WAYS["grad-cam"].make(model, views, 0)


@pytest.mark.parametrize("family", ["augreg", "dinov2", "siglip, mean"])
@torch.no_grad()
def test_rollout_is_a_naive_product_of_what_timm_computes(family: str) -> None:
    """timm's own attention maps, as they pass its dropout; a loop over all paths from block to block."""
    model, views = small(family, "full", factor=2)
    backbone: Any = model.model.backbone
    found = WAYS["rollout"].make(model, views, 0)
    maps: list[Tensor] = []
    for block in backbone.trunk.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0][0].mean(0)))
    model.logits(views)
    num_tokens = len(maps[0])
    halves = [[[(float(m[i, j]) + (i == j)) / 2 for j in range(num_tokens)] for i in range(num_tokens)] for m in maps]
    first, last = halves
    patches = range(num_tokens - 4, num_tokens)
    readers = [0] if backbone.pooling().class_token else patches
    read = [sum(last[r][k] * first[k][j] for r in readers for k in range(num_tokens)) / len(readers) for j in patches]
    assert found.share == pytest.approx(sum(read), rel=1e-4)
    assert found.values.flatten().tolist() == pytest.approx([value / sum(read) for value in read], rel=1e-4)


def test_rollout_of_no_attention_but_to_oneself_changes_nothing() -> None:
    assert torch.equal(rollout([torch.eye(3)] * 4), torch.eye(3, dtype=torch.float64))
    rows = rollout([torch.rand(5, 5).softmax(dim=1) for _ in range(3)]).sum(dim=1)
    assert torch.allclose(rows, torch.ones(5, dtype=torch.float64))


@torch.no_grad()
def test_the_queries_of_ep_attend_as_written() -> None:
    model, views = small("augreg", "ep")
    probe: Any = model.model
    tokens = model.extractor(views["image"])["tokens"].float()[0]  # type: ignore[misc]
    scores = torch.tensor([[float(u @ t) / math.sqrt(len(t)) for t in tokens] for u in probe.queries])
    by_hand = scores.softmax(dim=1).mean(dim=0)[1:]
    found = WAYS["attention"].make(model, views, 0)
    assert found.share == pytest.approx(float(by_hand.sum()), rel=1e-4)
    assert torch.allclose(found.values.flatten(), by_hand / by_hand.sum(), rtol=1e-4)


@torch.no_grad()
def test_the_query_of_the_attentive_probe_attends_as_written() -> None:
    model, views = small("augreg", "attentive_probe")
    probe: Any = model.model
    tokens = model.extractor(views["image"])["tokens"].float()[0]  # type: ignore[misc]
    attention = probe.attention
    keys = attention.key_value(attention.norm(tokens))[:, : tokens.shape[1]].unflatten(1, (3, 16))  # (N, A, E)
    query = attention.query(probe.query).unflatten(0, (3, 16))
    by_hand = (torch.einsum("ae,nae->an", query, keys) / 4).softmax(dim=1).mean(dim=0)[1:]
    found = WAYS["attention"].make(model, views, 0)
    assert torch.allclose(found.values.flatten(), by_hand / by_hand.sum(), rtol=1e-3)


@pytest.mark.parametrize("method", ["fpt", "fpt_plus"])
@torch.no_grad()
def test_prompts_read_the_kept_tokens_at_their_places(method: str) -> None:
    """One head and prompt after another; a token that a head did not keep gets nothing of it."""
    model, views = small("augreg", method)
    model.model.fusion.prompts.normal_(generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr, operator]
    fusion, extractor = model.model.fusion, model.extractor
    backbone: Any = extractor.backbone  # type: ignore[union-attr]
    query = fusion.query_proj(fusion.prompts) if method == "fpt" else fusion.norm(fusion.prompts)  # type: ignore
    layers: Any = extractor.parts  # type: ignore[union-attr]
    x, context = backbone.embed(views["image"])
    total, heads_read = torch.zeros(x.shape[1]), 0
    for index in range(len(backbone.blocks())):
        if index in layers:
            q, k, _ = (tensor[0] for tensor in backbone.attention(index, x, context))  # (A, N, E)
            for head in range(3):
                weights = (q[head] @ k[head].T / 4).softmax(dim=1)
                kept = sorted(weights.mean(dim=0).argsort(descending=True)[: math.floor(0.2 * x.shape[1])].tolist())
                for prompt in query[layers.index(index)]:
                    asked = prompt[16 * head : 16 * head + 16]
                    scores = torch.stack([asked @ k[head, token] / 4 for token in kept]).softmax(dim=0)
                    total[kept] += scores
                    heads_read += 1
        x = backbone.run(index, x, context)
    by_hand = total / heads_read
    found = WAYS["attention"].make(model, views, 0)
    assert found.share == pytest.approx(float(by_hand[1:].sum()), rel=1e-4)
    assert torch.allclose(found.values.flatten(), by_hand[1:] / by_hand[1:].sum(), atol=1e-5)


@torch.no_grad()
def test_grad_cam_of_a_linear_model_is_its_closed_form() -> None:
    """A linear probe on the mean of n places: the gradient at each is w / (s n), the map relu(w . a / (s n))."""
    model, views = small("resnet50", "linear")
    probe: Any = model.model
    probe.std.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    backbone: Any = model.extractor.backbone  # type: ignore[union-attr]
    places = backbone.trunk.forward_features(views["image"])[0]  # (D, h, w)
    for target in range(3):
        weights = probe.head.weight[target] / probe.std / places[0].numel()
        by_hand = torch.einsum("d,dhw->hw", weights, places).relu()
        found = WAYS["grad-cam"].make(model, views, target).values
        assert torch.allclose(found, by_hand, rtol=1e-3, atol=1e-6)


def test_grad_cam_leaves_the_model_as_it_was() -> None:
    model, views = small("augreg", "lora")
    before = model.logits(views)
    WAYS["grad-cam"].make(model, views, 0)
    assert torch.equal(model.logits(views), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


class OnePatch(nn.Module):
    """Reads one square of an image: logits are its brightness, minus that, and 0."""

    def __init__(self, rows: slice, columns: slice) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, image: Tensor) -> Tensor:
        bright = image[:, :, self.rows, self.columns].mean(dim=(1, 2, 3))
        return torch.stack([4 * bright, -4 * bright, 0 * bright], dim=1)


def one_patch(row: int, column: int, side: int = 56) -> TrainedModel:
    cell = side // CELLS
    rows, columns = (slice(place * cell, (place + 1) * cell) for place in (row, column))
    return trained("full", {"image": side}, Parts(OnePatch(rows, columns), None))


def bright_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), 200, dtype=np.uint8))


@pytest.mark.parametrize("size", [(56, 56), (300, 90), (40, 200)])
def test_a_model_that_reads_one_patch_has_its_peak_there_whatever_the_image_is_like(size: tuple[int, int]) -> None:
    model = one_patch(3, 9)
    assert suiting(model) == ["occlusion"]
    views = model.inputs(model.views([bright_image(*size)]))
    values = WAYS["occlusion"].make(model, views, 0).values.numpy()
    assert values.argmax() == 3 * CELLS + 9 and np.count_nonzero(values.round(5)) == 1
    x, y = peak_of(values)
    width, height = size
    assert 9 / 14 * width < x * width < 10 / 14 * width and 3 / 14 * height < y * height < 4 / 14 * height
    shown = np.asarray(overlay(bright_image(*size), values)).astype(int)
    plain = np.asarray(overlay(bright_image(*size), 0 * values)).astype(int)
    rows, columns = np.nonzero((shown != plain).any(axis=2))
    for found, place, length in ((rows, 3, height), (columns, 9, width)):
        assert found.min() == pytest.approx(place / 14 * length, abs=1)
        assert found.max() + 1 == pytest.approx((place + 1) / 14 * length, abs=1)


def test_curves_of_a_model_that_reads_one_patch() -> None:
    """The map's first step hides, or shows, all that counts; the centre's and a random order do so later."""
    model = one_patch(1, 12)
    views = model.inputs(model.views([bright_image(56, 56)]))
    values = WAYS["occlusion"].make(model, views, 0).values
    curves = curves_of(model, views, values, 0, 14, 1)
    whole = float(model.logits(views).softmax(dim=1)[0, 0])
    assert curves["deletion", "map"].tolist() == pytest.approx([whole] + [1 / 3] * 14, abs=1e-6)
    assert all(curves["insertion", order][-1] == pytest.approx(whole) for order in ("map", "random", "centre"))
    for other in ("random", "centre"):
        assert area(curves["deletion", "map"]) < area(curves["deletion", other])
    again = curves_of(model, views, values, 0, 14, 1)
    assert all(np.array_equal(curves[name], again[name]) for name in curves)


def test_areas_ranks_and_distances() -> None:
    assert area(np.array([1.0, 0.0])) == 0.5
    assert area(np.array([1.0, 1.0, 0.0])) == 0.75
    rng = np.random.default_rng(0)
    assert ranks(np.array([[0.1, 3.0], [2.0, -1.0]]), rng).tolist() == [[2, 0], [1, 3]]
    drawn = {tuple(ranks(np.zeros((2, 2)), rng).ravel()) for _ in range(50)}
    assert len(drawn) > 10 and all(sorted(order) == [0, 1, 2, 3] for order in drawn)
    distance = -centred(3, 3)
    assert distance[1, 1] == 0 and distance[0, 0] == pytest.approx(math.sqrt(2) / 3)


def test_blank_views_are_of_the_models_sides() -> None:
    model, views = small("augreg", "fpt")
    assert {name: view.shape for name, view in blank_views(model).items()} == {n: v.shape for n, v in views.items()}


def test_only_methods_whose_parts_read_tokens_have_attention() -> None:
    named = {name for name, method in METHODS.items() if method.attention_maps is not None}
    assert named == {"ep", "attentive_probe", "fpt", "fpt_plus"}
