"""What the runs of a plan will take, ahead of them: GPU memory, disk and, from stored runs of the same kind, time."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from benchmarks.data import Dataset, open_dataset
from benchmarks.environment import device_name
from benchmarks.phases import views_of
from benchmarks.plan import PlannedRun
from benchmarks.predictions import point_of_run, predict_points

# Stored runs that agree in these tell how long a run takes; epochs and seeds may differ.
ALIKE = ("method", "dataset", "resolution", "backbone", "batch_size", "precision", "attention", "grad_checkpointing")


@dataclass(frozen=True)
class Estimate:
    """What one run will take.

    Attributes:
        train_bytes: Predicted peak allocated memory of training.
        preload_bytes: That of preloading; None without such a phase.
        image_bytes: Resized images on disk, shared by all runs on the same dataset and resolution.
        feature_bytes: Preloaded features on disk, shared by runs that differ in seed or budget only.
        seconds: From stored runs; None where there are none.
    """

    train_bytes: int
    preload_bytes: int | None
    image_bytes: int
    feature_bytes: int
    seconds: float | None


def estimate_runs(runs: Sequence[PlannedRun], stored: pd.DataFrame) -> tuple[list[Estimate], int]:
    """An estimate for each run, and the bytes on disk that all of them need together, what they share counted once.

    Args:
        runs: Of one plan.
        stored: Stored runs, as `runs_frame` makes them.
    """
    if not runs:
        return [], 0
    cache = runs[0].places.cache
    datasets: dict[str, Dataset] = {}
    for run in runs:
        if run.places.dataset not in datasets:
            datasets[run.places.dataset] = open_dataset(run.places.dataset, run.places.data_root, cache)
    points = [point_of_run(run.config, len(datasets[run.places.dataset].classes)) for run in runs]
    estimates: list[Estimate] = []
    disk: dict[tuple[str, object], int] = {}
    for run, point, prediction in zip(runs, points, predict_points(points, cache), strict=True):
        dataset = datasets[run.places.dataset]
        count = sum(len(samples) for samples in dataset.splits.values())
        images: dict[tuple[str, object], int] = {
            (dataset.digest, side): count * 3 * side**2 for side in views_of(point).values()
        }
        features = math.ceil(count / point.batch_size * prediction.feature_bytes)
        disk |= images | {(dataset.digest, point): features}
        preload = prediction.phases.get("preload")
        estimates.append(
            Estimate(
                prediction.phases["train"].allocated,
                preload.allocated if preload else None,
                sum(images.values()),
                features,
                expected_seconds(run, stored),
            )
        )
    return estimates, sum(disk.values())


def expected_seconds(run: PlannedRun, stored: pd.DataFrame) -> float | None:
    """The median of what finished runs of the same kind took on this device, scaled to the run's epochs; else None."""
    wanted: dict[str, Any] = {name: getattr(run.config, name) for name in ALIKE}
    wanted |= {"state": "ok", "device": device_name(torch.device(run.places.device))}
    alike = stored
    for name, value in wanted.items():
        alike = alike[(alike[name] == value).fillna(False).astype(bool)]
    by_epoch = alike["seconds_train"] + alike["seconds_validate"]
    seconds = alike["seconds_total"] - by_epoch + by_epoch / alike["epochs"].astype("float64") * run.config.epochs
    known = seconds.dropna().tolist()
    return statistics.median(known) if known else None
