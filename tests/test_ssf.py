"""The worked example of docs/add_a_method.md: SSF against the plain ViT, its closed formula, and its merged weights."""

import copy

import pytest
import torch
from torch import Tensor

from benchmarks.model.backbone import create_backbone
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.training.step import make_optimization, training_step
from docs.examples import ssf
from methods import METHODS
from methods.contract import ImageModel
from methods.full import METHOD as FULL

BACKBONE = "vit_tiny_patch16_224"


def make_model(settings: str = "") -> ImageModel:
    torch.manual_seed(0)
    return ssf.build(create_backbone(BACKBONE + settings, 64), 3, ssf.Config()).eval()


def image() -> Tensor:
    return torch.randn(2, 3, 64, 64)


def test_without_scale_and_shift_it_is_the_plain_vit() -> None:
    model = make_model()
    plain = FULL.build(create_backbone(BACKBONE, 64), 3, FULL.config()).eval()
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(("gamma", "beta"))}
    unwrapped = {name.replace(".0.weight", ".weight").replace(".0.bias", ".bias"): own[name] for name in own}
    plain.load_state_dict({name: unwrapped[name] for name in plain.state_dict()})
    x = image()
    with torch.no_grad():
        assert not torch.allclose(model(image=x), plain(image=x), atol=1e-3)
        for module in model.modules():
            if isinstance(module, ssf.ScaleShift):
                module.gamma.fill_(1)
                module.beta.zero_()
        torch.testing.assert_close(model(image=x), plain(image=x), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "depth"), [("vit_tiny_patch16_224", 12), ("vit_small_patch16_224", 5)])
def test_trainable_count_equals_the_closed_formula(name: str, depth: int) -> None:
    with torch.device("meta"):
        backbone = create_backbone(f"{name}[depth={depth}]")
        width, count = backbone.embed_dim, ssf.count(backbone, ssf.Config())
        model = ssf.METHOD.build(backbone, 3, ssf.Config())
    own = [p for key, p in model.named_parameters() if p.requires_grad and not key.startswith("head.")]
    assert sum(parameter.numel() for parameter in own) == count == depth * 22 * width + 4 * width


@pytest.mark.parametrize("settings", ["", "[qkv_bias=false]", "[pre_norm=true]", "[global_pool=avg]"])
def test_merged_computes_the_same_with_none_of_its_layers(settings: str) -> None:
    """Also where there is no bias to fold a shift into, and where the final norm stands behind the pooling."""
    model = make_model(settings).double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    merged, x = ssf.merge(copy.deepcopy(model)), image().double()
    assert not any(isinstance(module, ssf.ScaleShift) for module in merged.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(merged(image=x), model(image=x), rtol=1e-9, atol=1e-9)


def test_a_step_moves_every_scale_and_shift_and_nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "ssf", ssf.METHOD)
    model = build_parts("ssf", make_config("ssf", {}), BACKBONE, 3, 64).model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimization = make_optimization(model, 1e-3, 0.0, "fp32", "cpu")
    training_step(model, {"image": image()}, torch.tensor([0, 1]), optimization)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.endswith(("gamma", "beta", "head.weight", "head.bias")), name
        assert parameter.requires_grad != torch.equal(parameter, before[name]), name
