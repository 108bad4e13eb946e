"""What stored test predictions say about AUC: read once, then kept for the next table.

Reading them takes milliseconds a run, up to a tenth of a second with many images, and tables are made of thousands of
runs. What it gave is kept in `<results>/.statistics`, one file for each file of predictions, named by its content; the
folder may be deleted.
"""

import csv
import hashlib
import io
import json
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from safetensors.numpy import load, save

from benchmarks.analysis.influence import Floats, Integers, influence, units_of_classes
from benchmarks.errors import UserError
from benchmarks.records.record import predictions_path
from benchmarks.scores import log_odds
from benchmarks.storage.csv_cells import from_text
from benchmarks.storage.files import read_disposable, read_regular, write_disposable

_LAYOUT = 5  # of the kept files
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
    for run_id, auc, digest in finished.to_numpy():
        path = predictions_path(results, run_id)
        try:
            found = _kept(path, None if pd.isna(digest) else digest, (keep or results) / ".statistics")
            if abs(found.auc - auc) > _TOLERANCE:
                raise UserError(f"they give an AUC of {found.auc:.6f}, the record says {auc:.6f}")
        except FileNotFoundError:
            continue
        except ValueError as error:
            reason = " ".join(str(error).split())
            problems.append(f"predictions must be those of their record, got {str(path)!r} ({reason}): run it again")
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
    header, rows = _read_csv(data)
    absent = [name for name in ("split", "path", "label") if name not in header]
    if absent:
        raise UserError(f"columns must be split, path, label, prob_<class>, got none called {absent[0]}")
    place = {name: header.index(name) for name in header}
    test = sorted((row for row in rows if row[place["split"]] == "test"), key=itemgetter(place["path"]))
    paths, names = ([row[place[column]] for row in test] for column in ("path", "label"))
    classes = [name.removeprefix("prob_") for name in header if name.startswith("prob_")]
    if sorted(classes) != sorted(set(names)) or len(classes) < 2:
        raise UserError("the labels of the test split must be the classes that have a prob_<class>, got others")
    kind = "logit" if all(f"logit_{name}" in place for name in classes) else "prob"
    values = np.array([[float(row[place[f"{kind}_{name}"]]) for name in classes] for row in test])
    if not np.isfinite(values).all():
        raise UserError("predictions must be finite, got others")
    scores = log_odds(values) if kind == "logit" else values
    labels = np.array([classes.index(name) for name in names], dtype=np.int64)
    groups = [row[place["group"]] if "group" in place else "" for row in test]
    number: dict[str | int, int] = {}
    units = np.array([number.setdefault(group or i, len(number)) for i, group in enumerate(groups)], dtype=np.int64)
    found = influence(labels, scores, units)
    return Evidence(
        images=hashlib.sha256(json.dumps([paths, names, classes, units.tolist()]).encode()).hexdigest(),
        unit="image" if len(number) == len(test) else "group",
        auc=found.auc,
        influence=found.units,
        design_effect=found.design_effect,
        class_images=np.bincount(labels),
        class_units=units_of_classes(labels, units),
        classes=tuple(classes),
        confusion=_confusion(labels, values.argmax(axis=1), len(classes)),
    )


def _confusion(labels: Integers, called: Integers, num_classes: int) -> Integers:
    """How often images of each class `(C, C)`, a row each, are called each class, a column each."""
    return np.bincount(labels * num_classes + called, minlength=num_classes**2).reshape(num_classes, num_classes)


def _read_csv(data: bytes) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a csv file; pandas takes several times longer for so few."""
    try:
        lines = [list(map(from_text, row)) for row in csv.reader(io.StringIO(data.decode(), newline="")) if row]
    except csv.Error as error:
        raise UserError(str(error)) from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if any(len(row) != len(header) for row in rows):
        raise UserError("rows must have a value for each column, got others")
    return header, rows


def _kept(predictions: Path, digest: str | None, folder: Path) -> Evidence:
    """The evidence of a file of predictions, from the folder where it was kept before.

    Args:
        predictions: The file.
        digest: Hex SHA-256 of its content, where that was found when its record was read.
        folder: Where evidence is kept.
    """
    digest = digest or _sha256(read_regular(predictions))
    path = folder / f"{digest[:32]}-{_LAYOUT}"
    stored = read_disposable(path)
    if stored is not None:
        return _unpack(stored)
    data = read_regular(predictions)
    if _sha256(data) != digest:
        raise UserError("they have changed since their record was read")
    evidence = read_evidence(data)
    write_disposable(path, _pack(evidence), "results")
    return evidence


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pack(evidence: Evidence) -> bytes:
    """As tensors, which are read in no time, text as its bytes."""
    texts = {name: getattr(evidence, name) for name in ("images", "unit")} | {"classes": json.dumps(evidence.classes)}
    letters = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
    numbers = {name: np.array([getattr(evidence, name)]) for name in ("auc", "design_effect")}
    arrays = {name: getattr(evidence, name) for name in _ARRAYS}
    return bytes(save(letters | numbers | arrays))


def _unpack(data: bytes) -> Evidence:
    kept = load(data)
    images, unit, classes = (bytes(kept[name]).decode() for name in ("images", "unit", "classes"))
    auc, effect = (float(kept[name][0]) for name in ("auc", "design_effect"))
    arrays = {name: kept[name] for name in _ARRAYS}
    return Evidence(images, unit, auc, design_effect=effect, classes=tuple(json.loads(classes)), **arrays)
