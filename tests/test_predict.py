"""Predicted memory against numbers found otherwise: by hand, by closed formulas, by counting real storages."""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import wrap_torch_function

from benchmarks.environment import ROOT
from benchmarks.memory import trace as trace_module
from benchmarks.memory.allocator import CachingAllocator
from benchmarks.memory.cuda_kernels import CudaSemantics, reduction_workspace
from benchmarks.memory.fold import FoldRepeats
from benchmarks.memory.measured import read_measured
from benchmarks.memory.needs import CONTEXT_BYTES
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import images_within, predict_memory, replay_run, trace_run
from benchmarks.memory.prediction_cache import preload_batch_size
from benchmarks.memory.replay import replay
from benchmarks.memory.table import breakdown_frame, readable
from benchmarks.memory.trace import StorageTrace

MIB = 2**20
LIBRARIES = 64  # MiB of cuBLAS: a handle in the main thread, another in the backward one (cuBLASLt adds 1 each)


def test_allocator_rounds_splits_and_joins() -> None:
    allocator = CachingAllocator()
    small = allocator.malloc(1)
    assert (allocator.allocated, allocator.reserved) == (512, 2 * MIB)
    other = allocator.malloc(MIB)
    assert (allocator.allocated, allocator.reserved) == (512 + MIB, 2 * MIB)
    large = allocator.malloc(3 * MIB)
    assert allocator.reserved == 22 * MIB
    own = allocator.malloc(11 * MIB)
    assert allocator.reserved == 22 * MIB and own.address == large.address + 3 * MIB
    for block in (small, other, large, own):
        allocator.free(block)
    assert (allocator.allocated, allocator.reserved) == (0, 22 * MIB)
    allocator.empty_cache()
    assert allocator.reserved == 0


def test_allocator_counts_what_is_too_small_to_split() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(11 * MIB + 1)  # a segment of 12 MiB, of which less than 1 MiB remains
    assert allocator.allocated == allocator.reserved == 12 * MIB
    allocator.free(block)
    assert allocator.malloc(11 * MIB).size == 12 * MIB


def test_allocator_takes_the_smallest_block_that_fits() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(size * MIB) for size in (40, 30, 50)]
    for block in blocks:
        allocator.free(block)
    assert allocator.malloc(29 * MIB).address == blocks[1].address
    assert allocator.reserved == 120 * MIB


def traced(function: Callable[[], object]) -> StorageTrace:
    """The trace of a function on fake tensors."""
    trace = StorageTrace()
    with FakeTensorMode(), trace, trace.watch_modules(), CudaSemantics():
        function()
    return trace


def peak_bytes(trace: StorageTrace) -> int:
    phase = replay(trace.events, trace.tags, {"train": (0, len(trace.events))})["train"]
    assert sum(phase.breakdown.values()) == phase.allocated
    assert phase.process == phase.reserved + CONTEXT_BYTES["train"]
    return phase.allocated


def test_peak_of_a_few_tensors_by_hand() -> None:
    def compute() -> None:
        a = torch.empty(4 * MIB)  # 16 MiB
        b = a.exp()  # 16 MiB more
        del a
        c = b[: 2 * MIB].reshape(2, MIB)  # a view
        d = c.log()  # 8 MiB more: 24 in all, less than before
        del b, c, d

    assert peak_bytes(traced(compute)) == 32 * MIB


def test_peak_of_a_linear_layer_by_hand() -> None:
    def compute() -> None:
        layer = nn.Linear(1024, 2048, bias=False)  # 8 MiB
        x = torch.empty(4096, 1024)  # 16 MiB
        y = layer(x).relu()  # product 32 MiB, result 32 MiB, kept for the backward pass; the product is freed
        y.backward(torch.empty_like(y))  # 32 MiB, its product with the mask 32 MiB, gradient 8 MiB

    layer, x, y, grad = 8, 16, 32, 32
    backward = layer + x + y + grad + 32 + 8 + LIBRARIES
    assert peak_bytes(traced(compute)) == backward * MIB


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_as_many_bytes_are_live_as_in_real_storages(name: str) -> None:
    """After the forward pass, fake storages and those of a real CPU run are the same in number and bytes."""

    def compute() -> Tensor:
        x = torch.randn(2, 50, 96, requires_grad=True)
        if name == "mlp":
            layers = nn.Sequential(nn.Linear(96, 384), nn.GELU(), nn.LayerNorm(384), nn.Linear(384, 96))
            return layers(x)
        q, k, v = nn.Linear(96, 288)(x).reshape(2, 50, 3, 4, 24).permute(2, 0, 3, 1, 4).unbind(0)
        return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v

    held: list[Tensor] = []
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = compute()
    saved[output.untyped_storage().data_ptr()] = output.untyped_storage().nbytes()
    trace = traced(lambda: held.append(compute()))
    live: dict[int, int] = {}
    for storage, size in trace.events:
        if size < 0:
            live.pop(storage, None)
        elif trace.tags[storage] != "workspace":
            live[storage] = size
    biases = 4 * (384 + 96) if name == "mlp" else 4 * 288  # parameters live, but not saved
    assert sum(live.values()) == sum(saved.values()) + biases


