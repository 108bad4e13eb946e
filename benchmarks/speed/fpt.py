"""FPT's and FPT+'s fast path against their plain modules: memory, step time, bytes and extraction, in one run.

    python -m benchmarks.speed.fpt [--device cuda] [--parts memory steps bytes extraction]

Memory is predicted (fake tensors, every storage; without cuBLAS's workspace, so that it compares with the authors'
figure, see docs/methods.md). Times are medians of pairs: each round runs the baseline's step, then ours.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.memory import trace
from benchmarks.memory.phases import build_point
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.build import Parts, feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.training.step import extraction_step, make_optimization, training_step
from methods.side.fpt_parts.fast_path import plain_path

METHODS = ("fpt", "fpt_plus")
BACKBONE = "vit_base_patch16_384"
BATCH = 16
MIB = 2**20
REFERENCE_MIB = {"fpt": 1222, "fpt_plus": 343}  # the authors' models at 512 px, papers' protocol
REFERENCE_BYTES = {"fpt": 14.4 * MIB, "fpt_plus": 7.2 * MIB}  # their features of an image, fp32


def naive_parts(point: MemoryPoint) -> Parts:
    """The baseline: the plain modules, every attention map whole, features in the precision that they come in."""
    storage = "float32" if point.precision == "fp32" else "float16"
    with plain_path():
        return build_point(replace(point, attention="eager", options=(("feature_dtype", storage),)))


def memory_table(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Training peaks in MiB: authors', baseline's, ours, and what no implementation can do without."""
    with mock.patch.object(trace, "library_workspaces", lambda func: []):
        return list(_memory_rows())


def _memory_rows() -> Iterator[dict[str, Any]]:
    for method in METHODS:
        for precision, attention in (("fp32", "eager"), ("fp32", "sdpa"), ("bf16", "sdpa")):
            for resolution in (224, 384, 512, 768, 1024):
                point = MemoryPoint(method, resolution, BATCH, BACKBONE, precision=precision, attention=attention)  # type: ignore[arg-type]
                ours, naive = (predict_memory(point, build).phases for build in (build_point, naive_parts))
                checkpointed = predict_memory(
                    MemoryPoint(method, resolution, BATCH, BACKBONE, 5, precision, attention, True)  # type: ignore[arg-type]
                ).phases
                known = resolution == 512 and precision == "fp32"
                held = ours["train"].breakdown
                inputs = sum(size for purpose, size in held.items() if purpose.startswith("input"))
                floor = inputs + 4 * held["parameters"]  # with gradients and two states of AdamW
                yield {
                    "method": method,
                    "px": resolution,
                    "precision": precision,
                    "attention": attention,
                    "authors": REFERENCE_MIB[method] if known else None,
                    "naive": round(naive["train"].allocated / MIB),
                    "ours": round(ours["train"].allocated / MIB),
                    "checkpointed": round(checkpointed["train"].allocated / MIB),
                    "floor": round(floor / MIB),
                    "preload naive": round(naive["preload"].allocated / MIB),
                    "preload ours": round(ours["preload"].allocated / MIB),
                }


def steps_table(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    """Seconds of a training step on features that lie ready, baseline and ours in turn, at 512 px in fp32."""
    for method in METHODS:
        point = MemoryPoint(method, 512, BATCH, BACKBONE, attention="sdpa")
        image_low, features = _inputs(method, device)
        labels = torch.zeros(BATCH, dtype=torch.long, device=device)
        steps = []
        for build, dtype in ((naive_parts, torch.float32), (build_point, torch.float16)):
            model = build(point).model.to(device)
            optimization = make_optimization(model, 1e-4, 0.1, "fp32", device.type)
            inputs = {"image_low": image_low} | {name: tensor.to(dtype) for name, tensor in features.items()}
            steps.append(_step(model, inputs, labels, optimization))
        yield {"method": method, "device": device.type} | compare(steps, device, rounds)


def _step(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, optimization: Any) -> Callable[[], object]:
    return lambda: training_step(model, inputs, labels, optimization)


def _inputs(method: str, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    config = make_config(method, {})
    shapes, _ = feature_shapes(method, config, BACKBONE, 512)
    features = {name: torch.randn(BATCH, *shape, device=device) for name, (shape, _) in shapes.items()}
    return torch.randn(BATCH, 3, config.side_resolution, config.side_resolution, device=device), features


def compare(steps: Sequence[Callable[[], object]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of two steps run in turn, and the median of their ratios; the first round does not count."""
    before, after = steps
    pairs = [(_seconds(before, device), _seconds(after, device)) for _ in range(rounds + 1)][1:]
    first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    return {"before (s)": round(first, 4), "after (s)": round(second, 4), "ratio": round(ratio, 2)}


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def bytes_table(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    """Bytes of an image's features at 512 px in each storage type, beside the authors'."""
    for method in METHODS:
        for storage in ("float32", "float16", "int8"):
            shapes, _ = feature_shapes(method, make_config(method, {"feature_dtype": storage}), BACKBONE, 512)
            size = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
            share = round(size / REFERENCE_BYTES[method], 3)
            yield {"method": method, "storage": storage, "bytes per image": size, "of the authors'": share}


def extraction_table(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    """Extraction with whole attention maps against ours, eager (in chunks) and fused, of FPT."""
    on_gpu = device.type == "cuda"
    for resolution, batch in ((512, BATCH), (1024, BATCH)) if on_gpu else ((512, 1),):
        for precision in ("fp32", "bf16") if on_gpu else ("fp32",):
            image = torch.randn(batch, 3, resolution, resolution, device=device)
            for attention in ("eager", "sdpa"):
                point = MemoryPoint("fpt", resolution, batch, BACKBONE, attention=attention)
                extractors: list[Any] = [build(point).extractor for build in (naive_parts, build_point)]
                steps = [_extraction(part.to(device), image, precision) for part in extractors]
                times = compare(steps, device, rounds)
                speed = round(batch / times["after (s)"], 2)
                setting = {"px": resolution, "batch": batch, "precision": precision, "attention": attention}
                yield setting | {"device": device.type} | times | {"images/s": speed}


def _extraction(extractor: nn.Module, image: Tensor, precision: Any) -> Callable[[], object]:
    return lambda: extraction_step(extractor, image, precision, image.device.type)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs to time (default: 7)")
    names = ("memory", "steps", "bytes", "extraction")
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names), help="default: all")
    return parser


def main() -> int:
    """Prints the tables asked for."""
    args = make_parser().parse_args()
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {where}; batch {BATCH}, {BACKBONE}, 512 px unless said otherwise\n", flush=True)
    tables: dict[str, Callable[..., Iterable[dict[str, Any]]]] = {
        "memory": memory_table,
        "steps": steps_table,
        "bytes": bytes_table,
        "extraction": extraction_table,
    }
    for name in args.parts:
        frame = pd.DataFrame(tables[name](device, args.rounds), dtype=object)
        table = frame.to_markdown(index=False, missingval="–")
        print(f"## {name}\n\n{tables[name].__doc__}\n\n{table}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
