"""What a dry run says of a plan: memory and features of each run, shared disk counted once, time from stored runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from inside import finish_inside
from tiny_images import COUNTS, make_images

from benchmarks.config import Places, RunConfig
from benchmarks.data.dataset import open_dataset
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction, predict_memory
from benchmarks.memory.prediction_cache import predict_points
from benchmarks.memory.replay import PhasePeak
from benchmarks.model.resolved_weights import Weights
from benchmarks.records.frame import runs_frame
from benchmarks.suite.estimate import (
    ALIKE,
    Duration,
    estimate_cells,
    expected_seconds,
    probed_duration,
    runs_by_kind,
    scaled_duration,
)
from benchmarks.suite.planned import Cell, PlannedRun
from benchmarks.suite.probe import probe, probe_points


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


def test_a_range_comes_from_runs_that_differ_in_resolution_alone(tmp_path: Path) -> None:
    run = planned(tmp_path, "lora")
    same = {name: getattr(run.config, name) for name in ALIKE} | {"state": "ok", "device": "CPU", "epochs": 2}
    same |= {"seconds_total": 117.0, "seconds_train": 80.0, "seconds_validate": 20.0, "seconds_test": 7.0}
    same |= {"seconds_preload": None}
    stored = [same | {"resolution": side, "effective_resolution": side} for side in (32, 512)]
    alike = [name for name in ALIKE if name != "resolution"]
    found = scaled_duration(run.config, runs_by_kind(pd.DataFrame(stored), "CPU", alike))
    growing = 4 * 50 + 7  # four epochs, and the test; 10 s are of no image. Four times the tokens of 32 px.
    assert found == Duration(10 + 4 * growing, 10 + 16 * growing, "scaled", resolution=32)
    (down,) = [same | {"resolution": 128, "effective_resolution": 128}]
    found = scaled_duration(run.config, runs_by_kind(pd.DataFrame([down]), "CPU", alike))
    assert found == Duration(10 + growing / 16, 10 + growing / 4, "scaled", resolution=128)
    assert scaled_duration(replace(run.config, method="fpt"), runs_by_kind(pd.DataFrame(stored), "CPU", alike)) is None


def test_a_probe_is_scaled_by_steps_and_epochs(tmp_path: Path) -> None:
    run = planned(tmp_path, "fpt")
    dataset = open_dataset(run.places.dataset, run.places.data_root, run.places.cache)
    steps = {"train": 1.0, "eval": 0.1, "preload": 10.0}
    # Ten, six and eight images by two; training in four epochs, as often validated, tested once.
    found = probed_duration(run.config, dataset, steps)
    assert found.low == found.high == pytest.approx(4 * 5 + 0.1 * (4 * 3 + 4))
    assert (found.basis, found.once) == ("probed", 10.0 * (5 + 3 + 4))
    twice = probed_duration(replace(run.config, epochs=8), dataset, steps)
    assert twice.low - found.low == pytest.approx(4 * (5 + 0.3)) and twice.once == found.once
    alone = probed_duration(replace(run.config, epochs=None), dataset, {"eval": 0.1})
    assert alone.low == pytest.approx(0.1 * 7) and alone.once == 0


@pytest.mark.parametrize(("method", "phases"), [("fpt", {"preload", "train", "eval"}), ("lora", {"train", "eval"})])
def test_a_few_steps_are_timed(method: str, phases: set[str]) -> None:
    options = (("side_reduction", 4),) if method == "fpt" else ()
    point = MemoryPoint(method, 32, 2, "vit_tiny_patch16_224", 2, "fp32", "sdpa", options=options)
    seconds = probe(point, torch.device("cpu"))
    assert set(seconds) == phases and all(0 < value < 60 for value in seconds.values())


def test_what_cannot_be_probed_is_said_and_left_unknown() -> None:
    point = MemoryPoint("lora", 32, 2, "vit_tiny_patch16_224")
    notes: list[str] = []
    assert list(probe_points([point], torch.device("meta:7"), notes.append)) == [(point, None)]
    assert notes[0].startswith("lora at 32 px is not probed: ")


def minutes(stdout: str) -> list[str]:
    header, _, *rows = ([cell.strip() for cell in line.split("|")] for line in stdout.splitlines() if line[:1] == "|")
    return [row[header.index("minutes a run")] for row in rows]


def test_a_dry_run_says_hours_and_what_they_rest_on(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    suite = ["--methods", "linear", "--datasets", "images", "--weights", "none", "--backbone", "vit_tiny_patch16_224"]
    suite += ["--batch-size", "2", "--device", "cpu", "--epochs", "1", "--res"]
    ended = finish_inside(tmp_path, *suite, "32", "--dry-run", "--verbose")
    assert minutes(ended.stdout) == ["unknown"]
    assert "time: unknown for 1 to do, as no stored run is like them; --probe times a few steps" in ended.stderr
    ended = finish_inside(tmp_path, *suite, "32", "--dry-run", "--verbose", "--probe")
    (found,) = minutes(ended.stdout)
    assert found.endswith(" (probed)") and float(found.split()[0]) >= 0
    assert "timing a few steps of 1 settings on this machine" in ended.stderr
    assert "device-hours: 1 from steps probed on this machine, without reading images" in ended.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.commands.run.show_results", lambda *_: 0)
        assert finish_inside(tmp_path, *suite, "32").returncode == 0
    ended = finish_inside(tmp_path, *suite, "32", "64", "--seeds", "0", "1", "--dry-run", "--verbose", "--probe")
    assert float(minutes(ended.stdout)[0]) >= 0 and minutes(ended.stdout)[1].endswith(" (probed)")
    ended = finish_inside(tmp_path, *suite, "32", "64", "--seeds", "0", "1", "--dry-run", "--verbose")
    assert minutes(ended.stdout)[1].endswith(" (from 32 px)")
    assert "device-hours: 1 from stored runs of the same kind, 2 from stored runs at another resolution" in ended.stderr
    ended = finish_inside(tmp_path, *suite, "32", "--probe")
    assert ended.returncode == 2 and "probe must be used with --dry-run, got it alone" in ended.stderr
