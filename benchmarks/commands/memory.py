"""bench.py memory: peak memory of methods over resolutions, measured on a GPU or predicted without one."""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import typed
from benchmarks.choices import COUNTERS
from benchmarks.commands.contract import Command
from benchmarks.commands.options import (
    add_backbone,
    add_cache,
    add_format,
    add_methods,
    add_num_classes,
    add_plugins,
    add_record_host,
    add_results,
    add_savers,
    add_set,
    backbone_of,
    chosen_savers,
    chosen_variants,
)
from benchmarks.commands.printing import print_frame
from benchmarks.errors import UserError
from benchmarks.model.choose import is_asked_for
from benchmarks.storage.notes import say

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.memory.point import MemoryPoint

DEFAULTS: dict[str, list[Any]] = {
    "res": [224, 384, 512, 768, 1024],
    "batch_size": [16],
    "precision": ["bf16"],
    "attention": ["sdpa"],
}
EACH_SAVER_RES = [224, 512, 768, 1024, 1536]
# What is left out first where the terminal is narrow.
_TURNED = "MiB allocated at the highest, in the whole run; --wide shows each phase and counter"
_DETAILS = (
    *("peak_process_mib", "peak_reserved_mib", "source", "status", "savers", "backbone", "batch_size"),
    "grad_checkpointing",
)
GOAL_PERCENT = 3  # of peak allocated memory, between prediction and measurement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--measure", action="store_true", help="on a GPU (the default where there is one); stores records")
    how.add_argument("--predict", action="store_true", help="without a GPU (the default where there is none)")
    how.add_argument(
        "--compare", action="store_true", help="predictions beside all measured records, or those asked for"
    )
    how.add_argument("--breakdown", action="store_true", help="what fills the predicted peaks; they sum to it")
    how.add_argument(
        "--each-saver", action="store_true", help="predicted with each saver of memory alone, and with all"
    )
    add_methods(parser)
    add_plugins(parser)
    sides = " ".join(map(str, DEFAULTS["res"]))
    parser.add_argument("--res", nargs="+", type=typed("res"), metavar="PX", help=f"image sides (default: {sides})")
    parser.add_argument("--batch-size", nargs="+", type=typed("batch_size"), metavar="N", help="default: 16")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "fp16"), help="default: bf16")
    parser.add_argument("--attention", nargs="+", choices=("eager", "sdpa"), help="default: sdpa (fused)")
    parser.add_argument("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add_savers(parser)
    parser.add_argument(
        "--preload", choices=("on", "off"), default="on", help="train on preloaded features where a method has any"
    )
    add_backbone(parser)
    add_num_classes(parser)
    add_set(parser)
    parser.add_argument("--device", default="cuda:0", metavar="D", help="to measure on (default: cuda:0)")
    parser.add_argument("--only-missing", action="store_true", help="do not measure again what has a record")
    parser.add_argument("--allow-busy", action="store_true", help="measure though other processes hold GPU memory")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also draw it (png and pdf): memory over resolution, a line a method or saver, or bars of the breakdown",
    )
    add_record_host(parser)
    add_cache(parser)
    add_results(parser)
    add_format(parser)


def grid(args: argparse.Namespace) -> "list[MemoryPoint]":
    """The points asked for; small images first."""
    from benchmarks.memory.point import MemoryPoint

    backbone = backbone_of(args)
    variants = chosen_variants(args, backbone)
    savers = chosen_savers(args, args.precision or DEFAULTS["precision"], variants, backbone)
    values = [getattr(args, name) or default for name, default in DEFAULTS.items()]
    factors = itertools.product(*values, variants)
    return [
        MemoryPoint(
            variant.method,
            resolution,
            batch_size,
            backbone,
            args.num_classes,
            precision,
            attention,
            args.grad_checkpointing,
            args.preload == "on",
            variant.changed,
            **savers,
        )
        for resolution, batch_size, precision, attention, variant in factors
    ]


