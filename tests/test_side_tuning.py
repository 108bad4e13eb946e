"""Side-Tuning: against the linear probe, timm's ViT as its side network, and the blend of both by hand."""

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.func import functional_call

from benchmarks.model.build import Parts, build_parts
from benchmarks.model.method_config import make_config
from benchmarks.speed.side_plain import TRANSCRIPTIONS
from benchmarks.training.step import GivenBatches, extraction_step
from methods import METHODS
from methods.probes.linear import LinearProbe, standardize
from methods.side.fpt_parts.fast_path import plain_path

BACKBONE = "vit_tiny_patch16_224[depth=2]"
SIDE = 64


def make() -> tuple[Parts, Any, Tensor, Tensor]:
    """The parts, the model apart, its low view and two batches' feature."""
    torch.manual_seed(0)
    config = make_config("side_tuning", {"side_resolution": 32, "side_reduction": 4})
    parts = build_parts("side_tuning", config, BACKBONE, 3, SIDE)
    model: Any = parts.model
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.blend.data.zero_()
    assert parts.extractor is not None
    feature = extraction_step(parts.extractor, torch.randn(6, 3, SIDE, SIDE), "fp32", "cpu")["feature"]
    return parts, model, torch.randn(6, 3, 32, 32), feature


def side_feature(model: Any, image_low: Tensor) -> Tensor:
    """By timm's own ViT with the same weights."""
    vit = VisionTransformer(img_size=32, patch_size=16, num_classes=0, embed_dim=48, depth=2, num_heads=3)
    side: Tensor = functional_call(vit, dict(model.side_network.named_parameters()), image_low)
    return side @ model.proj.weight.T + model.proj.bias


def test_with_the_blend_at_one_it_is_the_linear_probe() -> None:
    _, model, image_low, feature = make()
    probe = LinearProbe(192, 3)
    probe.head.load_state_dict(model.head.state_dict())
    batches = [({"feature": part}, torch.zeros(len(part))) for part in feature.split(4)]
    standardize(probe, batches)
    METHODS["side_tuning"].recipe(model, None, 2).prepare(model, GivenBatches(batches))  # type: ignore[misc]
    model.blend.data.fill_(40.0)
    torch.testing.assert_close(model(image_low, feature), probe(feature), rtol=0, atol=1e-6)


@pytest.mark.parametrize("plain", [False, True])
def test_it_is_the_blend_of_the_feature_and_a_vits(plain: bool) -> None:
    """Outputs and gradients at three blends, the side network alone among them."""
    if plain:
        with plain_path():
            _, model, image_low, feature = make()
    else:
        _, model, image_low, feature = make()
    assert model.blend.sigmoid().item() == 0.5
    for a, alpha in ((0.0, 0.5), (1.0, 0.7310586), (-40.0, 0.0)):
        model.blend.data.fill_(a)
        blended = alpha * feature + (1 - alpha) * side_feature(model, image_low)
        expected = blended @ model.head.weight.T + model.head.bias
        found = model(image_low, feature)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        trains = [*model.side_network.parameters(), *model.proj.parameters(), *model.head.parameters()]
        gradients = [torch.autograd.grad(logits.square().sum(), trains) for logits in (found, expected)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_transcription_whose_memory_is_compared_is_the_same() -> None:
    with plain_path():
        _, plain, image_low, feature = make()
    _, lean, _, _ = make()
    found = TRANSCRIPTIONS["side_tuning"](plain, image_low, feature)
    torch.testing.assert_close(found, lean(image_low, feature), rtol=1e-4, atol=1e-5)


def test_it_reads_the_linear_probes_cache() -> None:
    assert METHODS["side_tuning"].extractor is METHODS["linear"].extractor
