"""SSF, the worked example of docs/add_a_method.md, and DiffFit: against the plain ViT, by closed formulas, merged."""

import copy
import re

import pytest
import torch
from added import SIDE, SIZES, attention, awake, check_memory, count, make, mlp, tokens_of
from torch import Tensor

from benchmarks.errors import UserError
from benchmarks.model.backbone import create_backbone
from docs.tables import kept
from methods.adapters import ssf
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


def test_a_norm_without_a_shift_has_none_to_fold_one_into() -> None:
    name = f"{BACKBONE}[depth=2,norm_layer=RmsNorm]"
    with pytest.raises(UserError, match=r"backbone must suit ssf, .* which has norms without a shift \(RmsNorm\)"):
        make("ssf", name)


# DiffFit.


@pytest.mark.parametrize("backbone", SIZES)
def test_difffit_computes_its_equation(backbone: str) -> None:
    model, image = awake(make("difffit", backbone)), torch.randn(2, 3, SIDE, SIDE)
    vit = model.backbone.trunk
    with torch.no_grad():
        x = tokens_of(vit, image)
        for block in vit.blocks:
            (scale1, gamma1), (scale2, gamma2) = block.ls1, block.ls2
            x = x + gamma1.gamma * scale1(attention(block, block.norm1(x)))
            x = x + gamma2.gamma * scale2(mlp(block.mlp, block.norm2(x)))
        torch.testing.assert_close(model(image=image), model.head(vit.norm(x)[:, 0]), rtol=1e-4, atol=1e-5)


def test_difffit_is_the_plain_vit_with_other_projections() -> None:
    """A branch's factors times the rows and biases of its last layer."""
    model, plain = awake(make("difffit")), make("full").eval()
    own = dict(model.named_parameters())
    state = {name: own[name] for name, _ in plain.named_parameters()}
    for index in range(3):
        for layer, gamma in (("attn.proj", "ls1.1.gamma"), ("mlp.fc2", "ls2.1.gamma")):
            block, factors = f"backbone.trunk.blocks.{index}.", own[f"backbone.trunk.blocks.{index}.{gamma}"]
            assert (factors - 1).abs().max() > 0.1
            state[f"{block}{layer}.weight"] = state[f"{block}{layer}.weight"] * factors[:, None]
            state[f"{block}{layer}.bias"] = state[f"{block}{layer}.bias"] * factors
    plain.load_state_dict(state, strict=False)
    image = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(model(image=image), plain(image=image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", SIZES)
def test_of_timms_names_difffit_trains_biases_and_norms(backbone: str) -> None:
    names = {name for name, p in make("difffit", backbone).backbone.trunk.named_parameters() if p.requires_grad}
    width, depth = SIZES[backbone]
    factors = {f"blocks.{index}.{scale}.1.gamma" for index in range(depth) for scale in ("ls1", "ls2")}
    timms = {name for name, _ in make("full", backbone).backbone.trunk.named_parameters()}
    assert names == factors | {name for name in timms if re.fullmatch(r".*\.bias|.*norm[12]?\.weight", name)}
    assert count("difffit", backbone) == depth * 15 * width + 3 * width


@pytest.mark.parametrize("backbone", ["convnext_atto", "resnet18"])
def test_difffit_is_refused_where_there_is_no_attention(backbone: str) -> None:
    with pytest.raises(UserError, match=f"backbone must suit difffit, got '{backbone}', which has no attention"):
        make("difffit", backbone, 64)


# Memory.


def test_the_input_of_every_scale_is_kept() -> None:
    """Of SSF more than the 16 N·D of full fine-tuning, of DiffFit both branches' outputs."""
    assert [kept(method) for method in ("ssf", "difffit")] == ["21.0", "12.0"]


@pytest.mark.parametrize(("method", "more"), [("ssf", True), ("difffit", False)])
def test_memory_is_predicted_in_every_phase(method: str, more: bool) -> None:
    check_memory(method, more_than_full=more)
