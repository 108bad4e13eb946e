"""Predicted memory of methods with each saver alone and with all of them, or what each saver costs in time.

    python -m benchmarks.speed.savers [--methods full lora] [--res 512 1024] [--format md|csv]
    python -m benchmarks.speed.savers --timed [--device cuda] [--batch-size 4] [--res 224]

MiB of a whole run and, behind it, of training alone (peak allocated, cuBLAS's workspaces included), of batches of 16 in
bf16 with fused attention: predicted on fake tensors, not measured. `--timed`: how many times as long a training step
takes with a saver as without, steps of both in turn, in bf16 on a GPU and in fp32 on a CPU.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.config import Precision
from benchmarks.memory.phases import build_point, run_phases
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import predict_points
from benchmarks.memory.savers import SAVERS, why_refused, with_each_saver
from benchmarks.speed.fpt import compare
from benchmarks.storage.csv_cells import csv_text
from benchmarks.training.step import forbid_tf32

METHODS_SHOWN = ("full", "lora", "adapter", "fpt", "fpt_plus")
MIB = 2**20


def table(methods: Sequence[str], resolutions: Sequence[int], backbone: str, cache: Path) -> pd.DataFrame:
    """A row for each method and resolution, a column for each saver."""
    plain = [
        MemoryPoint(method, side, 16, backbone, precision="bf16", attention="sdpa")
        for method in methods
        for side in resolutions
    ]
    saving = [{name: one for name, one in with_each_saver(point).items() if not why_refused(one)} for point in plain]
    predictions = predict_points([one for each in saving for one in each.values()], cache)
    rows = []
    for point, each in zip(plain, saving, strict=True):
        row: dict[str, object] = {"method": point.method, "px": point.resolution} | dict.fromkeys(SAVERS, "-")
        for name in each:
            made = next(predictions)
            whole, training = (peak.allocated / MIB for peak in (made.highest, made.phases["train"]))
            row[name] = f"{whole:,.0f} ({training:,.0f})"
        print(point.method, point.resolution, file=sys.stderr, flush=True)
        rows.append(row)
    return pd.DataFrame(rows)


def timed_table(
    methods: Sequence[str],
    resolutions: Sequence[int],
    backbone: str,
    batch_size: int,
    device: torch.device,
    rounds: int,
) -> pd.DataFrame:
    """A row for each method and resolution, a column for each saver: a step's time with it over that without."""
    rows = []
    for method in methods:
        for side in resolutions:
            precision: Precision = "bf16" if device.type == "cuda" else "fp32"
            point = MemoryPoint(method, side, batch_size, backbone, precision=precision, attention="sdpa")
            row: dict[str, object] = {"method": method, "px": side}
            allowed = {name: one for name, one in with_each_saver(point).items() if not why_refused(one)}
            for name, saving in allowed.items():
                print(method, side, name, file=sys.stderr, flush=True)
                row[name] = step_ratio(point, saving, device, rounds)
            rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def step_ratio(plain: MemoryPoint, saving: MemoryPoint, device: torch.device, rounds: int) -> float:
    """The median ratio of the seconds of two settings' training steps, run in turn."""
    ratios: list[float] = []

    def run(point: MemoryPoint, after: Callable[[str, Callable[[], object]], None]) -> None:
        run_phases(point, lambda: build_point(point), device, lambda _: nullcontext(), after, steps=1, prepare=False)

    def beside(phase: str, step: Callable[[], object]) -> None:
        def timed(other: str, saved_step: Callable[[], object]) -> None:
            if other == "train":
                ratios.append(compare([saved_step, step], device, rounds)["ratio"])

        if phase == "train":
            run(saving, timed)

    run(plain, beside)
    return ratios[0]


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS_SHOWN), help=f"default: {' '.join(METHODS_SHOWN)}")
    parser.add_argument("--res", nargs="+", type=int, default=[512, 1024], help="default: 512 1024")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="predictions (default: .cache)")
    parser.add_argument("--timed", action="store_true", help="time instead of memory")
    parser.add_argument("--batch-size", type=int, default=16, help="of what is timed (default: 16)")
    parser.add_argument("--device", default="cpu", help="to time on (default: cpu)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of steps to time (default: 3)")
    parser.add_argument("--format", choices=("md", "csv"), default="md")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    args = make_parser().parse_args(arguments)
    if args.timed:
        forbid_tf32()
        device = torch.device(args.device)
        made = timed_table(args.methods, args.res, args.backbone, args.batch_size, device, args.rounds)
    else:
        made = table(args.methods, args.res, args.backbone, args.cache)
    print(csv_text(made) if args.format == "csv" else made.to_markdown(index=False, missingval="-"), end="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
