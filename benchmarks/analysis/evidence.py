"""What stored test predictions say about AUC: read once, then kept for the next table.

Reading them takes milliseconds a run, up to a tenth of a second with many images, and tables are made of thousands of
runs. What it gave is kept, see `kept.Kept`.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.analysis.influence import Floats, Integers, mean_influence, units_of_classes
from benchmarks.analysis.kept import FOLDER, Arrays, Kept, load_kept
from benchmarks.analysis.predictions import Predictions, SplitPredictions, Tested
from benchmarks.errors import UserError
from benchmarks.records.record import predictions_path
from benchmarks.scores import log_odds
from benchmarks.storage.files import read_regular

_LAYOUT = "evidence-7"  # of the kept files
_NUMBERS = ("auc", "design_effect", "num_parts")
_ARRAYS = ("influence", "class_images", "class_units", "confusion")
_TOLERANCE = 1e-6  # between a record's AUC and that of its predictions; they are written in full


class Evidence(NamedTuple):
    """What the test predictions of a run say about its AUC.

    images: digest of the test images with their labels and groups; what agrees in it was tested alike.
    unit: what was drawn, `image` or `group`.
    auc: on the whole test split.
    influence: of each unit on it `(U,)`, see `influence.influence`.
    design_effect: how many times larger the variance of the AUC is than if every image were a unit.
    class_images, class_units: images of each class, and units that have one `(C,)`. Of findings, for each that can be
        scored, those without it and those with it.
    classes: their names, in the order of the columns of predictions; empty where nothing is known of classes. Of
        findings those that can be scored.
    confusion: images by true and by called class `(C, C)`, the class of the highest logit or, without, probability,
        unless predictions say another. Of findings one of each `(F, 2, 2)`.
    num_parts: findings whose AUCs are averaged; of classes one.
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
    num_parts: int = 1

    @property
    def num_images(self) -> int:
        """Images that were tested; of findings those of the one that is known of most."""
        return int(self.class_images.reshape(self.num_parts, -1).sum(axis=1).max())


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
    finished = frame[(frame["state"] == "ok") & frame["auc"].notna()]
    recorded = dict(zip(finished["run_id"], finished["auc"], strict=True))

    def unpack(run_id: str, arrays: Arrays) -> Evidence:
        found, auc = _unpack(arrays), recorded[run_id]
        if abs(found.auc - auc) > _TOLERANCE:
            raise UserError(f"they give an AUC of {found.auc:.6f}, the record says {auc:.6f}")
        return found

    return load_kept(Kept((keep or results) / FOLDER, _LAYOUT, _made), results, finished, unpack)


def read_evidence(data: bytes) -> Evidence:
    """Evidence from the content of a file of predictions.

    Args:
        data: As `Predictions` takes it. Images are ranked by logits, where there are any.

    Raises:
        UserError: it is not such a file, its test split lacks a class, or no finding of it can be scored.
    """
    predictions = Predictions(data)
    test = predictions.split("test")
    return evidence_of(test, [ranked_by(part, predictions.are_logits) for part in test.parts])


class FindingEvidence(NamedTuple):
    """What the test predictions of a run say about each finding alone, as if it were a dataset of two classes.

    scored: the evidence by finding. unscored: findings that too few images have, or do not have.
    """

    scored: dict[str, Evidence]
    unscored: tuple[str, ...]


def finding_evidence(data: bytes) -> FindingEvidence:
    """The evidence of each finding; of classes there are no findings.

    Args:
        data: As of `read_evidence`.
    """
    predictions = Predictions(data)
    if not predictions.has_findings:
        return FindingEvidence({}, ())
    test = predictions.split("test")
    scored = {}
    for name, part in zip(test.names, test.parts, strict=True):
        alone = test._replace(parts=(part,), names=(name,))
        scored[name] = evidence_of(alone, [ranked_by(part, predictions.are_logits)])
    return FindingEvidence(scored, tuple(name for name in predictions.classes if name not in scored))


