"""What a dry run says of a plan: memory and features of each run, shared disk counted once, time from stored runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_images import COUNTS, make_images

from benchmarks.config import Places, RunConfig
from benchmarks.data.dataset import open_dataset
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import PhasePeak, Prediction, predict_memory
from benchmarks.memory.prediction_cache import predict_points
from benchmarks.model.resolved_weights import Weights
from benchmarks.records.frame import runs_frame
from benchmarks.suite.estimate import ALIKE, estimate_cells, expected_seconds, runs_by_kind
from benchmarks.suite.planned import Cell, PlannedRun


def planned(folder: Path, method: str, resolution: int = 64, seed: int = 0) -> PlannedRun:
    if not (folder / "images").exists():
        make_images(folder / "images")
    places = Places(str(folder / "images"), folder / "data", folder / "cache", "cpu")
    digest = open_dataset(places.dataset, places.data_root, places.cache).digest
    options = {"side_reduction": 4} if method == "fpt" else {}
    config = RunConfig(
        method, "images", digest, resolution, seed, "vit_tiny_patch16_224", "none", None, 4, 2, 1e-3, 0.1, options,
        preload=method != "lora",
    )  # fmt: skip
    return PlannedRun(config, places, Weights("none", "none", config.backbone, config.backbone))


def test_runs_of_one_setting_share_memory_and_disk(tmp_path: Path) -> None:
    runs = [planned(tmp_path, "fpt"), planned(tmp_path, "fpt", seed=1), planned(tmp_path, "lora")]
    cells = [Cell([], [run]) for run in runs]
    (first, second, lora), disk = estimate_cells(
        cells, runs_frame([]), lambda points: {p.point: p for p in predict_points(points, tmp_path / "cache")}
    )
    assert first == second
    (unpredicted, _, _), images = estimate_cells(cells, runs_frame([]), lambda points: {})
    assert unpredicted == replace(first, run_bytes=None, train_bytes=None, feature_bytes=None)
    assert images == first.image_bytes
    count, classes = 2 * sum(COUNTS.values()), 2
    point = MemoryPoint("fpt", 64, 2, "vit_tiny_patch16_224", classes, "fp32", "sdpa", options=(("side_reduction", 4),))
    phases = predict_memory(point).phases
    highest = max(peak.allocated for peak in phases.values())
    assert (first.run_bytes, first.train_bytes) == (highest, phases["train"].allocated)
    assert first.image_bytes == count * 3 * (64**2 + 224**2)
    assert first.feature_bytes == count * 2 * 12 * 3 * 3 * 64 * 2  # keys and values: blocks, heads, kept, width, fp16
    assert (lora.run_bytes, lora.feature_bytes) == (lora.train_bytes, 0)
    assert disk == first.image_bytes + first.feature_bytes


def test_methods_on_the_same_features_share_disk(tmp_path: Path) -> None:
    """DTL reads a part of what LST and UniPT do: of a cache that is there before, else of one of its own."""
    batch_bytes = {"lst": 26, "unipt": 26, "dtl": 14}

    def predict(points: Sequence[MemoryPoint]) -> dict[MemoryPoint, Prediction]:
        train = {"train": PhasePeak(1, 1, 1, {})}
        return {point: Prediction(point, train, batch_bytes[point.method]) for point in points}

    sizes = []
    for methods in (("lst", "unipt", "dtl"), ("dtl", "lst")):
        cells = [Cell([], [planned(tmp_path, method)]) for method in methods]
        estimates, disk = estimate_cells(cells, runs_frame([]), predict)
        sizes.append(disk - estimates[0].image_bytes)
    batches = sum(COUNTS.values())  # of two images
    assert sizes == [26 * batches, (14 + 26) * batches]


def test_time_comes_from_stored_runs_of_the_same_kind(tmp_path: Path) -> None:
    run = planned(tmp_path, "lora")
    same = {name: getattr(run.config, name) for name in ALIKE} | {"state": "ok", "device": "CPU"}
    same |= {"epochs": 2, "seconds_total": 110.0, "seconds_train": 80.0, "seconds_validate": 20.0}
    others: list[dict[str, Any]] = [
        {"state": "failed"},
        {"device": "NVIDIA H100"},
        {"resolution": 128},
        {"method": "fpt"},
    ]
    stored = pd.DataFrame([same, *(same | other | {"seconds_total": 1e6} for other in others)])
    alike = runs_by_kind(stored, "CPU")
    assert expected_seconds(run.config, alike) == pytest.approx(10 + 4 * 50)
    assert expected_seconds(replace(run.config, batch_size=1), alike) is None
