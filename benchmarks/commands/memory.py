"""bench.py memory: peak memory of methods over resolutions, measured on a GPU or predicted without one."""

import argparse
import itertools
import sys
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_format, add_methods, add_results, check_methods, print_frame
from benchmarks.commands.run import DEFAULT_BACKBONE, method_options, positive

if TYPE_CHECKING:
    from benchmarks.phases import MemoryPoint

RESOLUTIONS = [224, 384, 512, 768, 1024]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--measure", action="store_true", help="on a GPU (the default where there is one); stores records")
    how.add_argument("--predict", action="store_true", help="without a GPU (the default where there is none)")
    add_methods(parser)
    parser.add_argument(
        "--res", nargs="+", type=positive, default=RESOLUTIONS, metavar="PX", help="image sides (default: %(default)s)"
    )
    parser.add_argument("--batch-size", nargs="+", type=positive, default=[16], metavar="N", help="default: 16")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["bf16"], help="default: bf16"
    )
    parser.add_argument(
        "--attention", nargs="+", choices=("eager", "sdpa"), default=["sdpa"], help="default: sdpa (fused)"
    )
    parser.add_argument("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument(
        "--preload", choices=("on", "off"), default="on", help="train on preloaded features where a method has any"
    )
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, metavar="B", help="any timm ViT (default: %(default)s)")
    parser.add_argument("--num-classes", type=positive, default=5, metavar="C", help="of the new head (default: 5)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="M.OPTION=X", help="a method's option, like lora.rank=8"
    )
    parser.add_argument("--device", default="cuda:0", metavar="D", help="to measure on (default: cuda:0)")
    parser.add_argument("--only-missing", action="store_true", help="do not measure again what has a record")
    parser.add_argument("--allow-busy", action="store_true", help="measure though other processes hold GPU memory")
    add_results(parser)
    add_format(parser)


def grid(args: argparse.Namespace) -> "list[MemoryPoint]":
    """The points asked for; small images first."""
    from benchmarks.phases import MemoryPoint

    methods = check_methods(args.methods)
    options = method_options(args.set, methods)
    factors = itertools.product(args.res, args.batch_size, args.precision, args.attention, methods)
    return [
        MemoryPoint(
            method,
            resolution,
            batch_size,
            args.backbone,
            args.num_classes,
            precision,
            attention,
            args.grad_checkpointing,
            args.preload == "on",
            tuple(sorted(options.get(method, {}).items())),
        )
        for resolution, batch_size, precision, attention, method in factors
    ]


def run(args: argparse.Namespace) -> int:
    """Prints a row a point and phase."""
    import torch

    if args.measure or (not args.predict and torch.cuda.is_available()):
        return _measure(args)
    raise ValueError("--predict is not written yet")


def _measure(args: argparse.Namespace) -> int:
    import torch

    from benchmarks.measure import gpu_folder, measure_points, record_path
    from benchmarks.memory_table import measured_rows, points_frame, readable
    from benchmarks.phases import MemoryPoint

    device = torch.device(args.device)
    folder = gpu_folder(args.results, device)
    points = grid(args)
    missing = [point for point in points if not (args.only_missing and record_path(folder, point).exists())]
    print(f"{len(missing)} of {len(points)} points to measure, records in {folder}", file=sys.stderr)
    rows, failed = [], 0
    for number, record in enumerate(measure_points(missing, folder, device, args.allow_busy), start=1):
        status = record["status"]
        failed += status["state"] == "failed"
        point = MemoryPoint.from_dict(record["point"])
        notes = f": {status['message']}" if status["message"] else ""
        print(f"{number}/{len(missing)} {point.name} {status['state']}{notes}", file=sys.stderr, flush=True)
        rows += measured_rows(record)
    frame = points_frame(rows)
    print_frame(readable(frame) if args.format == "md" else frame, args.format)
    return 1 if failed else 0


COMMAND = Command(
    "memory",
    "peak memory per method and resolution, measured or predicted",
    "python bench.py memory --methods full lora fpt fpt_plus --res 224 512 1024 --attention eager sdpa",
    add_arguments,
    run,
)
