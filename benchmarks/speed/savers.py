"""Predicted memory of methods with each saver alone and with all of them.

    python -m benchmarks.speed.savers [--methods full lora] [--res 512 1024] [--format md|csv]

MiB of a whole run and, behind it, of training alone (peak allocated, cuBLAS's workspaces included), of batches of 16 in
bf16 with fused attention: predicted on fake tensors, not measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import predict_points
from benchmarks.memory.savers import SAVERS, why_refused, with_each_saver
from benchmarks.storage.csv_cells import csv_text

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


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS_SHOWN), help=f"default: {' '.join(METHODS_SHOWN)}")
    parser.add_argument("--res", nargs="+", type=int, default=[512, 1024], help="default: 512 1024")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="predictions (default: .cache)")
    parser.add_argument("--format", choices=("md", "csv"), default="md")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    args = make_parser().parse_args(arguments)
    made = table(args.methods, args.res, args.backbone, args.cache)
    print(csv_text(made) if args.format == "csv" else made.to_markdown(index=False), end="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
