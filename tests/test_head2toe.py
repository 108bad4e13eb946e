"""Head2Toe: what is tapped, against a forward pass by hand, and what is selected, against NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_backbones import ALL, make
from torch import Tensor

from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import described
from benchmarks.model.build import build_parts, count_parameters, feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.tasks import masked_bce
from benchmarks.training.step import GivenBatches
from methods.contract import new_head
from methods.probes.head2toe import SelectedFeatures, TappedFeatures, select

B, TAPPED, CLASSES = 8, 40, 3


def test_taps_of_a_vit_are_those_of_a_forward_pass_by_hand() -> None:
    backbone, image = make("augreg")
    vit = backbone.trunk
    with torch.no_grad():
        embedded = vit.patch_embed(image)
        x = vit._pos_embed(embedded)
        seen = [embedded, x]
        for block in vit.blocks:
            normed = block.norm1(x)
            attended = block.attn(normed)
            x = x + attended
            hidden = F.gelu(block.mlp.fc1(block.norm2(x)))
            added = block.mlp.fc2(hidden)
            x = x + added
            seen += [normed, attended, hidden, added]
        last = vit.norm(x)
        expected = [each.mean(1) for each in (*seen, last)] + [last[:, 0]]
        found = TappedFeatures(backbone, "float32")(image)["features"]
    torch.testing.assert_close(found, torch.cat([e / e.norm(dim=1, keepdim=True) for e in expected], 1))
    assert found.square().sum(1).numpy() == pytest.approx(len(expected))


@pytest.mark.parametrize("family", ALL)
def test_every_family_has_taps_as_wide_as_they_say_and_computes_as_without(family: str) -> None:
    backbone, image = make(family)
    with torch.no_grad():
        plain = backbone(image)
        features, taps = backbone.tapped(image)
    torch.testing.assert_close(features, plain, rtol=0, atol=0)
    assert [tap.shape for tap in taps] == [(2, tap.width) for tap in backbone.taps()]
    assert all(tap.std() > 0 for tap in taps)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


@pytest.mark.parametrize(("family", "axes"), [("swinv2", (1, 2)), ("convnext", (2, 3)), ("resnet50", (2, 3))])
def test_blocks_of_other_parts_are_tapped_behind_each(family: str, axes: tuple[int, int]) -> None:
    backbone, image = make(family)
    outputs: list[Tensor] = []
    for block in backbone.blocks():
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        _, taps = backbone.tapped(image)
    assert len(taps) == len(outputs) == len(backbone.blocks())
    for tap, output in zip(taps, outputs, strict=True):
        torch.testing.assert_close(tap, output.mean(axes))


def test_all_that_is_tapped_of_the_default_backbone() -> None:
    name, config = "vit_base_patch16_384", make_config("head2toe", {})
    num_tapped = 12 * (768 + 768 + 4 * 768 + 768) + 4 * 768
    assert feature_shapes("head2toe", config, name, 512) == ({"features": ((num_tapped,), "float16")}, None)
    counts = count_parameters("head2toe", config, name, 5)
    assert (counts["trainable"], counts["trainable_head"]) == (0, 5 * (round(0.1 * num_tapped) + 1))


def data() -> tuple[Tensor, Tensor]:
    """Features of which number 7, 21 and 33 say the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4 * B) % CLASSES
    features = torch.randn(len(labels), TAPPED, generator=generator)
    features[torch.arange(len(labels)), torch.tensor([7, 21, 33])[labels]] += 3
    return features, labels


def batches() -> list[tuple[dict[str, Tensor], Tensor]]:
    features, labels = data()
    return [({"features": x}, y) for x, y in zip(features.split(B), labels.split(B), strict=True)]


def naive_scores(config: Any) -> NDArray[np.float64]:
    """Adam by its equations, on the gradient by hand of cross-entropy and group lasso."""
    weight, moments, step = np.zeros((CLASSES, TAPPED + 1)), [np.zeros((CLASSES, TAPPED + 1)) for _ in range(2)], 0
    for epoch in range(config.selection_epochs):
        rate = config.selection_lr * (1 + math.cos(math.pi * epoch / config.selection_epochs)) / 2
        for inputs, labels in batches():
            x = np.hstack([inputs["features"].double().numpy(), np.ones((B, 1))])
            scores = np.exp(x @ weight.T)
            gradient = (scores / scores.sum(1, keepdims=True) - np.eye(CLASSES)[labels]).T @ x / B
            norms = np.linalg.norm(weight[:, :-1], axis=0)
            gradient[:, :-1] += config.group_lasso * weight[:, :-1] / np.where(norms > 0, norms, 1)
            step += 1
            moments = [0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2]
            first, second = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
            weight = weight - rate * first / (np.sqrt(second) + 1e-8)
    scores_of: NDArray[np.float64] = (weight[:, :-1] ** 2).sum(0)
    return scores_of


