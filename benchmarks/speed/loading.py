"""What loading preloaded features costs: its share of the wall time and the processor time of a training step.

    python -m benchmarks.speed.loading [--methods fpt linear] [--steps 50] [--rounds 5] [--device cuda]

Epochs of training at 512 px and batch 16 on features from a cache (memory-mapped files that lie in the system's page
cache) in turn with the same steps on the same batches that lie ready, without augmentation. A share is 1 - ready /
loaded, of medians over rounds. "First": of an epoch in which each row's checksum is checked, as in the first of a
training. "Before": each sample of a batch read by a thread of its own, each batch ahead by another, whatever its size.
How threads wait and how memory is allocated changes seconds, so the head says it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.data import batches
from benchmarks.data.augment import Preprocessing
from benchmarks.data.batches import Split, iterate, training_order
from benchmarks.features import cache
from benchmarks.features.cache import FeatureRequest, FeatureRows, open_feature_cache
from benchmarks.model.build import build_parts, feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.training.step import forbid_tf32, make_optimization, training_step
from methods import METHODS
from methods.contract import IMAGE

DEFAULT_METHODS = ("fpt", "fpt_plus", "linear", "lst", "ep")
SIDE, BATCH = 512, 16
READY_BYTES = 2**30  # of an epoch's batches, which lie ready all at once: fewer steps where they take more
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GLIBC_TUNABLES", "LD_PRELOAD")
Inputs = Iterable[tuple[dict[str, Tensor], Tensor]]


class Seconds(NamedTuple):
    """Of a step."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Cached:
    """A method's features in a cache, of noise.

    Attributes:
        method: Its name.
        root: Folder of the cache.
        num_images: In it.
    """

    method: str
    root: Path
    num_images: int

    def open(self) -> Split:
        """A split on the cache, whose rows have not been checked yet."""
        config = make_config(self.method, {})
        shapes, parts = feature_shapes(self.method, config, DEFAULT_BACKBONE, SIDE)
        stored = [range(start, start + BATCH) for start in range(0, self.num_images, BATCH)]

        def compute(missing: Sequence[range]) -> Iterator[dict[str, Tensor]]:
            one = {name: torch.randn(BATCH, *shape) for name, (shape, _) in shapes.items()}
            features = {name: one[name].to(getattr(torch, dtype)) for name, (_, dtype) in shapes.items()}
            return (features for _ in missing)

        found = open_feature_cache(self.root, FeatureRequest({}, parts, shapes, stored), compute, lambda: None)
        generator = np.random.default_rng(0)
        views = {
            name: generator.integers(0, 256, (self.num_images, 3, side, side), dtype=np.uint8)
            for name, side in METHODS[self.method].views(config, SIDE).items()
            if name != IMAGE
        }
        return Split(np.zeros(self.num_images, np.int64), views, FeatureRows(found, 0))


def shares(method: str, steps: int, rounds: int, device: torch.device, root: Path) -> dict[str, Any]:
    """Of a method: steps of an epoch, a step's milliseconds, and the shares of loading."""
    config = make_config(method, {})
    shapes, _ = feature_shapes(method, config, DEFAULT_BACKBONE, SIDE)
    batch_bytes = BATCH * sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    steps = max(4, min(steps, READY_BYTES // batch_bytes))
    cached = Cached(method, root, steps * BATCH)
    order = training_order(cached.num_images, BATCH, torch.Generator().manual_seed(0))
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, device)
    model = build_parts(method, config, DEFAULT_BACKBONE, 5, SIDE).model.to(device)
    optimization = make_optimization(model, 1e-4, 0.1, "fp32", device.type)

    def loaded(split: Split) -> Inputs:
        return iterate(split, order, preprocessing, device, augment=False)

    def epoch(inputs: Inputs) -> Seconds:
        wall, processor = time.perf_counter(), time.process_time()
        for batch, labels in inputs:
            training_step(model, batch, labels, optimization)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Seconds((time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps)

    split = cached.open()
    ready = list(loaded(split))

    def before() -> Seconds:
        with mock.patch.object(batches, "SMALL_BYTES", 0), mock.patch.object(cache, "BLOCK_BYTES", 0):
            return epoch(loaded(split))

    ways: dict[str, Callable[[], Seconds]] = {
        "ready": lambda: epoch(ready),
        "now": lambda: epoch(loaded(split)),
        "first": lambda: epoch(loaded(replace(split, features=cached.open().features))),
        "before": before,
    }
    # To and fro, so that none always comes behind the same other.
    turns = [list(ways)[:: (1, -1)[number % 2]] for number in range(rounds + 1)]
    times = [{way: ways[way]() for way in turn} for turn in turns][1:]
    row: dict[str, Any] = {"MiB a batch": round(batch_bytes / 2**20, 2), "steps": steps}
    for kind in Seconds._fields:
        medians = {way: statistics.median(getattr(one[way], kind) for one in times) for way in ways}
        row[f"{kind} ms"] = f"{1000 * medians['ready']:.2f}"
        row |= {f"{kind}: {way}": f"{1 - medians['ready'] / medians[way]:.1%}" for way in ("before", "now", "first")}
    return row


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    able = [name for name, method in METHODS.items() if method.has_extractor and not method.gradient_free]
    parser.add_argument("--methods", nargs="+", choices=able, default=list(DEFAULT_METHODS))
    parser.add_argument("--steps", type=int, default=50, help="of an epoch, fewer of large features (default: 50)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each way (default: 5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    args = make_parser().parse_args(arguments)
    device = torch.device(args.device)
    forbid_tf32()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    settings = ", ".join(f"{name} {os.environ.get(name, 'unset')}" for name in SETTINGS)
    print(f"torch {torch.__version__}, {where}; {settings}; load average {os.getloadavg()[0]:.1f}\n", flush=True)
    rows = []
    for method in args.methods:
        print(method, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as root:
            rows.append({"method": method} | shares(method, args.steps, args.rounds, device, Path(root)))
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
