"""What the runs of a plan will take, ahead of them: GPU memory, disk and, from stored runs of the same kind, time."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from benchmarks.config import RunConfig
from benchmarks.data.dataset import open_dataset
from benchmarks.environment import device_name
from benchmarks.memory.phases import views_of
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction
from benchmarks.memory.prediction_cache import point_of_run
from benchmarks.model.build import feature_kind
from benchmarks.model.method_config import make_config
from benchmarks.suite.planned import Cell

# Stored runs that agree in these tell how long a run takes; epochs and seeds may differ.
ALIKE = ("method", "dataset", "resolution", "backbone", "batch_size", "precision", "attention", "grad_checkpointing")

Predict = Callable[[Sequence[MemoryPoint]], Mapping[MemoryPoint, Prediction]]


@dataclass(frozen=True)
class Estimate:
    """What each run of a cell will take; its trials take as much.

    Attributes:
        run_bytes: Predicted peak allocated memory of the whole run, the highest of its phases; None without a
            prediction.
        train_bytes: That of training alone; None also where nothing trains by gradients.
        image_bytes: Resized images on disk, shared by all runs on the same dataset and resolution.
        feature_bytes: Preloaded features on disk, shared by runs that differ in seed or budget only, and by methods
            whose features are the same; None without a prediction.
        seconds: From stored runs; None where there are none.
    """

    run_bytes: int | None
    train_bytes: int | None
    image_bytes: int
    feature_bytes: int | None
    seconds: float | None


def estimate_cells(cells: Sequence[Cell], stored: pd.DataFrame, predict: Predict) -> tuple[list[Estimate], int]:
    """An estimate for each cell, and the bytes on disk that all of them need together, what they share counted once.

    Args:
        cells: Of one plan.
        stored: Stored runs, as `runs_frame` makes them.
        predict: Gives the predictions of all points, or of some of them.
    """
    firsts = [cell.runs[0] for cell in cells]
    places = {run.places.dataset: run.places for run in firsts}
    datasets = {name: open_dataset(name, place.data_root, place.cache) for name, place in places.items()}
    points = [point_of_run(run.config, len(datasets[run.places.dataset].classes)) for run in firsts]
    predictions = predict(list(dict.fromkeys(points)))
    alike = runs_by_kind(stored, device_name(torch.device(firsts[0].places.device)))
    estimates: list[Estimate] = []
    disk: dict[tuple[object, ...], int] = {}
    for run, point in zip(firsts, points, strict=True):
        dataset = datasets[run.places.dataset]
        count = sum(len(samples) for samples in dataset.splits.values())
        images: dict[tuple[object, ...], int] = {
            (dataset.digest, side): count * 3 * side**2 for side in views_of(point).values()
        }
        disk |= images
        whole, train, features = None, None, None
        if point in predictions:
            prediction = predictions[point]
            training = prediction.phases.get("train")
            whole, train = prediction.highest.allocated, training.allocated if training else None
            features = math.ceil(count / point.batch_size * prediction.feature_bytes)
            if features:
                _add_features(disk, dataset.digest, point, features)
        seconds = expected_seconds(run.config, alike)
        estimates.append(Estimate(whole, train, sum(images.values()), features, seconds))
    return estimates, sum(disk.values())


def _add_features(disk: dict[tuple[object, ...], int], dataset: str, point: MemoryPoint, size: int) -> None:
    """Adds a feature cache, unless one of those before it serves: of the same features, with all parts and more."""
    config = make_config(point.method, dict(point.options))
    kind, parts = feature_kind(point.method, config, point.backbone)
    shared = (dataset, kind, point.backbone, point.resolution, point.precision, point.attention)
    if not any(key[:-1] == shared and parts <= key[-1] for key in disk):  # type: ignore[operator]
        disk[(*shared, parts)] = size


def runs_by_kind(stored: pd.DataFrame, device: str) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Finished runs on a device, together where they agree in `ALIKE`."""
    finished = stored[(stored["state"] == "ok") & (stored["device"] == device)]
    return dict(iter(finished.groupby(list(ALIKE))))


def expected_seconds(config: RunConfig, alike: Mapping[tuple[Any, ...], pd.DataFrame]) -> float | None:
    """The median of what finished runs of the same kind took, scaled to the run's epochs; None without any."""
    runs = alike.get(tuple(getattr(config, name) for name in ALIKE))
    if runs is None:
        return None
    seconds = runs["seconds_total"]
    if config.epochs is not None:
        by_epoch = runs["seconds_train"] + runs["seconds_validate"]
        seconds = seconds - by_epoch + by_epoch / runs["epochs"].astype("float64") * config.epochs
    known = seconds.dropna().tolist()
    return statistics.median(known) if known else None