@pytest.mark.parametrize("penalty", [0.0, 1e-4, 0.3])
def test_selection_equals_adam_by_hand(penalty: float) -> None:
    config = make_config("head2toe", {"selection_lr": 0.02, "group_lasso": penalty, "keep": 0.2})
    model = SelectedFeatures(TAPPED, config.keep, CLASSES)
    select(model, GivenBatches(batches()), config)
    scores = naive_scores(config)
    assert set(model.selected.tolist()) == set(np.argsort(-scores)[:8].tolist())
    assert {7, 21, 33} <= set(model.selected.tolist()) and model.selected.tolist() == sorted(model.selected.tolist())
    x, _ = data()
    torch.testing.assert_close(model(features=x.half()), model.head(x.half().float()[:, model.selected]))


def finding_batches() -> list[tuple[dict[str, Tensor], Tensor]]:
    """Features of which number 7, 21 and 33 say a finding each, some of them unknown."""
    generator = torch.Generator().manual_seed(1)
    targets = (torch.rand(4 * B, CLASSES, generator=generator) < 0.4).float()
    features = torch.randn(4 * B, TAPPED, generator=generator)
    features[:, [7, 21, 33]] += 6 * (targets - 0.5)
    targets[torch.rand(4 * B, CLASSES, generator=generator) < 0.2] = torch.nan
    return [({"features": x}, y) for x, y in zip(features.split(B), targets.split(B), strict=True)]


def test_selection_of_findings_is_by_the_gradient_of_their_loss() -> None:
    """Adam by torch on the gradient by a loop over what is known: (sigmoid(z) - y) x, over how much that is."""
    config = make_config("head2toe", {"selection_lr": 0.02, "keep": 0.2})
    model = SelectedFeatures(TAPPED, config.keep, CLASSES)
    select(model, GivenBatches(finding_batches(), masked_bce), config)
    weight = torch.zeros(CLASSES, TAPPED + 1, dtype=torch.float64)
    optimizer = torch.optim.Adam([weight.requires_grad_(True)], lr=config.selection_lr)
    for epoch in range(config.selection_epochs):
        optimizer.param_groups[0]["lr"] *= 0
        optimizer.param_groups[0]["lr"] += config.selection_lr * (1 + math.cos(math.pi * epoch / 10)) / 2
        for inputs, targets in finding_batches():
            gradient, known = torch.zeros_like(weight), 0
            for i in range(B):
                x = torch.cat([inputs["features"][i].double(), torch.ones(1)])
                for c in range(CLASSES):
                    if not targets[i, c].isnan():
                        known += 1
                        gradient[c] += (torch.sigmoid(weight[c].detach() @ x) - targets[i, c]) * x
            norms = weight.detach()[:, :-1].norm(dim=0)
            weight.grad = gradient / known
            weight.grad[:, :-1] += config.group_lasso * weight.detach()[:, :-1] / norms.where(norms > 0, 1.0)
            optimizer.step()
    scores = weight.detach()[:, :-1].square().sum(0)
    assert model.selected.tolist() == sorted(scores.topk(8).indices.tolist())


def test_keeping_all_is_a_linear_head_on_all_taps() -> None:
    torch.manual_seed(0)
    model = SelectedFeatures(TAPPED, 1.0, CLASSES)
    torch.manual_seed(0)
    head = new_head(TAPPED, CLASSES)
    select(model, GivenBatches([]), make_config("head2toe", {"keep": 1}))  # nothing to select: no batch is looked at
    x, _ = data()
    torch.testing.assert_close(model(features=x), head(x), rtol=0, atol=0)


def test_a_share_is_kept_of_at_least_one_feature_and_at_most_all() -> None:
    assert len(SelectedFeatures(TAPPED, 1e-9, CLASSES).selected) == 1
    for keep in (0, 1.5):
        with pytest.raises(UserError, match=r"keep of head2toe must be a number, above 0 and at most 1"):
            make_config("head2toe", {"keep": keep})


def test_what_no_description_taps_is_refused() -> None:
    assert "taps" in described("regnety_002").lacks
    with pytest.raises(UserError, match="which has no description of networks like it"):
        build_parts("head2toe", make_config("head2toe", {}), "regnety_002", 3, 64)


def test_memory_is_predicted_with_the_selection() -> None:
    """Its head on all features is there with its gradient and Adam's state."""
    prediction = predict_memory(MemoryPoint("head2toe", 64, 4, "vit_tiny_patch16_224"))
    assert set(prediction.phases) == {"setup", "preload", "prepare", "train", "eval"}
    num_tapped = 12 * 7 * 192 + 4 * 192
    assert prediction.phases["prepare"].allocated > 4 * 4 * 5 * num_tapped
    assert prediction.feature_bytes == 4 * 2 * num_tapped
