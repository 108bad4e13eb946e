"""Backbones that a folder or a repository of the hub describes in its own `config.json`."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from test_layouts import randomised
from test_weights import break_downloads, hub_cache, refusal
from torch import nn

from benchmarks.errors import MachineError, UserError
from benchmarks.model.backbone import create_backbone
from benchmarks.model.published import is_published, published_backbone, without_folder
from benchmarks.model.weights import load_weights, resolve_weights


@pytest.fixture(autouse=True)
def fresh() -> None:
    published_backbone.cache_clear()


def published_folder(folder: Path, **changes: Any) -> str:
    """A model as timm's `save_for_hf` writes it."""
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 64, "global_pool": ""},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "mit"},
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return f"local-dir:{folder}"


def tiny() -> nn.Module:
    """The model that `published_folder` describes, made without it."""
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=2, img_size=64, global_pool="token", num_classes=0
    )
    return randomised(model)


def test_a_folder_describes_its_backbone(tmp_path: Path) -> None:
    name = published_folder(tmp_path / "model")
    save_file(tiny().state_dict(), tmp_path / "model/model.safetensors")
    backbone = published_backbone(name)
    assert is_published(name) and backbone.name == name
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (backbone.licence, backbone.hub_id, backbone.pool) == ("mit", None, "native")
    model: Any = backbone.create()
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
        key: tensor.shape for key, tensor in tiny().state_dict().items()
    }
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 24)  # an empty pooling would leave the tokens
    larger: Any = backbone.create(img_size=128)
    assert larger.patch_embed.grid_size == (8, 8)


def test_a_folders_backbone_has_a_name_without_its_path(tmp_path: Path) -> None:
    """The same network by timm's name, arguments and native size, from settings of its own and those asked for."""
    cfg = {"input_size": [3, 96, 96], "fixed_input_size": True}
    name = published_folder(tmp_path / "model", model_args={"embed_dim": 24, "num_heads": 2}, pretrained_cfg=cfg)
    save_file(tiny().state_dict(), tmp_path / "model/model.safetensors")
    spec, path = without_folder(f"{name}[depth=2,pool=avg]")
    assert spec == "vit_tiny_patch16_224[depth=2,embed_dim=24,img_size=96,num_heads=2,pool=avg]"
    assert path == tmp_path / "model/model.safetensors"
    with torch.device("meta"):
        own, named = create_backbone(spec), create_backbone(f"{name}[depth=2,pool=avg]")
    own.drop_head()
    assert [(key, p.shape) for key, p in own.named_parameters()] == [(k, p.shape) for k, p in named.named_parameters()]
    assert without_folder("vit_tiny_patch16_224[pool=avg]") == ("vit_tiny_patch16_224[pool=avg]", None)


@pytest.mark.parametrize("requested", ["auto", "hub"])
def test_a_folder_gives_its_weights(tmp_path: Path, requested: str) -> None:
    name, file = published_folder(tmp_path / "model"), tmp_path / "model/model.safetensors"
    save_file(tiny().state_dict(), file)
    weights = resolve_weights(requested, name, tmp_path)
    assert (weights.source, weights.backbone, weights.path, weights.fallback) == ("file", name, file, False)
    model: Any = published_backbone(name).create()
    loaded = load_weights(weights)
    assert loaded is not None
    model.load_state_dict(loaded)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(image), tiny()(image), rtol=0, atol=0)


def test_a_native_size_that_only_the_configuration_states_counts(tmp_path: Path) -> None:
    cfg = {"input_size": [3, 96, 96], "fixed_input_size": True}
    name = published_folder(tmp_path / "model", model_args={"depth": 1}, pretrained_cfg=cfg)
    model: Any = published_backbone(name).create()
    assert model.patch_embed.img_size == (96, 96)


