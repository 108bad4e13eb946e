"""What using a trained model costs, of the main methods: memory predicted, bytes counted, time beside full fine-tuning.

    python -m benchmarks.speed.inference [--res 224 512 1024] [--timed 224 512 1024] [--timed-16 224] [--repeats 3]

Memory is what an NVIDIA GPU allocates, in bf16. Time is processor seconds of an image, in fp32 on one thread, and as a
ratio to full fine-tuning in the same run: the least of some repeats.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.bounds import positive, typed
from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.environment import cpu_name
from benchmarks.inference.cost import Cost, Deployment, build_deployed, cost_of, deployments, random_views
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.table import MIB
from methods import TITLES

METHODS = ("full", "linear", "lora", "vpt", "vpt_shallow", "adapter", "fpt", "fpt_plus")
BATCH_SIZES = (1, 16)


def main(arguments: list[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--res", nargs="+", type=typed("res"), default=[224, 512, 1024], metavar="PX")
    for option, sides, what in (
        ("--timed", [224, 512, 1024], "an image alone"),
        ("--timed-16", [224], "16 images at a time"),
    ):
        shown = " ".join(map(str, sides))
        parser.add_argument(
            option, nargs="*", type=typed("res"), default=sides, metavar="PX", help=f"time {what} (default: {shown})"
        )
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="default: 3")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, metavar="NAME")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows, loads = [], [os.getloadavg()[0]]
    for row in costs(args.res, {1: args.timed, 16: args.timed_16}, args.backbone, args.repeats, args.cache):
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
        loads.append(os.getloadavg()[0])
    print(
        f"Made by `python -m benchmarks.speed.inference`; torch {torch.__version__}; {args.backbone}, 5 classes, fused "
        f"attention. MiB: predicted peak of allocated memory on an NVIDIA GPU, bf16, weights included, by images at a "
        f"time. GFLOPs: of an image. Seconds: of the processor, for an image, by images at a time, fp32, one thread of "
        f"{cpu_name()}, the least of {args.repeats}; beside full: of an image alone, to full fine-tuning's. Load of "
        f"{os.cpu_count()} cores meanwhile: {min(loads):.1f} to {max(loads):.1f}. Stored: MiB for each task, and once "
        f"for all tasks.\n"
    )
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    return 0


def costs(
    sides: list[int], timed: dict[int, list[int]], backbone: str, repeats: int, cache: Path
) -> Iterator[dict[str, Any]]:
    """A row for each side and method, and for one merged where it merges; `timed` are sides by images at a time."""
    for side in sides:
        reference: float | None = None
        for method in METHODS:
            point = MemoryPoint(method, side, 1, backbone, precision="bf16", attention="sdpa", preload=False)
            for deployment in deployments(point):
                found = {size: cost_of(_sized(deployment, size), cache) for size in BATCH_SIZES}
                seconds = {
                    size: processor_seconds(_sized(deployment, size), repeats) if side in timed[size] else None
                    for size in BATCH_SIZES
                }
                reference = reference or seconds[1]
                yield _row(deployment, found, seconds, reference)


def _sized(deployment: Deployment, batch_size: int) -> Deployment:
    return Deployment(dataclasses.replace(deployment.point, batch_size=batch_size), deployment.merge)


def processor_seconds(deployment: Deployment, repeats: int) -> float:
    """Of an image: the least of some forward passes of a batch, in fp32 on the CPU."""
    point = dataclasses.replace(deployment.point, precision="fp32")
    model = build_deployed(Deployment(point, deployment.merge), torch.device("cpu"))
    batch_size = point.batch_size
    views, seconds = random_views(model, batch_size), []
    for _ in range(repeats):
        started = time.process_time()
        model(views)
        seconds.append(time.process_time() - started)
    return min(seconds) / batch_size


def _row(
    deployment: Deployment, found: dict[int, Cost], seconds: dict[int, float | None], reference: float | None
) -> dict[str, Any]:
    first = found[BATCH_SIZES[0]]
    merged = ", merged" if deployment.merge else ""
    return {
        **{"px": str(deployment.point.resolution), "method": TITLES[deployment.point.method] + merged},
        **{f"MiB, {size}": f"{cost['memory_bytes'] / MIB:,.0f}" for size, cost in found.items()},
        "GFLOPs": f"{first['flops'] / 1e9:,.0f}",
        **{f"s, {size}": "–" if value is None else f"{value:.3f}" for size, value in seconds.items()},
        "beside full": f"{seconds[1] / reference:.2f}" if seconds[1] and reference else "–",
        **{"stored a task": f"{first['task_bytes'] / MIB:,.2f}", "stored once": f"{first['shared_bytes'] / MIB:,.0f}"},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
