"""A backbone's name with its settings."""

import pytest

from benchmarks.errors import UserError
from benchmarks.model.backbone import check_backbone, create_backbone, described
from benchmarks.model.spec import Spec, make_spec, parse_spec


@pytest.mark.parametrize(
    "text",
    [
        "vit_tiny_patch16_224",
        "vit_large_patch16_224.augreg_in21k[init_values=1e-05]",
        "swinv2_tiny_window8_256[depths=[1,2,1,1],num_heads=[1,1,2,2]]",
        "hf-hub:owner/name[pool=cls+avg]",
        "vit[act_layer=SiLU,no_embed_class=true,pool=cls]",
    ],
)
def test_a_text_reads_back(text: str) -> None:
    assert str(parse_spec(text)) == text


def test_equal_settings_are_one_text() -> None:
    made = make_spec("vit", ["pool=cls", "reg_tokens=8", " depth = 24"])
    assert made == Spec("vit", {"depth": 24, "reg_tokens": 8}, "cls")
    assert str(made) == "vit[depth=24,reg_tokens=8,pool=cls]"
    assert str(make_spec("vit", [], "native")) == "vit"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vit[depth]", "backbone argument must be like depth=24, got 'depth'"),
        ("vit[]", "backbone argument must be like depth=24, got ''"),
        ("vit[depth=[1]", r"backbone argument must have a value that YAML can read, got 'depth=\[1'"),
        ("vit[depth=1,depth=2]", "backbone arguments must each be given once, got 'depth' twice"),
        ("vit[pool=max]", r"pool must be one of native, cls, avg, cls\+avg, got 'max'"),
    ],
)
def test_what_is_no_setting_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_spec(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tiny_patch16_225",
            "backbone must be a model of timm .*, got 'vit_tiny_patch16_225'; nearest: vit_tiny_p",
        ),
        ("resnet5O", "got 'resnet5O'; nearest: resnet50"),
        ("vit_tiny_patch16_224[colour=red]", r"can be made, got '.*\[colour=red\]' \(TypeError: .*colour"),
        ("vit_tiny_patch16_224[num_heads=5]", r"can be made, got '.*\[num_heads=5\]' \(AssertionError: dim should be"),
    ],
)
def test_a_backbone_that_cannot_be_made_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_backbone(name)


def test_arguments_reach_the_network() -> None:
    """UNI2's, by the names of their classes: a gate by SiLU, which a GELU would be without `act_layer`."""
    backbone = create_backbone(
        "vit_tiny_patch16_224[depth=2,embed_dim=48,num_heads=3,reg_tokens=8,no_embed_class=true,init_values=1e-5,"
        "mlp_layer=SwiGLUPacked,act_layer=SiLU]"
    )
    block = backbone.trunk.blocks[0]
    assert (len(backbone.blocks()), backbone.embed_dim, backbone.num_prefix_tokens) == (2, 48, 9)
    assert type(block.mlp.act).__name__ == "SiLU" and block.mlp.fc1.out_features == 192 == 2 * block.mlp.fc2.in_features
    assert block.ls1.gamma.mean().item() == pytest.approx(1e-5)


def test_a_hybrids_patch_is_what_a_token_sees() -> None:
    assert described("vit_small_r26_s32_224").stride == 32
