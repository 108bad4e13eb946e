"""Predictions kept on disk: a point is predicted once, whichever command, suite or run asks for it.

A file holds its whole key: the point with every option of its method, a digest of our code that a prediction runs,
and the versions of torch, timm and peft. Where any of these differs, the point is predicted anew.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.config import RunConfig
from benchmarks.errors import UserError
from benchmarks.features.cache import digest
from benchmarks.memory.kept_predictions import folder_of, made_by, read_prediction
from benchmarks.memory.needs import room_on
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction, PredictionError, map_points, predict_memory
from benchmarks.model.method_config import make_config
from benchmarks.plugins import digests_of
from benchmarks.storage.files import write_disposable
from methods import METHODS


def _fail(error: PredictionError) -> None:
    raise error


def _refuse(point: MemoryPoint, error: UserError) -> None:
    raise error


def predict_points(
    points: Iterable[MemoryPoint],
    cache: Path,
    tell: Callable[[PredictionError], None] = _fail,
    refuse: Callable[[MemoryPoint, UserError], None] = _refuse,
) -> Iterator[Prediction]:
    """Predicts points in order; what was predicted before is read, the rest is stored as it is made.

    Args:
        points: What to predict; a point that comes twice is predicted once.
        cache: Folder of caches; predictions lie in its `predictions`.
        tell: Gets the error of a point that cannot be predicted, and returns where that point is to be left out.
        refuse: The same of a point that is none its method can work with.
    """
    points = list(points)
    known: dict[MemoryPoint, Prediction | None] = dict(stored_predictions(points, cache))
    fresh = map_points(_try_to_predict, [point for point in dict.fromkeys(points) if point not in known])
    for point in points:
        if point not in known:
            made = next(fresh)
            if isinstance(made, PredictionError):
                tell(made)
            elif isinstance(made, UserError):
                refuse(point, made)
            else:
                _write(made, _path(point, cache))
            known[point] = made if isinstance(made, Prediction) else None
        prediction = known[point]
        if prediction is not None:
            yield prediction


def _try_to_predict(point: MemoryPoint) -> Prediction | PredictionError | UserError:
    try:
        return predict_memory(point)
    except (PredictionError, UserError) as error:
        return error


def stored_predictions(points: Iterable[MemoryPoint], cache: Path) -> dict[MemoryPoint, Prediction]:
    """The predictions that were made before."""
    found = {point: _read(point, _path(point, cache)) for point in dict.fromkeys(points)}
    return {point: prediction for point, prediction in found.items() if prediction is not None}


def predict_point(point: MemoryPoint, cache: Path) -> Prediction:
    """Predicts one point, or reads its prediction.

    Raises:
        PredictionError: It cannot be predicted.
    """
    return next(predict_points([point], cache))


def preload_batch_size(point: MemoryPoint, cache: Path) -> int | None:
    """How many images a run of a point preloads at once; None where it preloads none.

    A setting whose memory cannot be predicted gets the least that there is: one.
    """
    if not (point.preload and METHODS[point.method].has_extractor):
        return None
    try:
        return predict_point(point, cache).images_at_once
    except PredictionError:
        return 1


def point_of_run(config: RunConfig, num_classes: int, gpu_memory: int | None = None) -> MemoryPoint:
    """The point whose memory a run takes.

    Args:
        config: The run's settings.
        num_classes: Number of classes C.
        gpu_memory: Bytes of a card, within which features are extracted.
    """
    return MemoryPoint(
        method=config.method,
        options=tuple(sorted(config.options.items())),
        backbone=config.backbone,
        resolution=config.resolution,
        batch_size=config.batch_size,
        num_classes=num_classes,
        precision=config.precision,
        attention=config.attention,
        grad_checkpointing=config.grad_checkpointing,
        preload=config.preload,
        loss=config.loss,
        preload_limit=room_on(gpu_memory) if config.preload and gpu_memory is not None else None,
        **config.used_savers,
    )


def key_of(point: MemoryPoint) -> dict[str, Any]:
    """All that a prediction depends on, as JSON gives it back."""
    plugins = digests_of(point.method, point.backbone)
    key = made_by() | {"point": point.as_dict() | {"options": _options(point)}}
    key |= {"plugins": plugins} if plugins else {}
    return dict(json.loads(json.dumps(key)))


def _options(point: MemoryPoint) -> dict[str, Any]:
    return dataclasses.asdict(make_config(point.method, dict(point.options)))


def _path(point: MemoryPoint, cache: Path) -> Path:
    return folder_of(cache) / f"{point.method}-{point.resolution}-{digest(key_of(point))}"


def _read(point: MemoryPoint, path: Path) -> Prediction | None:
    """The stored prediction; None where there is none, or a file that is damaged or of another key."""
    stored = read_prediction(path)
    if stored is None or stored["key"] != key_of(point):
        return None
    return Prediction(point, stored["phases"], stored["feature_bytes"], stored["images_at_once"])


def _write(prediction: Prediction, path: Path) -> None:
    phases = {name: dataclasses.asdict(peak) for name, peak in prediction.phases.items()}
    defaults = dataclasses.asdict(make_config(prediction.point.method, {}))
    changed = {name: value for name, value in _options(prediction.point).items() if value != defaults[name]}
    stored = {
        **{"key": key_of(prediction.point), "changed": changed, "phases": phases},
        **{"feature_bytes": prediction.feature_bytes, "images_at_once": prediction.images_at_once},
    }
    content = json.dumps(stored, indent=1)
    write_disposable(path, (content + "\n").encode())
