"""Predictions kept on disk: made once, and never again only while everything they depend on is the same."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import environment
from benchmarks.errors import UserError
from benchmarks.memory import kept_predictions, prediction_cache
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction, PredictionError, predict_memory
from benchmarks.memory.prediction_cache import predict_point, predict_points
from benchmarks.storage.files import read_sealed, seal
from benchmarks.training.preload import EXTRACTS
from methods import METHODS

pytestmark = pytest.mark.slow

POINT = MemoryPoint("fpt", 64, 4, "vit_tiny_patch16_224", options=(("side_reduction", 4),))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[MemoryPoint]:
    """The points that are predicted while a test runs."""
    points: list[MemoryPoint] = []

    def predict(point: MemoryPoint) -> Prediction:
        points.append(point)
        return predict_memory(point)

    monkeypatch.setattr(prediction_cache, "predict_memory", predict)
    return points


def test_a_point_is_predicted_once(tmp_path: Path, made: list[MemoryPoint]) -> None:
    other = replace(POINT, resolution=80)
    first = list(predict_points([POINT, other, POINT], tmp_path))
    assert [prediction.point for prediction in first] == [POINT, other, POINT]
    assert made == [POINT, other]
    assert list(predict_points([other, POINT], tmp_path)) == [first[1], first[0]]
    assert made == [POINT, other]
    assert first[0] == predict_memory(POINT)


def test_options_spelt_out_are_the_same_point(tmp_path: Path, made: list[MemoryPoint]) -> None:
    spelt = replace(POINT, options=(("keep_ratio", 0.2), ("side_reduction", 4)))
    assert predict_point(POINT, tmp_path).phases == predict_point(spelt, tmp_path).phases
    assert made == [POINT]
    predict_point(replace(POINT, options=(("keep_ratio", 0.3), ("side_reduction", 4))), tmp_path)
    assert len(made) == 2


def test_other_code_or_packages_predict_anew(
    tmp_path: Path, made: list[MemoryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_point(POINT, tmp_path)
    monkeypatch.setattr(kept_predictions, "CODE_DIGEST", "other")
    predict_point(POINT, tmp_path)
    assert len(made) == 2
    monkeypatch.setattr(kept_predictions, "version", lambda name: "9.9")
    predict_point(POINT, tmp_path)
    assert len(made) == 3


def test_each_digest_follows_its_code() -> None:
    sources = environment.read_sources()
    parts = {"trains": environment.TRAINS, "predicts": environment.PREDICTS, "extracts": EXTRACTS}
    parts |= {method: environment.method_files(METHODS[method].build.__module__) for method in ("fpt", "lora")}
    changed = {
        "benchmarks/images/decode.py": {"trains", "predicts", "extracts"},
        "benchmarks/training/loop.py": {"trains", "predicts"},
        "benchmarks/config.py": {"trains", "predicts"},
        "benchmarks/memory/trace.py": {"predicts"},
        "benchmarks/report/style.py": set(),
        "methods/contract.py": {"trains", "predicts", "fpt", "lora"},
        "methods/side/fpt.py": {"predicts", "fpt"},
        "methods/side/fpt_parts/extraction.py": {"predicts", "fpt"},
        "methods/__init__.py": {"predicts"},
    }
    for file, expected in changed.items():
        other = sources | {file: sources[file] + b"\n"}
        assert {
            name
            for name, part in parts.items()
            if environment.code_digest(part, other) != environment.code_digest(part)
        } == expected


def test_the_digest_is_that_of_the_code_as_imported(tmp_path: Path) -> None:
    assert environment.code_digest(environment.PREDICTS) == environment.CODE_DIGEST
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "new.py").write_text("from methods.contract import Method\nimport methods.old as old\n")
    (tmp_path / "methods" / "old.py").write_text("from methods import METHODS\n")
    sources = environment.read_sources(tmp_path)
    assert environment.method_files("methods.new", sources) == ("methods/new.py", "methods/old.py")
    before = environment.code_digest(("methods/",), sources)
    (tmp_path / "methods" / "new.py").write_text("x = 2\n")
    assert environment.code_digest(("methods/",), sources) == before
    assert environment.code_digest(("methods/",), environment.read_sources(tmp_path)) != before


@pytest.mark.parametrize("damage", ["{", "[]", '{"phases": {}}', "other key"])
def test_a_file_that_is_not_the_points_is_made_anew(tmp_path: Path, made: list[MemoryPoint], damage: str) -> None:
    prediction = predict_point(POINT, tmp_path)
    (path,) = (tmp_path / "predictions").iterdir()
    stored: dict[str, Any] = json.loads(read_sealed(path))
    assert stored["key"]["packages"].keys() == {"torch", "timm", "peft"}
    if damage == "other key":
        stored["key"]["point"]["resolution"] = 4096
        path.write_bytes(seal(path, json.dumps(stored).encode()))
    else:
        path.write_text(damage)
    assert predict_point(POINT, tmp_path) == prediction
    assert len(made) == 2


def test_features_are_counted_as_the_extractor_gives_them(tmp_path: Path) -> None:
    kept = int(0.2 * (64 // 16) ** 2 + 0.2)  # tokens of 17, in each of 3 heads of width 64 in 12 blocks
    assert predict_point(POINT, tmp_path).feature_bytes == 4 * 2 * 12 * 3 * kept * 64 * 2
    assert predict_point(replace(POINT, preload=False), tmp_path).feature_bytes == 0


def test_a_point_that_cannot_be_predicted_is_left_out_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error crosses processes, and a setting that no method can work with is still the user's mistake."""
    other = replace(POINT, resolution=80)

    def predict(point: MemoryPoint) -> Prediction:
        if point == POINT:
            raise pickle.loads(pickle.dumps(PredictionError(point, "RuntimeError: why")))
        return predict_memory(point)

    monkeypatch.setattr(prediction_cache, "predict_memory", predict)
    told: list[str] = []
    found = predict_points([POINT, other, POINT], tmp_path, lambda error: told.append(str(error)))
    assert [prediction.point for prediction in found] == [other]
    assert told == [f"memory of {POINT.name} cannot be predicted: RuntimeError: why"]
    with pytest.raises(PredictionError, match="cannot be predicted: RuntimeError: why"):
        predict_point(POINT, tmp_path)
    with pytest.raises(UserError, match="keep_ratio of fpt must be a number, above 0 and at most 1, got 7"):
        predict_point(replace(other, options=(("keep_ratio", 7.0), ("side_reduction", 4))), tmp_path)