def test_views_and_products_take_the_quick_way_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    point = MemoryPoint("fpt_plus", 64, 4, "vit_tiny_patch16_224", precision="bf16", options=(("side_reduction", 4),))
    quick = predict_memory(point)
    monkeypatch.setattr(trace_module, "QUICK", set())
    assert predict_memory(point) == quick


@pytest.mark.parametrize("checkpointing", [False, True])
def test_parts_that_repeat_take_no_more_memory(monkeypatch: pytest.MonkeyPatch, checkpointing: bool) -> None:
    monkeypatch.setattr(
        "methods.side.fpt_parts.lean_extraction.MAX_SCORES", 5000
    )  # 12 parts of a head, two of their queries
    options = (("side_reduction", 4), ("layers", "0-1"))
    point = MemoryPoint("fpt", 96, 40, "vit_tiny_patch16_224", grad_checkpointing=checkpointing, options=options)
    few = predict_memory(point)
    monkeypatch.setattr("benchmarks.memory.predict.FoldRepeats", lambda trace: nullcontext())
    assert predict_memory(point) == few


def repeated(num_calls: int, work: Callable[..., None], shorter: bool = False) -> tuple[int, StorageTrace]:
    """How often a function was run that is called on equal parts of a tensor, the last perhaps shorter; the trace."""
    num_runs = 0

    def fill(output: Tensor, part: slice) -> None:
        nonlocal num_runs
        num_runs += 1
        work(output[part])

    trace, announced = StorageTrace(), wrap_torch_function(lambda output, part: (output,))(fill)
    with FakeTensorMode(), trace, CudaSemantics(), FoldRepeats(trace):
        output = torch.empty(num_calls, MIB)
        for index in range(num_calls):
            announced(output, slice(index, index + 1 - (shorter and index == num_calls - 1)))
    return num_runs, trace


def test_equal_parts_run_until_two_have_taken_the_same() -> None:
    runs, trace = repeated(9, lambda part: part.copy_(part.exp().log()))
    assert (runs, peak_bytes(trace)) == (2, (9 * 4 + 2 * 4) * MIB)
    assert repeated(9, lambda part: part.copy_(part @ torch.empty(MIB, 1)))[0] == 3  # cuBLAS's memory is made once
    assert repeated(9, lambda part: part.copy_(part.exp()), shorter=True)[0] == 3


def test_parts_that_leave_something_behind_are_all_run() -> None:
    held: list[Tensor] = []
    assert repeated(9, lambda part: held.append(part.exp()))[0] == 9
    held = []
    runs, _ = repeated(9, lambda part: held.__setitem__(slice(0, 1), [part.exp()]))
    assert runs == 9  # each releases what the one before has made


def test_a_method_that_asks_where_a_tensor_lies_hears_of_a_gpu() -> None:
    def compute() -> None:
        x = torch.empty(3, requires_grad=True)
        assert (x.is_cpu, x.is_cuda) == (False, True)
        x.register_hook(lambda grad: answers.append(grad.is_cpu))
        x.sum().backward()

    answers: list[bool] = []
    traced(compute)
    assert answers == [False]


