"""What fits my card on the page: the setting of the runs first, and kept predictions where nothing was measured."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixed_records import make_record, store_with_predictions
from report_folder import write_measured

from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser
from benchmarks.memory.kept_predictions import folder_of, read_prediction
from benchmarks.memory.needs import needed_bytes
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction
from benchmarks.memory.prediction_cache import predict_points
from benchmarks.report.page_data import collect
from benchmarks.storage.files import write_disposable

SETTING: dict[str, Any] = {"batch_size": 16, "precision": "bf16", "attention": "sdpa", "num_classes": 2}
LABEL = "Linear probe"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs at batch size 16 and one at 8, and more points measured apart than there are runs."""
    folder = tmp_path_factory.mktemp("results")
    for method, seed in (("linear", 0), ("linear", 1), ("fpt", 0)):
        store_with_predictions(folder, make_record(method, seed=seed), 1.0)
    store_with_predictions(folder, make_record("linear", tag="eight", config={"batch_size": 8}), 1.0)
    for resolution in range(224, 1025, 32):
        path = write_measured(folder, "full", resolution, {"train": resolution})
        path.write_text(path.read_text().replace('"batch_size": 16', '"batch_size": 2'))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def predicted(cache: Path) -> dict[int, Prediction]:
    """The probe of the runs at two sides, one of which a run has, and others that are none of them."""
    points = [MemoryPoint("linear", side, **SETTING) for side in (224, 448)]
    others = [MemoryPoint("linear", 256, **SETTING | {"num_classes": 7})]
    others += [MemoryPoint("linear", 320, **SETTING | {"precision": "fp32"})]
    others += [MemoryPoint("lora", 224, **SETTING)]
    found = list(predict_points([*points, *others], cache))
    return {prediction.point.resolution: prediction for prediction in found[: len(points)]}


def test_the_setting_of_the_runs_comes_first(results: Path) -> None:
    settings = collect(results, results).shown["settings"]
    sizes = [setting["setting"].split(", ")[1] for setting in settings]
    assert sizes == ["batch size 16", "batch size 8", "batch size 2"]
    assert [setting["command"] is None for setting in settings] == [False, False, True]


def test_predictions_fill_what_is_not_known(results: Path, cache: Path, predicted: dict[int, Prediction]) -> None:
    before = collect(results, results).shown["memory"]
    after = collect(results, results, cache=cache).shown["memory"]
    filled = [point for point in after if point["record"] is None]
    assert [(point["label"], point["resolution"], point["source"]) for point in filled] == [(LABEL, 224, "predicted")]
    highest = predicted[224].highest.allocated
    assert (filled[0]["run"], filled[0]["needs"]) == (highest, needed_bytes(highest))
    assert filled[0]["setting"] == collect(results, results).shown["settings"][0]["setting"]
    assert [point for point in after if point["record"] is not None] == before


def test_a_prediction_of_other_options_is_of_no_run(results: Path, cache: Path, tmp_path: Path) -> None:
    rank = (("rank", 4),)
    list(predict_points([MemoryPoint("lora", 224, **SETTING, options=rank)], cache))
    store_with_predictions(tmp_path, make_record("lora", config={"options": {}}), 1.0)
    assert [
        point for point in collect(tmp_path, tmp_path, cache=cache).shown["memory"] if point["record"] is None
    ] != []
    store_with_predictions(tmp_path / "four", make_record("lora", config={"options": {"rank": 4}}), 1.0)
    labels = {
        folder: [
            (point["label"], point["run"])
            for point in collect(folder, folder, cache=cache).shown["memory"]
            if point["record"] is None
        ]
        for folder in (tmp_path, tmp_path / "four")
    }
    assert len(labels[tmp_path]) == len(labels[tmp_path / "four"]) == 1
    assert labels[tmp_path] != labels[tmp_path / "four"]


def test_a_prediction_within_a_card_is_of_no_run(results: Path, tmp_path: Path) -> None:
    """As many images are extracted there as its owner asked for, not as the runs did."""
    (made,) = predict_points([MemoryPoint("linear", 224, **SETTING, preload_limit=2**33)], tmp_path)
    assert collect(results, results, cache=tmp_path).shown["memory"] == collect(results, results).shown["memory"]
    list(predict_points([replace(made.point, preload_limit=None)], tmp_path))
    assert collect(results, results, cache=tmp_path).shown["memory"] != collect(results, results).shown["memory"]


def test_predictions_of_other_code_are_not_shown(
    results: Path, cache: Path, predicted: dict[int, Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.memory.kept_predictions.CODE_DIGEST", "0" * 64)
    assert all(point["record"] for point in collect(results, results, cache=cache).shown["memory"])


def test_the_command_predicts_what_is_missing(results: Path) -> None:
    command = collect(results, results).shown["settings"][0]["command"]
    words = shlex.split(command)
    assert words[:4] == ["python", "bench.py", "memory", "--predict"]
    args = make_parser(COMMANDS["memory"]).parse_args(words[3:])
    assert (args.batch_size, args.precision, args.attention) == ([16], ["bf16"], ["sdpa"])
    assert {448, 224, 1024} <= {*args.res} and len(args.methods) == 2


def test_predictions_of_another_layout_are_passed_over(results: Path, tmp_path: Path) -> None:
    """As the versions before left them in the same folder."""
    write_disposable(folder_of(tmp_path) / "linear-224-0123", b'{"key": {"schema": 1}, "phases": {}}\n')
    assert read_prediction(folder_of(tmp_path) / "linear-224-0123") is None
    before, after = (collect(results, results, cache=cache).shown for cache in (None, tmp_path))
    assert after == before