def test_an_old_configuration_has_all_on_one_level(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "mean": [1, 0.5, 0]}))
    backbone = published_backbone(f"local-dir:{folder}")
    assert backbone.mean == (1.0, 0.5, 0.0) and backbone.std is None


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    name = published_folder(tmp_path / "model")
    with pytest.raises(
        UserError, match=r"backbone must have weights on the hub, got 'local-dir:.*', which has none there; pass"
    ):
        resolve_weights("auto", name, tmp_path)


BROKEN: dict[str, tuple[Any, str]] = {
    "junk": (b"{", r"got no JSON \(.*\); pass the backbone's timm name and --weights FILE"),
    "list": (b"[]", r"got a list; pass the backbone's timm name"),
    "transformers": (
        {"architectures": ["Dinov2Model"], "model_type": "dinov2"},
        r"must describe a timm model \(architecture, model_args, pretrained_cfg\), got one of Hugging Face "
        r"transformers, \['Dinov2Model'\]; pass the backbone's timm name and --weights FILE",
    ),
    "unknown": ({"architecture": "vit_x"}, r"got architecture 'vit_x'; pass"),
    "arguments": ({"architecture": "vit_tiny_patch16_224", "model_args": [1]}, r"got model_args \[1\]; pass"),
    "strange": (
        {"architecture": "vit_tiny_patch16_224", "model_args": {"colour": 1}},
        r"got vit_tiny_patch16_224 with \{'colour': 1\}, which timm cannot make \(.*colour.*\); pass",
    ),
    "mean": ({"architecture": "vit_tiny_patch16_224", "mean": [1, 2]}, r"got mean \[1, 2\]; pass"),
    "cfg": ({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": 3}, r"got a pretrained_cfg of 3; pass"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_configuration_is_refused(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=f"config.json of backbone 'local-dir:.*{message}") as error:
        published_backbone(f"local-dir:{tmp_path}")
    assert "\n" not in str(error.value)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"must have a config\.json, got none at '.*config\.json' \(No such file.*\); na"
    ):
        published_backbone(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:owner", "hf-hub:owner/name/more", "hf-hub:../x y"])
def test_a_repository_has_an_owner_and_a_name(name: str) -> None:
    with pytest.raises(UserError, match="backbone of the hub must be hf-hub:owner/name, got 'hf-hub:"):
        published_backbone(name)


def test_a_repository_describes_its_backbone_and_gives_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    asked = hub_cache(tmp_path, monkeypatch, "pytorch_model.bin", {"state_dict": tiny().state_dict()})
    weights_of = huggingface_hub.hf_hub_download
    published_folder(tmp_path / "model")

    def download(hub_id: str, name: str) -> str:
        assert hub_id == "owner/name"
        return str(tmp_path / "model" / name) if name == "config.json" else weights_of(hub_id, name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert published_backbone("hf-hub:owner/name").hub_id == "owner/name"
    weights = resolve_weights("auto", "hf-hub:owner/name", tmp_path)
    assert (weights.source, weights.fallback) == ("hub", False)
    assert weights.path is not None and weights.path.name.startswith("hf-hub_owner_name.")
    loaded = load_weights(weights)
    assert loaded is not None and loaded.keys() == tiny().state_dict().keys()
    assert [name for _, name in asked] == ["model.safetensors", "pytorch_model.bin"]
    assert resolve_weights("auto", "hf-hub:owner/name", tmp_path) == weights and len(asked) == 2


def test_a_configuration_in_the_hubs_cache_is_read_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_folder(tmp_path / "model")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "model/config.json"))
    break_downloads(monkeypatch, AssertionError("not to be asked"))
    assert published_backbone("hf-hub:owner/name").mean == (0.1, 0.2, 0.3)


def test_a_gated_repository_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    break_downloads(monkeypatch, refusal(403))
    message = r"hub must give the config.json of hf-hub:owner/name, got status 403; ask for access .* --weights FILE"
    with pytest.raises(MachineError, match=message):
        published_backbone("hf-hub:owner/name")
