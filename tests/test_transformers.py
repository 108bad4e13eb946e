"""Layouts of Hugging Face transformers against that library itself, where it is installed: it is no dependency."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_layouts import GATED, REGISTERS, ROTARY, SCALED, eva, fitted, randomised, vit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of that library about itself

WIDTH = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
MLP = {"intermediate_size": 96, "layer_norm_eps": 1e-6}
ROUND = {"image_size": 64, "patch_size": 16, "num_register_tokens": 4, "layer_norm_eps": 1e-5}
# model of the library -> (its configuration, its options, the timm model)
MODELS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "ViTModel": ("ViTConfig", {**WIDTH, **MLP}, vit),
    "Dinov2Model": ("Dinov2Config", {**WIDTH, "mlp_ratio": 4}, partial(vit, **SCALED)),
    "Dinov2Model-gated": (
        "Dinov2Config", {**WIDTH, "mlp_ratio": 4, "use_swiglu_ffn": True},
        partial(vit, **SCALED, **{**GATED, "mlp_ratio": 128 / 24}),
    ),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {**WIDTH, "mlp_ratio": 4}, partial(vit, **REGISTERS)),
    "DINOv3ViTModel": (
        "DINOv3ViTConfig", {**WIDTH, **ROUND, "intermediate_size": 96},
        partial(eva, **ROTARY, rope_temperature=100.0, rope_rotate_half=True, qkv_bias=True, global_pool="token"),
    ),
    "SiglipVisionModel": (
        "SiglipVisionConfig", {**WIDTH, **MLP},
        partial(vit, class_token=False, global_pool="map", act_layer="gelu_tanh"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_file_of_the_library_says_what_its_model_says(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    config, options, create = MODELS[model]
    theirs = getattr(transformers, model.partition("-")[0])(getattr(transformers, config)(**options))
    randomised(theirs)
    theirs.save_pretrained(tmp_path)
    found = fitted(monkeypatch, tmp_path / "model.safetensors", create)
    ours = create().eval()
    ours.load_state_dict(found.state)
    side = options["image_size"]
    image = torch.rand(2, 3, side, side)
    with torch.no_grad():
        answer = theirs(image)
        expected = answer.pooler_output if model.startswith("Siglip") else answer.last_hidden_state[:, 0]
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(image), expected, rtol=1e-5, atol=1e-5)
