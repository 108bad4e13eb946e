"""A kept model measured on other images than those of its dataset, as a record of its own beside those of runs."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.config import RunConfig, identity
from benchmarks.environment import describe_code, describe_environment
from benchmarks.errors import UserError
from benchmarks.inference.labelled_folder import LabelledFolder
from benchmarks.inference.predict import predict
from benchmarks.inference.stored_models import read_with_model
from benchmarks.inference.trained import TrainedModel
from benchmarks.names import shortened
from benchmarks.records.hashed_names import hash_names
from benchmarks.records.record import kept_models, read_record, remove_partial, store_run
from benchmarks.records.schema import SCHEMA, Record
from benchmarks.records.stored import evaluation_results
from benchmarks.storage.locks import held_lock
from benchmarks.storage.name_key import key_id, make_key, read_key
from benchmarks.storage.notes import say
from benchmarks.tasks import task_of
from benchmarks.training.metrics import metrics_of

DATA = "data"  # the kind of an evaluation on another folder
SPLIT = "test"  # what predictions of an evaluation are called in their file
_OF_RUN = ("config", "method", "dataset", "input", "backbone", "weights", "code", "tuning")  # what both records say


def same_but_for_the_seed(results: Path, record: Record) -> list[Record]:
    """The runs with a kept model that differ from a run in their seed alone, itself among them, by seed."""
    beginning = record["run_id"].rpartition("-s")[0]
    found = [read_with_model(results, run_id) for run_id in kept_models(results, beginning)]
    alike = [
        other for other in found if other is not None and settings_but_the_seed(other) == settings_but_the_seed(record)
    ]
    return sorted(alike, key=lambda other: int(other["run"]["config"]["seed"]))


def settings_but_the_seed(record: Record) -> dict[str, Any]:
    """All that makes a run but its seed; of a tuned one the grid, as the rate is a result."""
    config = identity(record["run"]["config"], RunConfig)
    left_out = {"seed", "lr"} if config.get("lr_grid") else {"seed"}
    return {name: value for name, value in config.items() if name not in left_out}


def evaluation_id(run_id: str, data: LabelledFolder, kind: str = "") -> str:
    """The name of the record of an evaluation: the run's and the data's, which their digest tells apart, and a kind."""
    name = f"{run_id}@{shortened(re.sub(r'[^A-Za-z0-9_-]', '_', data.name))[:40]}-{data.digest[:10]}"
    return f"{name}-{kind}" if kind else name


def stored_evaluation(results: Path, record: Record, name: str) -> Record | None:
    """The record of an evaluation; None where there is none of the model that the run has now, or it is damaged."""
    try:
        found = read_record(evaluation_results(results) / "runs" / f"{name}.json")
    except UserError:
        return None
    return found if found["evaluation"]["model_sha256"] == record["model_sha256"] else None


def evaluate(
    results: Path,
    record: Record,
    model: TrainedModel,
    data: LabelledFolder,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Record:
    """Measures a run's model on the images of another folder, and stores that.

    Names of images and groups are hashed where those of the run are, with a key that is kept in the folder.

    Args:
        results: The results root.
        record: Of the run.
        model: Its model.
        data: The images.
        batch_size: Images at a time; None for as many as in the run.
        on_progress: Called with (images done, images in all) now and then.

    Returns:
        The record, as it is stored.

    Raises:
        UserError: An image cannot be read.
    """
    frame, problems = predict(model, [data.root / name for name in data.names], batch_size, on_progress)
    if problems:
        raise UserError(
            f"data must be images that can be read, got {len(problems)} that cannot: {problems[0]}; mend or remove them"
        )
    predictions = labelled(data, frame.drop(columns="path"))
    evaluation = {"kind": DATA, "data": data.as_json()}
    return store_evaluation(
        results, record, evaluation_id(record["run_id"], data), evaluation, predictions, model.device,
        names_key(record, data.root),
    )  # fmt: skip


def labelled(data: LabelledFolder, frame: pd.DataFrame, split: str = SPLIT) -> pd.DataFrame:
    """Probabilities and logits of all images of a folder, in their order, as `store_evaluation` takes them."""
    about = {"split": split, "path": data.names, **data.labels}
    groups = {} if data.groups is None else {"group": data.groups}
    return pd.concat([pd.DataFrame(about | groups), frame], axis=1)


def names_key(record: Record, root: Path) -> bytes | None:
    """With which names of a folder are hashed, kept there, where those of the run are; else None."""
    if not record["run"].get("names_key"):
        return None
    make_key(root)
    return read_key(root)


def store_evaluation(
    results: Path,
    record: Record,
    name: str,
    evaluation: dict[str, Any],
    predictions: pd.DataFrame,
    device: torch.device,
    key: bytes | None = None,
    measured: Mapping[str, Any] = MappingProxyType({}),
) -> Record:
    """Scores and stores an evaluation, of whatever kind.

    Args:
        results: The results root.
        record: Of the run whose model it is.
        name: Of the new record.
        evaluation: Its `kind` and `data`, as `records.schema.Evaluation` has them, and what else its kind needs.
        predictions: As `store_run` takes them, with logits; the split called `SPLIT` is scored.
        device: Where they were made.
        key: With which names are to be hashed; None to leave them.
        measured: What else was measured.
    """
    run = {part: record["run"].get(part) for part in _OF_RUN}
    run["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    classes, ordered = run["dataset"]["classes"], bool(run["dataset"].get("ordered"))
    tested = predictions[predictions["split"] == SPLIT]
    task = task_of(run["config"])
    if task.has_findings:
        labels = tested[[f"target_{name}" for name in classes]].to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        labels = np.array([classes.index(label) for label in tested["label"]])
    logits = tested[[f"logit_{label}" for label in classes]].to_numpy()
    if key is not None:
        run["names_key"], predictions = key_id(key), hash_names(predictions, key)
    whose = {"run_id": record["run_id"], "run_predictions_sha256": record.get("predictions_sha256")}
    found: Record = {
        "schema": SCHEMA,
        "run_id": name,
        "status": {"state": "ok", "message": None, "phase": None},
        "run": run,
        "measurements": {"test": metrics_of(labels, logits, classes, ordered, task)} | dict(measured),
        "environment": describe_environment(device),
        "evaluation": whose | {"model_sha256": record["model_sha256"], "code": describe_code()} | evaluation,
    }
    root = evaluation_results(results)

    def wait() -> None:
        say(f"another process stores {name}: waiting for it")

    with held_lock(root / "runs" / f".{name}.lease", wait):
        remove_partial(root, name)
        store_run(root, found, predictions)
    return found
