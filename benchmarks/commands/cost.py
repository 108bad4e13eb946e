"""bench.py cost: what using a trained model costs, per method, backbone and resolution, merged and not."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import (
    add_backbone,
    add_cache,
    add_format,
    add_methods,
    add_num_classes,
    add_plugins,
    add_results,
    add_set,
    backbone_of,
    chosen_variants,
)
from benchmarks.commands.printing import print_frame
from benchmarks.storage.notes import say

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from benchmarks.inference.cost import Deployment
    from benchmarks.memory.point import MemoryPoint
    from benchmarks.memory.stored_costs import StoredCost

SIDES = (224, 512, 1024)
BATCH_SIZES = (1, 16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_methods(parser)
    add_plugins(parser)
    parser.add_argument(
        "--res", nargs="+", type=typed("res"), default=SIDES, metavar="PX", help="image sides (default: 224 512 1024)"
    )
    parser.add_argument(
        "--batch-size", nargs="+", type=typed("batch_size"), default=BATCH_SIZES, metavar="N", help="default: 1 16"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16", help="default: bf16")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa", help="default: sdpa (fused)")
    add_backbone(parser)
    add_num_classes(parser)
    add_set(parser)
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda:<n> (default: auto)")
    parser.add_argument(
        "--no-time", action="store_true", help="run nothing: memory predicted, computation and bytes counted"
    )
    parser.add_argument(
        "--store", action="store_true", help="keep it in the results folder, where bench.py report shows it"
    )
    add_results(parser)
    add_cache(parser)
    add_format(parser)


def grid(args: argparse.Namespace) -> "Iterator[MemoryPoint]":
    """The points asked for; small images first, and the batch sizes of a method one after the other."""
    from benchmarks.memory.point import MemoryPoint

    backbone = backbone_of(args)
    for resolution, variant, batch_size in itertools.product(
        args.res, chosen_variants(args, backbone), args.batch_size
    ):
        yield MemoryPoint(
            method=variant.method,
            resolution=resolution,
            batch_size=batch_size,
            backbone=backbone,
            num_classes=args.num_classes,
            precision=args.precision,
            attention=args.attention,
            preload=False,
            options=variant.changed,
        )


def run(args: argparse.Namespace) -> int:
    """Prints a row for each method, apart and, where it merges, merged, and each batch size."""
    import pandas as pd
    import torch

    from benchmarks.inference.cost import deployments
    from benchmarks.memory.predict import PredictionError
    from benchmarks.memory.stored_costs import store_cost
    from benchmarks.storage.files import make_results
    from benchmarks.suite.devices import resolve_device

    if args.store:
        make_results(args.results)
    device = torch.device(resolve_device(args.device))
    _say_how(args, device)
    rows = []
    for deployment in (found for point in grid(args) for found in deployments(point)):
        point, merged = deployment.point, ", merged" * deployment.merge
        print(
            f"{point.variant} at {point.resolution} px, batch {point.batch_size}{merged}", file=sys.stderr, flush=True
        )
        try:
            found = _found(args, deployment, device)
        except PredictionError as error:
            say(error)
            continue
        rows.append(_row(found))
        if args.store:
            store_cost(args.results, found)
    frame = pd.DataFrame(rows)
    print_frame(
        _readable(frame) if args.format == "md" else frame, args.format, args.wide, ("views", "images_per_second")
    )
    return 0


def _readable(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame for people: bytes as MiB, to three digits, as a task may have kilobytes."""
    from benchmarks.memory.table import MIB

    shown = frame.copy()
    for name in (name for name in frame.columns if name.endswith("_bytes")):
        shown[name] = [f"{value / MIB:,.0f}" if value >= 100 * MIB else f"{value / MIB:.3g}" for value in frame[name]]
    return shown.rename(columns=lambda name: name.replace("_bytes", "_mib"))


def _say_how(args: argparse.Namespace, device: "torch.device") -> None:
    print("memory is predicted on fake tensors, as an NVIDIA GPU allocates it", file=sys.stderr)
    if not args.no_time:
        print(
            f"time is of {_where(device)}: from pixels in memory to logits, reading files not included", file=sys.stderr
        )


def _where(device: "torch.device") -> str:
    import torch

    from benchmarks.environment import cpu_name, device_name

    return f"{cpu_name()}, {torch.get_num_threads()} threads" if device.type == "cpu" else device_name(device)


def _found(args: argparse.Namespace, deployment: "Deployment", device: "torch.device") -> "StoredCost":
    """What is known of a deployment, as it is stored."""
    from benchmarks.inference.cost import build_deployed, cost_of, measured_bytes, time_deployed
    from benchmarks.memory.phases import views_of

    point, cost = deployment.point, cost_of(deployment, args.cache)
    found: dict[str, Any] = {
        **{"point": point.as_dict(), "views": list(views_of(point).values()), "merged": deployment.merge},
        **{"predicted_bytes": cost["memory_bytes"], "flops": cost["flops"]},
        **{"task_bytes": cost["task_bytes"], "shared_bytes": cost["shared_bytes"]},
    }
    if args.no_time:
        return found
    if device.type == "cuda":
        found["measured_bytes"] = measured_bytes(deployment, device)
    seconds = time_deployed(build_deployed(deployment, device), point.batch_size)
    return found | {"seconds": seconds, "timed_on": _where(device), "device_type": device.type}


def _row(found: "StoredCost") -> dict[str, Any]:
    from benchmarks.memory.point import MemoryPoint

    point = MemoryPoint.from_dict(found["point"])
    row: dict[str, Any] = {
        **{"method": point.variant, "backbone": point.backbone, "resolution": point.resolution},
        **{"views": " + ".join(map(str, found["views"])), "merged": "yes" if found["merged"] else "no"},
        **{"batch_size": point.batch_size, "predicted_bytes": found["predicted_bytes"]},
    }
    if "measured_bytes" in found:
        row["measured_bytes"] = found["measured_bytes"]
    if "seconds" in found:
        seconds = found["seconds"]
        per_image = {"seconds_per_image": seconds / point.batch_size, "images_per_second": point.batch_size / seconds}
        row |= {name: float(f"{value:.3g}") for name, value in per_image.items()}
    row["gflops_per_image"] = float(f"{found['flops'] / 1e9:.4g}")
    return row | {"task_bytes": found["task_bytes"], "shared_bytes": found["shared_bytes"]}


COMMAND = Command(
    "cost",
    "what using a model costs: memory, time, storage, merged or not",
    "python bench.py cost --methods full lora fpt --res 224 512 --no-time",
    add_arguments,
    run,
)