def run(args: argparse.Namespace) -> int:
    """Prints a row a point and phase, or of another table asked for."""
    import torch

    if args.compare:
        return _compare(args)
    if args.breakdown:
        return _breakdown(args)
    if args.each_saver:
        return _each_saver(args)
    if args.measure or (not args.predict and torch.cuda.is_available()):
        rows, failed = _measure(args)
    else:
        rows, failed = _predict(args, grid(args)), 0
    return _show(args, rows) or int(failed > 0)


def _show(args: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    from benchmarks.memory.table import by_resolution, points_frame

    frame = points_frame(rows)
    if _narrow(args, frame):
        print(_TURNED, file=sys.stderr)
    _print(args, frame, by_resolution)
    if args.plot:
        from benchmarks.memory.measured import read_measured
        from benchmarks.memory.table import with_measured
        from benchmarks.report.memory_plot import plot_memory_curves

        for path in plot_memory_curves(with_measured(frame, read_measured(args.results)), args.plot):
            print(path, file=sys.stderr)
    return 0


def _narrow(args: argparse.Namespace, frame: "pd.DataFrame") -> bool:
    """Whether a table is turned so that resolutions stand beside each other."""
    return args.format == "md" and not args.wide and frame["resolution"].nunique() > 1


def _print(args: argparse.Namespace, frame: "pd.DataFrame", turned: "Callable[[pd.DataFrame], pd.DataFrame]") -> None:
    from benchmarks.memory.table import readable

    shown = turned(frame) if _narrow(args, frame) else readable(frame) if args.format == "md" else frame
    print_frame(shown, args.format, args.wide, _DETAILS)


def _predict(args: argparse.Namespace, points: "Sequence[MemoryPoint]") -> list[dict[str, Any]]:
    from benchmarks.memory.prediction_cache import predict_points
    from benchmarks.memory.table import point_rows

    print("predicted on fake tensors, not measured", file=sys.stderr)
    ok = {"state": "ok"}
    predictions = predict_points(points, args.cache, say)
    return [row for item in predictions for row in point_rows(item.point, item.as_record(), ok, "predicted")]


def _each_saver(args: argparse.Namespace) -> int:
    from benchmarks.memory.table import by_saver, points_frame

    args.res = args.res or EACH_SAVER_RES
    rows, refused = _rows_of_each_saver(args)
    frame = points_frame(rows)
    if args.format == "md" and not args.wide:  # at one resolution, too: rows differ in what saves
        print(_TURNED, file=sys.stderr)
        print_frame(by_saver(frame), args.format, details=_DETAILS)
    else:
        _print(args, frame, by_saver)
    for line in dict.fromkeys(refused):
        print(line, file=sys.stderr)
    if args.plot:
        from benchmarks.report.savers_plot import plot_savers

        for path in plot_savers(frame[frame["status"] == "ok"], args.plot):
            print(path, file=sys.stderr)
    return 0


def _rows_of_each_saver(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of all points with each saver, and why some are refused: what is refused without any saver is an error."""
    from benchmarks.memory.prediction_cache import predict_points
    from benchmarks.memory.savers import why_refused, with_each_saver
    from benchmarks.memory.table import point_rows, savers_text

    plain = grid(args)
    points = [saving for point in plain for saving in with_each_saver(point).values()]
    reasons: dict[MemoryPoint, UserError] = {}

    def refuse(point: "MemoryPoint", error: UserError) -> None:
        if point in plain:
            raise error
        reasons[point] = error

    for point in points:
        if error := why_refused(point):
            refuse(point, error)
    print("predicted on fake tensors, not measured", file=sys.stderr)
    allowed = [point for point in points if point not in reasons]
    made = {item.point: item.as_record() for item in predict_points(allowed, args.cache, say, refuse)}
    status = {point: {"state": "ok"} for point in made}
    status |= {point: {"state": "refused", "phase": "setup"} for point in reasons}
    known = [point for point in points if point in status]
    rows = [row for point in known for row in point_rows(point, made.get(point), status[point], "predicted")]
    words = {point: "checkpointing, " * point.grad_checkpointing + savers_text(point) for point in reasons}
    return rows, [f"{point.variant} with {words[point]} is refused: {reasons[point]}" for point in reasons]


def _breakdown(args: argparse.Namespace) -> int:
    from benchmarks.memory.prediction_cache import predict_points
    from benchmarks.memory.table import breakdown_by_resolution, breakdown_frame

    frame = breakdown_frame(predict_points(grid(args), args.cache, say))
    _print(args, frame, breakdown_by_resolution)
    if args.plot:
        from benchmarks.report.breakdown_plot import plot_breakdown

        for path in plot_breakdown(frame, args.plot):
            print(path, file=sys.stderr)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from benchmarks.memory.measured import read_measured
    from benchmarks.memory.point import MemoryPoint
    from benchmarks.memory.prediction_cache import predict_points
    from benchmarks.memory.table import compare_allocated, compare_frame, readable, short_name

    asked = {"resolution": args.res} | {name: getattr(args, name) for name in DEFAULTS if name != "res"}
    records = [
        record
        for record in read_measured(args.results)
        if all(not values or record["point"][name] in values for name, values in asked.items())
        and is_asked_for(args.methods, record["point"]["method"], dict(record["point"]["options"]))
        and record["status"]["state"] != "failed"
    ]
    if not records:
        raise UserError(f"results must hold measured records to compare, got none in {args.results / 'measured'}")
    points = [MemoryPoint.from_dict(record["point"]) for record in records]
    predictions = {prediction.point: prediction for prediction in predict_points(points, args.cache, say)}
    pairs = [
        (record, predictions[point]) for record, point in zip(records, points, strict=True) if point in predictions
    ]
    frame = compare_frame(pairs)
    shown = frame if args.format != "md" else readable(frame) if args.wide else compare_allocated(frame)
    print_frame(shown, args.format, args.wide, _DETAILS)
    for name in map(short_name, COUNTERS):
        errors = frame[f"{name}_error_percent"].dropna().abs()
        close = f"{(errors <= GOAL_PERCENT).sum()} of {len(errors)} phases within {GOAL_PERCENT} %"
        print(f"{name}: {close}, median {errors.median():.2f} %, worst {errors.max():.2f} %", file=sys.stderr)
    return 0


def _measure(args: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    import torch

    from benchmarks.memory.measure import gpu_folder, measure_points
    from benchmarks.memory.measured import read_point, record_path
    from benchmarks.memory.point import MemoryPoint
    from benchmarks.memory.table import measured_rows
    from benchmarks.storage.files import make_results

    kind, _, index = args.device.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise UserError(f"device must be a GPU to measure on, like cuda:0, got {args.device!r}; or use --predict")
    device = torch.device(args.device)
    folder = gpu_folder(args.results, device)
    points = grid(args)
    missing = [point for point in points if not (args.only_missing and record_path(folder, point).exists())]
    print(f"{len(missing)} of {len(points)} points to measure, records in {folder}", file=sys.stderr)
    failed = 0
    make_results(args.results)
    measured = measure_points(missing, folder, device, args.cache, args.allow_busy, args.record_host)
    for number, record in enumerate(measured, start=1):
        status = record["status"]
        failed += status["state"] == "failed"
        notes = f": {status['message']}" if status["message"] else ""
        name = MemoryPoint.from_dict(record["point"]).name
        print(f"{number}/{len(missing)} {name} {status['state']}{notes}", file=sys.stderr, flush=True)
    records = [read_point(record_path(folder, point)) for point in points]
    return [row for record in records for row in measured_rows(record)], failed


COMMAND = Command(
    "memory",
    "peak memory per method and resolution, measured or predicted",
    "python bench.py memory --methods full lora fpt fpt_plus --res 224 512 1024",
    add_arguments,
    run,
)