def joined(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of the mean AUC of several findings of one test split, each as `finding_evidence` gives it."""
    together = np.zeros(max(len(part.influence) for part in parts))
    for part in parts:
        together[: len(part.influence)] += part.influence / len(parts)
    return parts[0]._replace(
        auc=float(np.mean([part.auc for part in parts])),
        influence=together,
        design_effect=float(np.mean([part.design_effect for part in parts])),
        class_images=np.concatenate([part.class_images for part in parts]),
        class_units=np.concatenate([part.class_units for part in parts]),
        classes=tuple(name for part in parts for name in part.classes),
        confusion=np.concatenate([part.confusion for part in parts]),
        num_parts=len(parts),
    )


def load_finding_evidence(results: Path, run_ids: Iterable[str]) -> dict[str, FindingEvidence]:
    """The evidence of each finding of runs, or evaluations, by id; without those whose files cannot be read.

    Which ones, `load_evidence` says.
    """
    found = {}
    for run_id in run_ids:
        with contextlib.suppress(FileNotFoundError, ValueError):
            found[run_id] = finding_evidence(read_regular(predictions_path(results, run_id)))
    return found


def ranked_by(part: SplitPredictions, are_logits: bool) -> Floats:
    """By what the images of a part are ranked for each class `(n, C)`."""
    return log_odds(part.values) if are_logits else part.values


def evidence_of(test: Tested, scores: Sequence[Floats], answers: Sequence[Integers] | None = None) -> Evidence:
    """Evidence of what a model, or several, say of a test split.

    Args:
        test: The split, of whose parts no values are read.
        scores: By which images are ranked, of each part `(n, C)`.
        answers: The class that each image is called, of each part `(n,)`; None for what the parts say.
    """
    parts = test.parts
    found = mean_influence([(part.labels, score, part.units) for part, score in zip(parts, scores, strict=True)])
    called = [part.called for part in parts] if answers is None else answers
    counts = [np.bincount(part.labels, minlength=2) for part in parts]
    confusion = [_confusion(part.labels, own, len(n)) for part, own, n in zip(parts, called, counts, strict=True)]
    return Evidence(
        images=test.images,
        unit=test.unit,
        auc=found.auc,
        influence=found.units,
        design_effect=found.design_effect,
        class_images=np.concatenate(counts),
        class_units=np.concatenate([units_of_classes(part.labels, part.units) for part in parts]),
        classes=test.names,
        confusion=confusion[0] if parts[0].finding is None else np.stack(confusion),
        num_parts=len(parts),
    )


def _confusion(labels: Integers, called: Integers, num_classes: int) -> Integers:
    """How often images of each class `(C, C)`, a row each, are called each class, a column each."""
    return np.bincount(labels * num_classes + called, minlength=num_classes**2).reshape(num_classes, num_classes)


def _made(data: bytes) -> Arrays:
    """Evidence as arrays, text as its bytes."""
    evidence = read_evidence(data)
    texts = {name: getattr(evidence, name) for name in ("images", "unit")} | {"classes": json.dumps(evidence.classes)}
    letters = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
    numbers: dict[str, NDArray[Any]] = {name: np.array([getattr(evidence, name)]) for name in _NUMBERS}
    arrays = {name: getattr(evidence, name) for name in _ARRAYS}
    return letters | numbers | arrays


def _unpack(stored: Arrays) -> Evidence:
    images, unit, classes = (bytes(stored[name]).decode() for name in ("images", "unit", "classes"))
    auc, effect, num_parts = (stored[name][0] for name in _NUMBERS)
    arrays: dict[str, Any] = {name: stored[name] for name in _ARRAYS}
    numbers: dict[str, Any] = {"design_effect": float(effect), "num_parts": int(num_parts)}
    return Evidence(images, unit, float(auc), classes=tuple(json.loads(classes)), **numbers, **arrays)
