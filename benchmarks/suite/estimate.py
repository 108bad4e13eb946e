"""What the runs of a plan will take, ahead of them: GPU memory, disk and time."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch

from benchmarks.config import SAVER_WORDS, RunConfig
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.environment import device_name
from benchmarks.memory.phases import views_of
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction
from benchmarks.memory.prediction_cache import point_of_run
from benchmarks.model.backbone import described, effective_resolution
from benchmarks.model.build import feature_kind
from benchmarks.model.method_config import make_config
from benchmarks.suite.planned import Cell, PlannedRun

# Stored runs that agree in these tell how long a run takes; epochs and seeds may differ.
ALIKE = (
    *("method", "dataset", "resolution", "backbone", "batch_size", "precision", "attention", "grad_checkpointing"),
    *(*SAVER_WORDS, "train_labels", "keep_steps", "imbalance"),
)

_ELSEWHERE = tuple(name for name in ALIKE if name != "resolution")
_BY_TOKENS = ("seconds_train", "seconds_validate", "seconds_test", "seconds_preload")  # what grows with an image

Predict = Callable[[Sequence[MemoryPoint]], Mapping[MemoryPoint, Prediction]]
Probe = Callable[[Sequence[MemoryPoint]], Mapping[MemoryPoint, Mapping[str, float] | None]]
Basis = Literal["stored", "probed", "scaled"]


class Duration(NamedTuple):
    """How long a run takes, in seconds.

    low, high: the same where it is no range. once: extracting features takes that beside, once for all runs of a cell.
    basis: `stored`, runs of the same kind; `probed`, a few steps on this machine, images read from nowhere; `scaled`,
    runs that differ in resolution alone: between as the number of tokens grows and as its square does. resolution: of
    these (px).
    """

    low: float
    high: float
    basis: Basis
    once: float = 0.0
    resolution: int | None = None


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
        duration: None where nothing tells of it.
    """

    run_bytes: int | None
    train_bytes: int | None
    image_bytes: int
    feature_bytes: int | None
    duration: Duration | None


def estimate_cells(
    cells: Sequence[Cell], stored: pd.DataFrame, predict: Predict, probe: Probe | None = None
) -> tuple[list[Estimate], int]:
    """An estimate for each cell, and the bytes on disk that all of them need together, what they share counted once.

    Args:
        cells: Of one plan.
        stored: Stored runs, as `runs_frame` makes them.
        predict: Gives the predictions of all points, or of some of them.
        probe: Times steps of points of which no stored run of their kind tells; None to leave that.
    """
    firsts = [cell.runs[0] for cell in cells]
    places = {run.places.dataset: run.places for run in firsts}
    datasets = {name: open_dataset(name, place.data_root, place.cache) for name, place in places.items()}
    points = [
        point_of_run(run.config, len(datasets[run.places.dataset].classes), run.places.gpu_memory) for run in firsts
    ]
    predictions = predict(list(dict.fromkeys(points)))
    device = device_name(torch.device(firsts[0].places.device))
    durations = _durations(firsts, points, datasets, runs_by_kind(stored, device), probe)
    elsewhere = runs_by_kind(stored, device, _ELSEWHERE)
    estimates: list[Estimate] = []
    disk: dict[tuple[object, ...], int] = {}
    for run, point, duration in zip(firsts, points, durations, strict=True):
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
        duration = duration or scaled_duration(run.config, elsewhere)
        estimates.append(Estimate(whole, train, sum(images.values()), features, duration))
    return estimates, sum(disk.values())


def _add_features(disk: dict[tuple[object, ...], int], dataset: str, point: MemoryPoint, size: int) -> None:
    """Adds a feature cache, unless one of those before it serves: of the same features, with all parts and more."""
    config = make_config(point.method, dict(point.options))
    kind, parts = feature_kind(point.method, config, point.backbone)
    shared = (dataset, kind, point.backbone, point.resolution, point.precision, point.attention, point.quantize)
    if not any(key[:-1] == shared and parts <= key[-1] for key in disk):  # type: ignore[operator]
        disk[(*shared, parts)] = size


def _durations(
    runs: Sequence[PlannedRun],
    points: Sequence[MemoryPoint],
    datasets: Mapping[str, Dataset],
    alike: Mapping[tuple[Any, ...], pd.DataFrame],
    probe: Probe | None,
) -> list[Duration | None]:
    """From stored runs of the same kind, else from steps that are timed now, each kind once."""
    known = [expected_seconds(run.config, alike) for run in runs]
    unknown = [point for point, seconds in zip(points, known, strict=True) if seconds is None]
    probed = probe(list(dict.fromkeys(unknown))) if probe and unknown else {}
    durations: list[Duration | None] = []
    for run, point, seconds in zip(runs, points, known, strict=True):
        steps = probed.get(point)
        if seconds is not None:
            durations.append(Duration(seconds, seconds, "stored"))
        elif steps is not None:
            durations.append(probed_duration(run.config, datasets[run.places.dataset], steps))
        else:
            durations.append(None)
    return durations


def probed_duration(config: RunConfig, dataset: Dataset, steps: Mapping[str, float]) -> Duration:
    """A run's training, its validation in each epoch and its test, and what extraction takes once.

    Args:
        config: Of the run.
        dataset: What it is of.
        steps: Seconds of a step by phase, as `probe.probe` gives them.
    """
    batches = {name: math.ceil(len(samples) / config.batch_size) for name, samples in dataset.splits.items()}
    num_evaluated = batches["val"] * (config.epochs or 1) + batches["test"]
    seconds = config.num_steps(len(dataset.splits["train"])) * steps.get("train", 0.0)
    seconds += num_evaluated * steps.get("eval", 0.0)
    return Duration(seconds, seconds, "probed", sum(batches.values()) * steps.get("preload", 0.0))


def scaled_duration(config: RunConfig, elsewhere: Mapping[tuple[Any, ...], pd.DataFrame]) -> Duration | None:
    """From finished runs that differ in resolution alone, those at the nearest; None without any.

    Args:
        config: Of the run.
        elsewhere: Finished runs, together where they agree in all of `ALIKE` but the resolution.
    """
    runs = elsewhere.get(tuple(getattr(config, name) for name in _ELSEWHERE))
    runs = None if runs is None else runs.dropna(subset=["effective_resolution", "seconds_total"])
    if runs is None or runs.empty:
        return None
    side = effective_resolution(config.resolution, described(config.backbone).stride)
    ratios = (side / runs["effective_resolution"].astype("float64")) ** 2
    distances = [abs(math.log(ratio)) for ratio in ratios]
    nearest = int(runs["resolution"].to_numpy()[distances.index(min(distances))])
    is_nearest = runs["resolution"] == nearest
    runs, ratios = runs[is_nearest], ratios[is_nearest]
    parts = runs[list(_BY_TOKENS)].fillna(0.0)
    fixed = runs["seconds_total"] - parts.sum(axis=1)
    if config.epochs is not None:
        for name in ("seconds_train", "seconds_validate"):
            parts[name] *= config.epochs / runs["epochs"].astype("float64")
    growing = parts.sum(axis=1)
    ends = sorted(float((fixed + growing * ratios**power).median()) for power in (1, 2))
    return Duration(ends[0], ends[1], "scaled", resolution=nearest)


def runs_by_kind(
    stored: pd.DataFrame, device: str, alike: Sequence[str] = ALIKE
) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Finished runs on a device, together where they agree in some columns."""
    finished = stored[(stored["state"] == "ok") & (stored["device"] == device)]
    return dict(iter(finished.groupby(list(alike))))


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
