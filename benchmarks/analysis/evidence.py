"""What stored test predictions say about AUC: read once, then kept for the next table.

Reading them takes milliseconds a run, up to a tenth of a second with many images, and tables are made of thousands of
runs. What it gave is kept, see `kept.Kept`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.analysis.influence import Floats, Integers, influence, units_of_classes
from benchmarks.analysis.kept import FOLDER, Arrays, Kept, not_theirs
from benchmarks.analysis.predictions import Predictions, SplitPredictions
from benchmarks.errors import UserError
from benchmarks.records.record import predictions_path
from benchmarks.scores import log_odds

_LAYOUT = "evidence-6"  # of the kept files
_ARRAYS = ("influence", "class_images", "class_units", "confusion")
_TOLERANCE = 1e-6  # between a record's AUC and that of its predictions; they are written in full


class Evidence(NamedTuple):
    """What the test predictions of a run say about its AUC.

    images: digest of the test images with their labels and groups; what agrees in it was tested alike.
    unit: what was drawn, `image` or `group`.
    auc: on the whole test split.
    influence: of each unit on it `(U,)`, see `influence.influence`.
    design_effect: how many times larger the variance of the AUC is than if every image were a unit.
    class_images, class_units: images of each class, and units that have one `(C,)`.
    classes: their names, in the order of the columns of predictions; empty where nothing is known of classes.
    confusion: images by true and by called class `(C, C)`, the class of the highest logit or, without, probability.
    """

    images: str
    unit: str
    auc: float
    influence: Floats
    design_effect: float
    class_images: Integers
    class_units: Integers
    classes: tuple[str, ...] = ()
    confusion: Integers = np.zeros((0, 0), dtype=np.int64)


def same_evidence(first: Evidence, second: Evidence) -> bool:
    """Whether two runs rank the same images the same way."""
    alike = first.images == second.images and first.auc == second.auc
    return alike and np.array_equal(first.influence, second.influence)


def load_evidence(
    results: Path, frame: pd.DataFrame, keep: Path | None = None
) -> tuple[dict[str, Evidence], list[str]]:
    """The evidence of every finished run that has predictions.

    Args:
        results: the results root.
        frame: its runs, as `records.runs_frame` gives them.
        keep: the results root under which to keep what was read, `results` by default.

    Returns:
        The evidence by run id, and one line for each file that is damaged or belies its record. The caller shows
        these lines and exits non-zero.
    """
    evidence, problems = {}, []
    finished = frame.loc[(frame["state"] == "ok") & frame["auc"].notna(), ["run_id", "auc", "predictions_sha256"]]
    with Kept((keep or results) / FOLDER, _LAYOUT, _made) as kept:
        for run_id, auc, digest in finished.to_numpy():
            path = predictions_path(results, run_id)
            try:
                found = _unpack(kept.of(path, None if pd.isna(digest) else digest))
                if abs(found.auc - auc) > _TOLERANCE:
                    raise UserError(f"they give an AUC of {found.auc:.6f}, the record says {auc:.6f}")
            except FileNotFoundError:
                continue
            except ValueError as error:
                problems.append(not_theirs(path, error))
            else:
                evidence[run_id] = found
    return evidence, problems


def read_evidence(data: bytes) -> Evidence:
    """Evidence from the content of a file of predictions.

    Args:
        data: csv with the columns split, path, label, prob_<class> and, optionally, logit_<class>, by which images are
            ranked where there are any, and group; images that share a group are a unit, those without one alone.

    Raises:
        UserError: it is not such a file, or its test split lacks a class.
    """
    predictions = Predictions(data)
    test, classes = predictions.split("test"), predictions.classes
    scores = log_odds(test.values) if predictions.are_logits else test.values
    return evidence_of(predictions.digest(test), classes, test, scores, test.values.argmax(axis=1))


def evidence_of(
    images: str, classes: Sequence[str], test: SplitPredictions, scores: Floats, answers: Integers
) -> Evidence:
    """Evidence of what a model, or several, say of a test split.

    Args:
        images: See `Evidence`.
        classes: Names of the classes.
        test: The split, whose values are not read.
        scores: By which images are ranked `(n, C)`.
        answers: The class that each image is called `(n,)`.
    """
    found = influence(test.labels, scores, test.units)
    return Evidence(
        images=images,
        unit=test.unit,
        auc=found.auc,
        influence=found.units,
        design_effect=found.design_effect,
        class_images=np.bincount(test.labels),
        class_units=units_of_classes(test.labels, test.units),
        classes=tuple(classes),
        confusion=_confusion(test.labels, answers, len(classes)),
    )


def _confusion(labels: Integers, called: Integers, num_classes: int) -> Integers:
    """How often images of each class `(C, C)`, a row each, are called each class, a column each."""
    return np.bincount(labels * num_classes + called, minlength=num_classes**2).reshape(num_classes, num_classes)


def _made(data: bytes) -> Arrays:
    """Evidence as arrays, text as its bytes."""
    evidence = read_evidence(data)
    texts = {name: getattr(evidence, name) for name in ("images", "unit")} | {"classes": json.dumps(evidence.classes)}
    letters = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
    numbers: dict[str, NDArray[Any]] = {name: np.array([getattr(evidence, name)]) for name in ("auc", "design_effect")}
    arrays = {name: getattr(evidence, name) for name in _ARRAYS}
    return letters | numbers | arrays


def _unpack(stored: Arrays) -> Evidence:
    images, unit, classes = (bytes(stored[name]).decode() for name in ("images", "unit", "classes"))
    auc, effect = (float(stored[name][0]) for name in ("auc", "design_effect"))
    arrays = {name: stored[name] for name in _ARRAYS}
    return Evidence(images, unit, auc, design_effect=effect, classes=tuple(json.loads(classes)), **arrays)