# Method, side, attention, MiB as another program counted them, and MiB that kernels take at the peak: CUDA's softmax
# backward (B A N N fp32), or 352 (257) partial sums of the last bias's gradient (768 outputs, 128 threads, fp32).
REFERENCES = [
    ("full", 512, "eager", 20578, 16 * 12 * 1025**2 * 4 / MIB),
    ("full", 512, "sdpa", 10524, 257 * 768 * 128 * 4 / MIB),
    ("full", 1024, "eager", 208309, 16 * 12 * 4097**2 * 4 / MIB),
    ("full", 1024, "sdpa", 39099, 352 * 768 * 128 * 4 / MIB),
    ("lora", 512, "eager", 16698, 16 * 12 * 1025**2 * 4 / MIB),
    ("lora", 512, "sdpa", 7135, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "resolution", "attention", "counted", "kernels"), REFERENCES)
def test_reference_points(
    method: str, resolution: int, attention: Any, counted: int, kernels: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program knew neither libraries nor kernels: without both we count the same, and with them what they take."""
    point = MemoryPoint(method, resolution, attention=attention)
    whole = predict_memory(point).phases["train"].allocated / MIB
    monkeypatch.setattr(trace_module, "library_workspaces", lambda func: [])
    monkeypatch.setattr(trace_module, "kernel_workspace", lambda func, args: [])
    bare = predict_memory(point).phases["train"].allocated / MIB
    assert 0 <= bare - counted < 16  # what is too small to split off a block counts as allocated
    assert whole - bare == pytest.approx(LIBRARIES + kernels, abs=3)


def test_stored_measurements_are_met() -> None:
    """What an H100 allocated, in every phase, within half a percent; setup held a pretrained head besides."""
    wanted = [
        *("full_vit_base_patch16_384_1024px_b16_fp32_sdpa_c5", "lora_vit_base_patch16_384_512px_b16_bf16_sdpa_c5_ckpt"),
        "vpt_vit_base_patch16_384_512px_b16_bf16_eager_c5",
    ]
    records = {MemoryPoint.from_dict(record["point"]).name: record for record in read_measured(ROOT / "results")}
    for name in wanted:
        predicted = predict_memory(MemoryPoint.from_dict(records[name]["point"])).phases
        for phase, peaks in records[name]["memory"]["phases"].items():
            head = 4 * 769 * 1000 if phase == "setup" else 0
            allocated = predicted[phase].allocated + head
            assert allocated == pytest.approx(peaks["peak_allocated_bytes"], rel=0.005), (name, phase)


def test_preloading_takes_what_was_measured() -> None:
    """An H100 allocated this to extract 16 images at once, from fp32 weights."""
    point = MemoryPoint("linear", 512, attention="eager")
    traced = trace_run(point, images_at_once=16, last="preload")
    assert list(traced.bounds) == ["setup", "preload"]
    assert replay_run(traced)["preload"].allocated == pytest.approx(2_398_161_408, rel=0.005)


@pytest.mark.parametrize(("method", "resolution"), [("fpt", 128), ("fpt_plus", 64), ("linear", 96)])
def test_as_many_images_are_preloaded_as_other_phases_have_room_for(method: str, resolution: int) -> None:
    """Beside the naive search: every number of images is predicted, and the largest within the limit taken."""
    options = () if method == "linear" else (("side_reduction", 4), ("side_resolution", 32))
    point = MemoryPoint(method, resolution, 8, "vit_tiny_patch16_224", options=options, precision="bf16")
    peaks = {count: replay_run(trace_run(point, images_at_once=count)) for count in range(1, 9)}
    others = max(peak.allocated for name, peak in peaks[1].items() if name != "preload")
    limit = max(others, int(1.1 * peaks[1]["preload"].allocated))
    expected = max(count for count in peaks if peaks[count]["preload"].allocated <= limit)
    prediction = predict_memory(point)
    assert prediction.images_at_once == expected
    assert prediction.phases == peaks[expected]
    assert prediction.as_record()["preload_batch_size"] == expected
    assert predict_memory(replace(point, preload=False)).images_at_once is None


def test_as_many_images_are_preloaded_as_a_card_has_room_for() -> None:
    """Beside the naive search, as above; one where not even one has room."""
    options = (("side_reduction", 4), ("side_resolution", 32))
    point = MemoryPoint("fpt", 128, 8, "vit_tiny_patch16_224", options=options, precision="bf16")
    peaks = {
        count: replay_run(trace_run(point, images_at_once=count, last="preload"))["preload"].allocated
        for count in range(1, 9)
    }
    for limit in (peaks[1] - 1, peaks[1], peaks[3], peaks[4] - 1, 2 * peaks[8]):
        prediction = predict_memory(replace(point, preload_limit=limit))
        expected = max((count for count in peaks if peaks[count] <= limit), default=1)
        assert prediction.images_at_once == expected
        assert prediction.phases["preload"].allocated == peaks[expected]


def test_a_measurement_preloads_what_was_predicted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = MemoryPoint("linear", 96, 8, "vit_tiny_patch16_224", precision="bf16")
    expected = preload_batch_size(point, tmp_path)
    assert expected == predict_memory(point).images_at_once
    monkeypatch.setattr("benchmarks.memory.prediction_cache.predict_memory", pytest.fail)
    assert preload_batch_size(point, tmp_path) == expected
    assert preload_batch_size(replace(point, preload=False), tmp_path) is None
    assert preload_batch_size(replace(point, method="lora"), tmp_path) is None


def test_images_within_a_limit_lie_on_a_line() -> None:
    assert [images_within(limit, 100, 130, 16) for limit in (50, 100, 129, 130, 189, 190, 10_000)] == [
        *(1, 1, 1, 2, 3, 4, 16)
    ]
    assert images_within(100, 100, 100, 16) == 1


def test_state_made_in_the_first_step_counts_in_later_ones() -> None:
    events = [(0, 4 * MIB), (1, 30 * MIB), (1, -1), (2, 2 * MIB)]  # inputs, an activation, the state made behind it
    tags = dict.fromkeys(range(3), "x")
    assert replay(events, tags, {"eval": (0, 4)})["eval"].allocated == 34 * MIB
    assert replay(events, tags, {"train": (0, 4)})["train"].allocated == 36 * MIB


@pytest.mark.parametrize(
    ("shape", "dims", "parts"),
    [
        ((65552, 768), [0], 352),  # 16 times 132 blocks at once over 6 columns of blocks
        ((16400, 768), [0], 257),  # 16 values a thread at least
        ((3152, 96), [0], 12.5),  # 25, of half as many threads
        ((3152, 768), [1], 0),  # along rows
        ((900, 768), [0], 0),  # few enough for one block
        ((16, 197, 768), [0], 0),
    ],
)
def test_sums_over_rows_take_partial_results(shape: tuple[int, ...], dims: list[int], parts: float) -> None:
    with FakeTensorMode():
        taken = reduction_workspace(torch.empty(shape), dims)
    assert taken == ([parts * shape[-1] * 128 * 4] if parts else [])


def test_concatenation_promotes_without_copies() -> None:
    def compute() -> None:
        x, y = torch.empty(MIB), torch.empty(MIB, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.cat([x, y]).dtype == torch.float32

    assert peak_bytes(traced(compute)) == (4 + 2 + 8) * MIB


def test_what_lies_on_the_host_takes_no_memory_of_the_device() -> None:
    trace = StorageTrace()
    with FakeTensorMode(), trace, trace.watch_modules(), CudaSemantics():
        x = torch.empty(4 * MIB)
        with trace.on_host():
            x.to("cpu", copy=True)
    assert peak_bytes(trace) == trace.host_bytes == 16 * MIB


def test_eager_attention_maps_follow_their_formula() -> None:
    """Of each block the softmax is kept in fp32, B A N N 4 bytes, and under bf16 a 16-bit copy beside it."""
    tokens = (128 // 16) ** 2 + 1
    maps = 12 * 4 * 3 * tokens**2
    point = MemoryPoint("full", 128, 4, "vit_tiny_patch16_224")
    for precision, width in (("fp32", 4), ("bf16", 6)):
        train = predict_memory(MemoryPoint(**{**point.as_dict(), "precision": precision})).phases["train"]
        assert train.breakdown["activations: attention scores"] == pytest.approx(maps * width, rel=0.01)
    fused = predict_memory(MemoryPoint(**{**point.as_dict(), "attention": "sdpa"})).phases["train"]
    assert "activations: attention scores" not in fused.breakdown


def test_breakdown_names_what_the_parts_take() -> None:
    prediction = predict_memory(MemoryPoint("full", 224, 16, "vit_tiny_patch16_224"))
    assert list(prediction.phases) == ["setup", "train", "eval"]
    parameters = prediction.phases["setup"].breakdown["parameters"]
    train = prediction.phases["train"]
    assert parameters == pytest.approx(4 * 5.5e6, rel=0.02)
    assert train.breakdown["parameters"] == parameters
    assert train.breakdown["optimizer_state"] == pytest.approx(2 * parameters, rel=0.05)
    assert {"activations: mlp", "activations: attention", "activations: norm", "workspace"} <= set(train.breakdown)
    frame = breakdown_frame([prediction])
    assert frame[frame["phase"] == "train"]["bytes"].sum() == train.allocated
    assert "mib" in readable(frame)


def test_an_extractor_leaves_before_training_unless_it_runs_live() -> None:
    options = (("side_reduction", 4),)
    preloaded = predict_memory(MemoryPoint("fpt", 64, 4, "vit_tiny_patch16_224", options=options))
    live = predict_memory(MemoryPoint("fpt", 64, 4, "vit_tiny_patch16_224", options=options, preload=False))
    assert list(preloaded.phases) == ["setup", "preload", "train", "eval"]
    assert list(live.phases) == ["setup", "train", "eval"]
    backbone = 4 * 5.6e6
    saved = live.phases["train"].breakdown["parameters"] - preloaded.phases["train"].breakdown["parameters"]
    assert saved == pytest.approx(backbone, rel=0.05)
    assert {"activations: side network", "activations: fusion", "input images", "input features"} <= set(
        preloaded.phases["train"].breakdown
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_checkpointing_saves_activations_in_every_precision(precision: Any, attention: Any) -> None:
    point = MemoryPoint("vpt", 224, 4, "vit_tiny_patch16_224", precision=precision, attention=attention)
    saving = MemoryPoint(**{**point.as_dict(), "grad_checkpointing": True})
    plain, checkpointed = (predict_memory(item).phases["train"].allocated for item in (point, saving))
    assert checkpointed - LIBRARIES * MIB < 0.5 * (plain - LIBRARIES * MIB)


def test_autocast_runs_what_cuda_runs_in_fp32() -> None:
    def compute(check: Callable[[Tensor, Tensor, Tensor], None]) -> None:
        x = torch.empty(2, 8, 16, dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            check(F.layer_norm(x, (16,)), x.softmax(dim=-1), x @ x.mT)

    def check(norm: Tensor, softmax: Tensor, product: Tensor) -> None:
        assert (norm.dtype, softmax.dtype, product.dtype) == (torch.float32, torch.float32, torch.bfloat16)

    traced(lambda: compute(check))


def test_dropout_keeps_a_boolean_mask() -> None:
    def compute() -> None:
        x = torch.empty(MIB, requires_grad=True)  # 4 MiB
        F.dropout(x, 0.5)  # 4 MiB and a mask of 1 MiB

    trace = traced(compute)
    assert [size for _, size in trace.events if size > 0] == [4 * MIB, 4 * MIB, MIB]


def test_a_second_gradient_is_added_in_place() -> None:
    """As autograd does on a GPU: x, y, their sum, its gradient and the two of y, each of 4 MiB, and no seventh."""

    def compute() -> None:
        x = torch.empty(MIB, requires_grad=True)
        y = x * 1.0
        (y * 2.0 + y * 3.0).backward(torch.empty(MIB))

    trace = traced(compute)
    assert peak_bytes(trace) == 6 * 4 * MIB


@pytest.mark.process
def test_the_command_prints_the_columns_asked_for() -> None:
    gc.collect()
    arguments = ["memory", "--predict", "--methods", "linear", "--res", "32", "--batch-size", "2"]
    arguments += ["--backbone", "vit_tiny_patch16_224", "--format", "json"]
    result = subprocess.run([sys.executable, "bench.py", *arguments], capture_output=True, text=True, check=True)
    rows = json.loads(result.stdout)
    *phases, whole = rows
    assert [row["phase"] for row in phases] == ["setup", "preload", "prepare", "train", "eval"]
    assert whole["phase"] == "whole run"
    for counter in ("allocated", "reserved", "process"):
        name = f"peak_{counter}_bytes"
        assert whole[name] == max(row[name] for row in phases)
    assert {(row["source"], row["status"]) for row in rows} == {("predicted", "ok")}
    assert all(row["peak_process_bytes"] > row["peak_reserved_bytes"] >= row["peak_allocated_bytes"] for row in rows)
    assert "predicted on fake tensors, not measured" in result.stderr
