"""What only a GPU can show: measured memory against predicted, and a suite that runs there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_process import TINY, finish, records
from tiny_images import make_images
from torch import nn

from benchmarks.config import Attention
from benchmarks.data.augment import Preprocessing, draw_augmentation
from benchmarks.memory.measure import measure_points
from benchmarks.memory.measured import record_path
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.training.quantized import Kind, QuantizedLinear
from methods.side.fpt_parts.lean_extraction import attend_fused, attend_in_chunks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
ON_GPU = ["cuda" if argument == "cpu" else argument for argument in TINY]

POINTS = [
    MemoryPoint("full", 384, precision="fp32", attention="eager"),
    MemoryPoint("lora", 512, precision="bf16", attention="sdpa"),
    MemoryPoint("vpt", 512, precision="bf16", attention="sdpa", grad_checkpointing=True),
    MemoryPoint("fpt", 512, precision="fp32", attention="sdpa"),
    MemoryPoint("fpt_plus", 512, precision="bf16", attention="sdpa"),
    MemoryPoint("lora", 512, precision="bf16", attention="sdpa", quantize="nf4"),
    MemoryPoint("adapter", 512, precision="fp32", attention="sdpa", quantize="int8"),
    MemoryPoint("fpt", 512, precision="bf16", attention="sdpa", quantize="nf4"),
]


def test_the_prediction_is_within_3_percent_of_what_is_measured(tmp_path: Path) -> None:
    measured = list(measure_points(POINTS, tmp_path, torch.device("cuda:0"), tmp_path, allow_busy=True))
    for point, record in zip(POINTS, measured, strict=True):
        assert record["status"]["state"] == "ok", record["status"]
        assert json.loads(record_path(tmp_path, point).read_text()) == record
        predicted = predict_memory(point).phases
        for phase, peaks in record["memory"]["phases"].items():
            allocated = peaks["peak_allocated_bytes"]
            assert predicted[phase].allocated == pytest.approx(allocated, rel=0.03), (point.name, phase)
            assert allocated <= peaks["peak_reserved_bytes"] <= peaks["peak_process_bytes"]
        assert all(seconds > 0 for seconds in record["seconds_per_step"].values())


def test_out_of_memory_is_a_result(tmp_path: Path) -> None:
    point = MemoryPoint("full", 1024, batch_size=256, precision="fp32", attention="eager")
    (record,) = measure_points([point], tmp_path, torch.device("cuda:0"), tmp_path, allow_busy=True)
    assert record["status"]["state"] == "oom"
    assert record["status"]["phase"] == "train"
    assert set(record["memory"]["phases"]) == {"setup"}


def run_suite(folder: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    ended = finish(folder, *arguments, *ON_GPU, "--epochs", "2")
    assert ended.returncode == 0, ended.stderr
    return records(folder / "results")


def test_a_suite_measures_memory_in_every_phase(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    stored = run_suite(tmp_path, "--methods", "linear", "lora", "fpt_plus")
    for method, record in stored.items():
        phases = record["measurements"]["memory"]["phases"]
        assert set(phases) == {"setup", "train", "eval"} | ({"preload"} if method != "lora" else set())
        for peaks in phases.values():
            assert 0 < peaks["peak_allocated_bytes"] <= peaks["peak_reserved_bytes"] <= peaks["peak_process_bytes"]
        assert "predicted_memory" not in record["measurements"]
        assert record["run"]["config"]["precision"] == "bf16"
        assert record["environment"]["device"] == torch.cuda.get_device_name()


def test_a_run_out_of_gpu_memory_is_a_result_and_the_next_one_runs(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    flags = ("--res", "2048", "32", "--batch-size", "10", "--attention", "eager", "--precision", "fp32")
    ended = finish(tmp_path, "--methods", "full", *ON_GPU, "--epochs", "2", *flags)  # 30 GiB of scores a layer
    assert ended.returncode == 0, ended.stderr
    assert "runs: 1 ok, 1 oom; records in results/runs" in ended.stderr
    stored = {path.name[:11]: json.loads(path.read_text()) for path in (tmp_path / "results/runs").glob("*.json")}
    status = stored["images-2048"]["status"]
    assert (status["state"], status["phase"]) == ("oom", "train")
    assert status["message"].startswith("GPU memory: ") and "CUDA out of memory" in status["message"]


@pytest.mark.parametrize("method", ["linear", "fpt", "vqt"])
def test_preloaded_and_live_features_train_alike(tmp_path: Path, method: str) -> None:
    make_images(tmp_path / "images")
    aucs = {}
    for preload in ("on", "off"):
        folder = tmp_path / preload
        folder.mkdir()
        (folder / "images").symlink_to(tmp_path / "images")
        record = run_suite(folder, "--methods", method, "--preload", preload, "--precision", "fp32")[method]
        aucs[preload] = [epoch["loss"] for epoch in record["measurements"]["history"]]
    assert aucs["on"] == pytest.approx(aucs["off"], rel=1e-3)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("method", ["lora", "fpt", "fpt_plus"])
def test_compiled_steps_give_the_same_losses(tmp_path: Path, method: str, mode: str) -> None:
    make_images(tmp_path / "images")
    found = {}
    for how in ("none", mode):
        folder = tmp_path / how
        folder.mkdir()
        (folder / "images").symlink_to(tmp_path / "images")
        record = run_suite(folder, "--methods", method, "--compile", how, "--precision", "fp32")[method]
        found[how] = [entry["loss"] for entry in record["measurements"]["history"]]
    assert found[mode] == pytest.approx(found["none"], rel=1e-3)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_layer_is_that_of_the_cpu(kind: Kind) -> None:
    torch.manual_seed(0)
    layer, x, upstream = QuantizedLinear(nn.Linear(768, 3072), kind), torch.randn(8, 768), torch.randn(8, 3072)
    found = []
    for device in ("cpu", "cuda"):
        layer, leaf = layer.to(device), x.to(device).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(leaf), leaf, upstream.to(device))
        found.append([tensor.detach().cpu() for tensor in (layer.weight, layer(leaf), gradient)])
    (weight, *others), (on_gpu, *others_on_gpu) = found
    assert torch.equal(weight, on_gpu)
    torch.testing.assert_close(others_on_gpu, others, rtol=1e-4, atol=1e-4)


def test_augmentation_is_that_of_the_cpu() -> None:
    images = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8)
    prepared = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        torch.manual_seed(0)
        preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), device)
        prepared.append(preprocessing(images.to(device), draw_augmentation(16, 224)).cpu())
    torch.testing.assert_close(prepared[0], prepared[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_extraction_counts_as_eager_fp32_does(dtype: torch.dtype) -> None:
    """The kernels of CUDA that return a log-sum-exp, and what each token receives; off a multiple of 32 tokens."""
    torch.manual_seed(0)
    query, key, value = ((torch.randn(2, 12, 1025, 64, device="cuda") * 1.5).to(dtype) for _ in range(3))
    attended, received = attend_fused(query, key, value, 64**-0.5)
    expected = attend_in_chunks(query.float(), key.float(), value.float(), 64**-0.5)
    torch.testing.assert_close(received, expected[1], rtol=1e-4, atol=0)
    error = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(attended.float(), expected[0], rtol=error, atol=error)


@pytest.mark.parametrize("method", ["fpt", "fpt_plus"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fpt_computes_on_a_gpu_what_it_computes_on_a_cpu(
    method: str, attention: Attention, checkpointing: bool
) -> None:
    torch.manual_seed(0)
    config = make_config(method, {"dropout": 0.0, "side_resolution": 64})
    model = build_parts(method, config, "vit_small_patch16_224", 3, 64, attention, checkpointing).model
    layers = len(model.side_network.blocks)  # type: ignore[union-attr, arg-type]
    inputs = {name: torch.randn(5, layers, 6, 40, 64, dtype=torch.float16) for name in ("keys", "values")}
    inputs["image_low"] = torch.randn(5, 3, 64, 64)
    results = []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        (logits**2).sum().backward()
        gradients = {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}
        results.append((logits.detach().cpu(), gradients))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-4)
    for key, gradient in results[0][1].items():
        assert (results[1][1][key] - gradient).norm() <= 1e-3 * gradient.norm(), key
