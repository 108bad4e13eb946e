"""A kept model measured on corrupted images: all corruptions and severities of a folder in one record."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.errors import UserError
from benchmarks.images.decode import in_order
from benchmarks.inference.corruptions import CLEAN, conditions, corrupted, settings
from benchmarks.inference.evaluate import (
    SPLIT,
    evaluation_id,
    labelled,
    names_key,
    store_evaluation,
    stored_evaluation,
)
from benchmarks.inference.labelled_folder import LabelledFolder
from benchmarks.inference.predict import Views, add_probabilities, read_or_fault
from benchmarks.inference.trained import TrainedModel
from benchmarks.records.schema import Record

CORRUPTED = "corruptions"  # the kind of these evaluations


def split_name(name: str, severity: int) -> str:
    """What predictions under a corruption are called in their file: those of clean images are its test split."""
    return SPLIT if name == CLEAN else f"{name}-{severity}"


def stored_robustness(results: Path, record: Record, data: LabelledFolder) -> Record | None:
    """The record of a run's model under the corruptions there are now; None where there is none."""
    found = stored_evaluation(results, record, evaluation_id(record["run_id"], data, CORRUPTED))
    return found if found is not None and found["evaluation"].get("settings") == settings() else None


def evaluate_corrupted(
    results: Path,
    record: Record,
    model: TrainedModel,
    data: LabelledFolder,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Record:
    """Measures a run's model on a folder's images, clean and under every corruption, and stores that.

    Each image is read once; what a method caches in training is extracted anew from every corrupted one.

    Args:
        results, record, model, data, batch_size, on_progress: As of `evaluate.evaluate`.

    Returns:
        The record, as it is stored. Its test split are the clean images.

    Raises:
        UserError: An image cannot be read.
    """
    size = batch_size or model.batch_size
    logits: dict[tuple[str, int], list[NDArray[np.float64]]] = {condition: [] for condition in conditions()}
    for start in range(0, len(data.names), size):
        names = data.names[start : start + size]
        clean = [_readable(found) for found in in_order(lambda name: read_or_fault(model, data.root / name), names)]
        for condition in logits:
            logits[condition].append(_logits(model, names, clean, condition))
        on_progress(start + len(names), len(data.names))
    parts = []
    for condition, found in logits.items():
        frame = add_probabilities(
            pd.DataFrame(index=range(len(data.names))), model.classes, np.concatenate(found), model.task
        )
        parts.append(labelled(data, frame, split_name(*condition)))
    evaluation = {"kind": CORRUPTED, "data": data.as_json(), "settings": settings()}
    return store_evaluation(
        results, record, evaluation_id(record["run_id"], data, CORRUPTED), evaluation,
        pd.concat(parts, ignore_index=True), model.device, names_key(record, data.root),
    )  # fmt: skip


def _readable(found: Views | str) -> Views:
    if isinstance(found, str):
        raise UserError(f"data must be images that can be read, got one that cannot: {found}; mend or remove it")
    return found


def _logits(
    model: TrainedModel, names: list[str], clean: list[Views], condition: tuple[str, int]
) -> NDArray[np.float64]:
    """Of a batch of images under a corruption `(B, C)`."""
    pairs = zip(names, clean, strict=True)
    changed = list(in_order(lambda pair: corrupted(pair[1], pair[0], *condition), pairs))
    stacked = {view: torch.from_numpy(np.stack([views[view] for views in changed])) for view in model.sides}
    return np.asarray(model(stacked).double().cpu().numpy())
