"""How often a training step hands work to a GPU, and how often an epoch makes the host wait for it.

    python -m benchmarks.speed.launches [--methods fpt fpt_plus lora full] [--precision fp32 bf16] [--format csv|md]

Operators: those that PyTorch dispatches in one training step at 512 px and batch 16, features preloaded, clipping and
AdamW included, counted on fake tensors on the path that a GPU takes. Views and bare allocations start no kernel and do
not count; most others start one. Synchronisations: of an epoch of 50 steps and its validation in 10 batches, see
`benchmarks.speed.waits`; more where they grow with its length. Peak: what training allocates, predicted, without
cuBLAS's workspaces. Where there is a GPU: kernels that a step starts and its milliseconds, by torch.profiler.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.config import Attention, Precision
from benchmarks.memory import trace
from benchmarks.memory.phases import build_point, run_phases
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import PredictionError, predict_memory, trace_run
from benchmarks.model.build import Parts
from benchmarks.speed.waits import epoch_synchronisations
from benchmarks.training.step import forbid_tf32
from methods import METHODS

SIDE = 512  # px
BATCH = 16
WARM_UP, TIMED = 5, 10  # steps on a GPU
aten = torch.ops.aten
NO_KERNEL = {  # beside views: allocations, and what only the tracer sees
    *(aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._unsafe_view),
    torch.ops.prim.device,
}


class Launches(TorchDispatchMode):
    """Counts operators that give a device something to do, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (func.is_view or func.overloadpacket in NO_KERNEL or func.namespace == "profiler"):
            self.counts[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def step_operators(point: MemoryPoint, make_parts: Callable[[MemoryPoint], Parts] = build_point) -> Counter[str]:
    """The operators of one training step of a point, by name; not its first, in which AdamW makes its state.

    Args:
        point: The setting.
        make_parts: Makes the parts on random weights; another than the method's own for comparisons.

    Raises:
        Exception: The step cannot be run on fake tensors, whatever that raises.
    """
    launches = Launches()

    def after(phase: str, step: Callable[[], object]) -> None:
        if phase == "train":
            with launches:
                step()

    # PyTorch chooses this where tensors lie on a GPU.
    clipping = partial(nn.utils.clip_grad_norm_, foreach=True)
    with mock.patch.object(nn.utils, "clip_grad_norm_", clipping):
        trace_run(point, make_parts, after, fold=False)
    return launches.counts


def on_gpu(point: MemoryPoint) -> dict[str, float]:
    """Kernels that one training step of a point starts on a GPU, and the milliseconds it takes."""
    found: dict[str, float] = {}
    device = torch.device("cuda")

    def after(phase: str, step: Callable[[], object]) -> None:
        if phase != "train":
            return
        for _ in range(WARM_UP):
            step()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(TIMED):
            step()
        end.record()
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            step()
            torch.cuda.synchronize()
        kernels = sum(event.device_type == DeviceType.CUDA for event in profile.events())
        found.update(kernels=kernels, milliseconds=round(begin.elapsed_time(end) / TIMED, 2))

    run_phases(point, lambda: build_point(point), device, lambda phase: nullcontext(), after)
    return found


def row(method: str, precision: Precision, attention: Attention) -> dict[str, Any]:
    """A method's numbers; what cannot be counted is None, and stderr says why."""
    point = MemoryPoint(method, SIDE, BATCH, DEFAULT_BACKBONE, precision=precision, attention=attention)
    found: dict[str, Any] = {"method": method, "precision": precision, "operators": None}
    if not METHODS[method].gradient_free:
        found["operators"] = _said(point, lambda: step_operators(point).total())
    found["synchronisations"] = _said(point, lambda: epoch_synchronisations(method))
    with mock.patch.object(trace, "library_workspaces", lambda func: []):
        phases = _said(point, lambda: predict_memory(point).phases) or {}
    found["peak_allocated_bytes"] = phases["train"].allocated if "train" in phases else None
    return found | (on_gpu(point) if torch.cuda.is_available() and found["operators"] else {})


def _said(point: MemoryPoint, count: Callable[[], Any]) -> Any:
    """What is counted, or None where it cannot be."""
    try:
        return count()
    except (PredictionError, RuntimeError, NotImplementedError) as error:
        print(f"{point.name} cannot be counted: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None


def rows(methods: Sequence[str], precisions: Sequence[Precision], attention: Attention) -> Iterator[dict[str, Any]]:
    """A row for each method and precision."""
    for method in methods:
        for precision in precisions:
            print(f"{method} {precision}", file=sys.stderr, flush=True)
            yield row(method, precision, attention)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa", help="default: sdpa (fused)")
    parser.add_argument("--format", choices=("csv", "md"), default="md", help="default: md")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    args = make_parser().parse_args(arguments)
    if torch.cuda.is_available():
        forbid_tf32()
    else:
        print("kernels and milliseconds are left out: there is no GPU here", file=sys.stderr, flush=True)
    frame = pd.DataFrame(rows(args.methods, args.precision, args.attention), dtype=object)
    if args.format == "csv":
        print(frame.to_csv(index=False), end="")
    else:
        print(frame.to_markdown(index=False, disable_numparse=True, missingval="–"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
