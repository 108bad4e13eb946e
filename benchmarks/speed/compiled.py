"""What `--compile` changes: the losses of a few steps, seconds of compiling, and a step's time beside a plain one.

    python -m benchmarks.speed.compiled [--methods full lora fpt fpt_plus] [--device cuda] [--format csv|md]

Both networks of a method start from the same weights and take steps on the same batch in turn, in one process; the
time of a step is the median of those behind the first three. Settings: 224 px, batch 8, fp32, features preloaded.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.config import Compile, RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.data.batches import Split
from benchmarks.errors import UserError
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.training.bench import Bench
from benchmarks.training.clock import Clock
from benchmarks.training.compiled import WARM_UP_STEPS, compile_steps
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.step import (
    GivenBatches,
    Optimization,
    extraction_step,
    forbid_tf32,
    make_optimization,
    training_step,
)
from methods import METHODS
from methods.contract import IMAGE

BACKBONE, SIDE, BATCH, NUM_CLASSES = "vit_tiny_patch16_224", 224, 8, 3
STEPS = 15  # of each network, the warm-up not counted
FIRST = 3  # steps whose losses are compared: later ones grow apart from rounding alone


def row(method: str, mode: Compile, device: torch.device) -> dict[str, Any]:
    """One method: the largest relative difference of its first losses, compiling, and a step plain and compiled."""
    plain, compiled = _Network(method, "none", device), _Network(method, mode, device)
    found: dict[str, Any] = {"method": method, "mode": mode}
    try:
        found["compiling (s)"] = round(compiled.compile(), 1)
    except UserError as error:
        return found | {"refused": str(error).partition("(")[2].partition(")")[0][:60]}
    losses, times = [], []
    for _ in range(STEPS):
        both = [network.step() for network in (plain, compiled)]
        losses.append([loss for loss, _ in both])
        times.append([seconds for _, seconds in both])
    before, after = (1000 * statistics.median(column[WARM_UP_STEPS:]) for column in zip(*times, strict=True))
    return found | {
        "difference of first losses": f"{max(abs(one - other) / one for one, other in losses[:FIRST]):.1e}",
        "plain (ms)": round(before, 2),
        "compiled (ms)": round(after, 2),
        "ratio": round(before / after, 2),
    }


class _Network:
    """A method on random images and weights, the same for each of them."""

    def __init__(self, method: str, mode: Compile, device: torch.device) -> None:
        torch.manual_seed(0)
        config = make_config(method, {})
        parts = build_parts(method, config, BACKBONE, NUM_CLASSES, SIDE)
        parts.model.to(device)
        views = METHODS[method].views(config, SIDE)
        rng = np.random.default_rng(0)
        images = {name: rng.integers(0, 256, (BATCH, 3, side, side), dtype=np.uint8) for name, side in views.items()}
        self.split = Split(np.arange(BATCH) % NUM_CLASSES, images)
        run = RunConfig(
            method=method, dataset="random", dataset_digest="", resolution=SIDE, seed=0, backbone=BACKBONE,
            weights="none", weights_sha256=None, epochs=1, batch_size=BATCH, lr=1e-3, weight_decay=0.01, compile=mode,
        )  # fmt: skip
        recipe = METHODS[method].recipe(parts.model, config, STEPS)
        if parts.extractor is not None:
            parts.extractor.to(device)
        preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, device)
        self.bench = Bench(
            run, parts.model, parts.extractor, recipe, preprocessing, ("a", "b", "c"), device, Clock(),
            PhaseMemory(device, note=_nothing), _nothing,
        )  # fmt: skip
        views_now = {name: preprocessing(torch.from_numpy(view).to(device), None) for name, view in images.items()}
        if parts.extractor is not None:
            views_now |= extraction_step(parts.extractor, views_now.pop(IMAGE), "fp32", device.type)
        self.inputs, self.labels = views_now, torch.from_numpy(self.split.labels).to(device)
        if recipe.prepare is not None:
            recipe.prepare(parts.model, GivenBatches([(dict(self.inputs), self.labels)]))
        self.optimization: Optimization = make_optimization(parts.model, 1e-3, 0.01, "fp32", device.type, recipe)
        self.random = torch.get_rng_state()
        parts.model.train()

    def compile(self) -> float:
        """Seconds of it."""
        compile_steps(self.bench, self.optimization, self.split)
        return self.bench.clock.seconds["compile"]

    def step(self) -> tuple[float, float]:
        """Loss and seconds of a step, whose random numbers are those of the other network's."""
        torch.set_rng_state(self.random)
        self.bench.synchronize()
        started = time.perf_counter()
        loss = training_step(self.bench.model, dict(self.inputs), self.labels, self.optimization)
        self.bench.synchronize()
        seconds = time.perf_counter() - started
        self.random = torch.get_rng_state()
        return loss.item(), seconds


def _nothing(*_: object, **__: object) -> None:
    pass


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained = [name for name, method in METHODS.items() if not method.gradient_free]
    parser.add_argument("--methods", nargs="+", choices=trained, default=["full", "lora", "fpt", "fpt_plus"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--format", choices=("csv", "md"), default="md")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    args = make_parser().parse_args(arguments)
    forbid_tf32()
    device = torch.device(args.device)
    modes: tuple[Compile, ...] = ("default", "reduce-overhead") if device.type == "cuda" else ("default",)
    rows = []
    for method in args.methods:
        for mode in modes:
            torch._dynamo.reset()
            rows.append(row(method, mode, device))
            print(rows[-1], file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    print(table.to_csv(index=False) if args.format == "csv" else table.to_markdown(index=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
