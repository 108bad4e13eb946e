"""What preloading takes beside training, and what it costs to extract few images at once.

    python -m benchmarks.speed.preload [--methods fpt linear] [--res 512 1024] [--device cuda] [--timed]

Memory is predicted, on fake tensors, with cuBLAS's workspaces. Before: as many images at once as a step of training
has, from fp32 weights. Now: as a run preloads. Seconds an image: what a run extracts at once against a whole batch, in
turn, from the same weights; medians of pairs.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import pandas as pd
import torch

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.config import Precision
from benchmarks.memory import phases
from benchmarks.memory.phases import build_point, synthetic_images
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory, replay_run, trace_run
from benchmarks.speed.fpt import compare
from benchmarks.training.step import extraction_step, forbid_tf32
from methods import METHODS
from methods.contract import IMAGE

BATCH = 16
MIB = 2**20


def memory_row(point: MemoryPoint) -> dict[str, object]:
    """MiB of preloading before and now, of the other phases, and of the whole run."""
    now = predict_memory(point)
    with mock.patch.object(phases, "cast_frozen", lambda *_: None):
        before = replay_run(trace_run(point, images_at_once=BATCH, last="preload"))
    others = max(peak.allocated for name, peak in now.phases.items() if name != "preload")
    return {
        "images at once": now.images_at_once,
        "preload before": round(before["preload"].allocated / MIB),
        "preload now": round(now.phases["preload"].allocated / MIB),
        "other phases": round(others / MIB),
        "whole run now": round(now.highest.allocated / MIB),
    }


def time_row(point: MemoryPoint, at_once: int, device: torch.device, rounds: int) -> dict[str, object]:
    """Seconds of extracting a batch, a few images at once and all of them, in turn."""
    extractor = build_point(point).extractor
    assert extractor is not None
    extractor.to(device)
    image = synthetic_images(point, device)[IMAGE]

    def extract(count: int) -> Callable[[], None]:
        def step() -> None:
            for part in image.split(count):
                extraction_step(extractor, part, point.precision, device.type)

        return step

    times = compare([extract(at_once), extract(BATCH)], device, rounds)
    return {"images/s": round(BATCH / times["before (s)"], 2), "seconds: few / all at once": times["ratio"]}


def rows(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """A row for each method, resolution and precision."""
    for method in args.methods:
        for resolution in args.res:
            for precision in ("bf16", "fp32"):
                print(method, resolution, precision, file=sys.stderr, flush=True)
                point = MemoryPoint(method, resolution, BATCH, args.backbone, precision=precision, attention="sdpa")
                row = {"method": method, "px": resolution, "precision": precision} | memory_row(point)
                if precision in args.timed:
                    row |= time_row(point, int(str(row["images at once"])), torch.device(args.device), args.rounds)
                yield row


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    able = [name for name, method in METHODS.items() if method.has_extractor]
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    parser.add_argument("--methods", nargs="+", choices=able, default=able, help="default: all that preload")
    parser.add_argument("--res", nargs="+", type=int, default=[512, 1024], help="default: 512 1024")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    parser.add_argument("--device", default="cpu", help="to time on (default: cpu)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs to time (default: 3)")
    parser.add_argument(
        "--timed", nargs="*", choices=precisions, default=list(precisions), help="which to time; none: memory alone"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    args = make_parser().parse_args(arguments)
    forbid_tf32()
    print(pd.DataFrame(rows(args), dtype=object).to_markdown(index=False, missingval="–"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
