"""Frozen weights in the type they compute in: which ones are cast, and that nothing else changes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_process import TINY, records
from inside import finish_inside
from small_backbones import ALL, NARROW, SMALL, make
from timm.layers import StdConv2d
from tiny_images import make_images
from torch import Tensor, nn

from benchmarks.config import Precision
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.suite.run import Run
from benchmarks.training.frozen import cast_frozen, weights_type
from benchmarks.training.step import AUTOCAST_DTYPES, extraction_step
from methods import METHODS
from methods.contract import Head, freeze

PRELOADING = list({method.extractor: name for name, method in METHODS.items() if method.has_extractor}.values())


def test_linear_and_convolution_weights_are_cast_and_nothing_else() -> None:
    network = nn.ModuleDict(
        {
            **{"linear": nn.Linear(4, 4), "conv": nn.Conv2d(3, 4, 2), "norm": nn.LayerNorm(4)},
            **{"standardised": StdConv2d(3, 4, 2), "head": Head(4, 2), "trains": nn.Linear(4, 4)},
            **{"spared": nn.Linear(4, 4), "tied": nn.Linear(4, 4), "table": nn.Embedding(4, 4)},
        }
    )
    network["table"].weight = network["tied"].weight  # an embedding reads it in fp32
    freeze(network)
    network["trains"].requires_grad_(True)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    cast_frozen(network, "bf16", network["spared"].parameters())
    cast = {name for name, parameter in network.named_parameters() if parameter.dtype == torch.bfloat16}
    assert cast == {"linear.weight", "linear.bias", "conv.weight", "conv.bias", "tied.bias"}
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name].to(parameter.dtype))
    assert network["table"].weight is network["tied"].weight


@pytest.mark.parametrize(("precision", "name"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_the_type_is_named_and_fp32_changes_nothing(precision: Precision, name: str) -> None:
    layer = nn.Linear(4, 4)
    freeze(layer)
    cast_frozen(layer, precision)
    assert str(layer.weight.dtype) == f"torch.{name}" and weights_type(precision) == name


def extracted_twice(extractor: nn.Module, image: Tensor, precision: Precision) -> tuple[Any, Any]:
    """Features under autocast, of fp32 weights and of cast ones."""
    before = extraction_step(copy.deepcopy(extractor), image, precision, "cpu")
    cast_frozen(extractor, precision)
    return before, extraction_step(extractor, image, precision, "cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", PRELOADING)
def test_features_of_cast_weights_are_those_of_autocast(method: str, precision: Precision) -> None:
    torch.manual_seed(0)
    options = NARROW.get(method, {}) | ({"side_reduction": 4} if method in ("fpt", "fpt_plus") else {})
    extractor = build_parts(method, make_config(method, options), f"vit_tiny_patch16_224[{SMALL}]", 2, 64).extractor
    assert extractor is not None
    before, after = extracted_twice(extractor, torch.randn(3, 3, 64, 64), precision)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert any(parameter.dtype == AUTOCAST_DTYPES[precision] for parameter in extractor.parameters())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of AIMv2's norms, on a CPU
@pytest.mark.parametrize("family", ALL)
def test_every_family_computes_the_same_with_cast_weights(family: str) -> None:
    backbone, image = make(family)
    freeze(backbone)
    before, after = extracted_twice(_Named(backbone), image, "bf16")
    assert torch.equal(before["feature"], after["feature"])


class _Named(nn.Module):
    """A backbone as an extractor."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"feature": self.backbone(image)}


def test_features_do_not_depend_on_how_many_images_are_extracted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 64 px: below, MKL multiplies the few tokens of one image by another kernel, which rounds otherwise."""
    make_images(tmp_path / "images")
    stored = {}
    for at_once in (1, 3, 16):
        monkeypatch.setattr(Run, "_images_at_once", lambda *_, at_once=at_once: at_once)
        folder = tmp_path / str(at_once)
        folder.mkdir()
        (folder / "images").symlink_to(tmp_path / "images")
        options = ["--methods", "fpt", *TINY, "--epochs", "1", "--set", "fpt.side_resolution=32", "--res", "64"]
        ended = finish_inside(folder, *options)
        assert ended.returncode == 0, ended.stderr
        preload = records(folder / "results")["fpt"]["measurements"]["preload"]
        assert (preload["batch_size"], preload["weights_dtype"]) == (at_once, "float32")
        (cache,) = (folder / ".cache" / "features").glob("[!.]*")
        stored[at_once] = {path.name: path.read_bytes() for path in cache.glob("*.bin")}
    assert set(stored[1]) == {"keys.bin", "values.bin", "rows.bin"}
    assert stored[1] == stored[3] == stored[16]


def test_a_card_bounds_how_many_images_are_extracted_at_once(tmp_path: Path) -> None:
    """The largest number that fits, recorded and said; nothing runs where not even one does."""
    make_images(tmp_path / "images")
    options = ["--methods", "linear", "lora", *TINY, "--epochs", "1", "--res", "64"]
    refused = finish_inside(tmp_path, *options, "--gpu-memory", "0.5GB")
    assert refused.returncode != 0
    assert "gpu-memory must be at least 0.8" in refused.stderr and "for linear at 64 px" in refused.stderr
    stored = records(tmp_path / "results")
    assert {name: record["status"]["state"] for name, record in stored.items()} == {"linear": "failed", "lora": "ok"}
    assert "gpu-memory must be at least" in stored["linear"]["status"]["message"]
    assert not stored["linear"]["measurements"].get("preload")
    ended = finish_inside(tmp_path, *options, "--gpu-memory", "24GB", "--retry-failed")
    assert ended.returncode == 0, ended.stderr
    preload = records(tmp_path / "results")["linear"]["measurements"]["preload"]
    assert (preload["batch_size"], preload["gpu_memory_bytes"]) == (4, 24 * 2**30)
    assert "features are extracted 4 images at a time" in ended.stderr
    assert f"{preload['images_per_second']:.1f} images/s, 4 at a time" in ended.stderr


def test_a_card_must_be_an_amount(tmp_path: Path) -> None:
    ended = finish_inside(tmp_path, "--methods", "linear", *TINY, "--gpu-memory", "much")
    assert ended.returncode == 2 and "gpu-memory must be like 24GB" in ended.stderr
