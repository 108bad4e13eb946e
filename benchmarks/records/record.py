"""The stored records of runs: written whole or not at all, checked when read, flattened for tables and plots."""

import contextlib
import functools
import json
import math
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.choices import COUNTERS, PHASES
from benchmarks.config import RunConfig, identity

Record = dict[str, Any]

SCHEMA = 1
STATES = ("ok", "oom", "diverged", "failed", "interrupted")
PROBE_BYTES = 2**16  # what a record and its predictions take, some thousand images aside

# What makes one table block: rows are only ever compared within one protocol.
PROTOCOL = (
    "backbone",
    "weights_source",
    "weights_sha256",
    "device",
    "precision",
    "attention",
    "batch_size",
    "epochs",
    "grad_checkpointing",
)
# Keys of run.config that say which cell or protocol a run belongs to; whatever else differs makes another variant.
_PLACE = (
    *("method", "dataset", "dataset_digest", "resolution", "seed", "device", "device_type"),
    *("precision", "attention", "batch_size", "epochs", "grad_checkpointing"),
)


class Column(NamedTuple):
    """Where a flat column lies in a record, and what it must be there (null is allowed unless required)."""

    path: str
    kind: type
    required: bool = False
    low: float = 0
    high: float | None = None  # else the highest that a table can hold


_ONE = 1 + 1e-9  # scores are means, which round
COLUMNS: dict[str, Column] = {
    "run_id": Column("run_id", str, required=True),
    "state": Column("status.state", str, required=True),
    "message": Column("status.message", str),
    "phase": Column("status.phase", str),
    "method": Column("run.config.method", str, required=True),
    "method_title": Column("run.method.title", str),
    "dataset": Column("run.config.dataset", str, required=True),
    "dataset_title": Column("run.dataset.title", str),
    "dataset_digest": Column("run.config.dataset_digest", str),
    "synthetic": Column("run.dataset.synthetic", bool),
    "split_kind": Column("run.dataset.split.kind", str),
    "split_group_key": Column("run.dataset.split.group_key", str),
    "split_digest": Column("run.dataset.split.digest", str),
    "resolution": Column("run.config.resolution", int, required=True, low=1),
    "effective_resolution": Column("run.input.effective_resolution", int, low=1),
    "seed": Column("run.config.seed", int, required=True, low=-(2**63)),
    "backbone": Column("run.weights.backbone", str),
    "backbone_requested": Column("run.weights.backbone_requested", str),
    "fallback": Column("run.weights.fallback", bool),
    "weights_source": Column("run.weights.source", str),
    "weights_sha256": Column("run.weights.sha256", str),
    "weights_note": Column("run.weights.note", str),
    "device": Column("environment.device", str),
    "device_type": Column("environment.device_type", str),
    "torch": Column("environment.torch", str),
    "commit": Column("run.code.commit", str),
    "dirty": Column("run.code.dirty", bool),
    "started": Column("run.started", str),
    "precision": Column("run.config.precision", str),
    "attention": Column("run.config.attention", str),
    "batch_size": Column("run.config.batch_size", int, required=True, low=1),
    "epochs": Column("run.config.epochs", int, required=True, low=1),
    "grad_checkpointing": Column("run.config.grad_checkpointing", bool),
    "preload": Column("run.config.preload", bool),
    "lr": Column("run.config.lr", float, required=True),
    "weight_decay": Column("run.config.weight_decay", float),
    "tuned_lr": Column("run.tuning.chosen", float),
    "tuned_trials": Column("run.tuning.num_trials", int),
    "tuned_at_edge": Column("run.tuning.at_edge", bool),
    "best_epoch": Column("run.selection.best_epoch", int),
    **{
        name: Column(f"measurements.parameters.{name}", int)
        for name in ("trainable_total", "trainable_head", "trainable", "frozen")
    },
    "percent": Column("measurements.parameters.percent", float, high=100 * _ONE),
    "val_auc": Column("measurements.val.auc", float, high=_ONE),
    **{
        name: Column(f"measurements.test.{name}", float, high=_ONE)
        for name in ("auc", "accuracy", "balanced_accuracy", "macro_f1")
    },
    "kappa": Column("measurements.test.kappa", float, low=-_ONE, high=_ONE),
    "loss": Column("measurements.test.loss", float),
    **{
        f"{source}_{phase}_{counter}": Column(f"measurements.{section}.phases.{phase}.{counter}", int)
        for source, section in (("measured", "memory"), ("predicted", "predicted_memory"))
        for phase in PHASES
        for counter in COUNTERS
    },
    "host_peak_bytes": Column("measurements.host_peak_bytes", int),
    "cache_bytes": Column("measurements.cache_bytes", int),
    "preload_seconds": Column("measurements.preload.seconds", float),
    **{
        f"seconds_{part}": Column(f"measurements.seconds.{part}", float)
        for part in ("total", "import", "setup", "images", "preload", "train", "validate", "test", "predict")
    },
    "seconds_other": Column("measurements.seconds.other", float, low=-1),  # a difference
    **{
        f"images_per_second_{part}": Column(f"measurements.images_per_second.{part}", float)
        for part in ("train", "eval", "preload")
    },
}
# What is read beside the columns: objects with what each has to hold, and lists and objects of numbers.
_OBJECTS = {
    "run.tuning": (
        Column("chosen", float, required=True),
        Column("num_trials", int, required=True),
        Column("at_edge", bool, required=True),
    ),
    "run.selection": (),
    "run.method.config": (),
    "measurements.val": (Column("auc", float),),
    "measurements.preload": (Column("cache", str, required=True),),
    "run.dataset.split": tuple(Column(name, str, required=True) for name in ("kind", "group_key", "digest")),
}
_MEMBERS = (
    Column("run.config.lr_grid", float, required=True),
    Column("run.dataset.counts.test", int, required=True),
)
_EPOCH = (Column("epoch", int, required=True), Column("val_auc", float), Column("loss", float))
_DTYPES = {int: "Int64", float: "float64", bool: "boolean", str: "object"}


def check_writable(results: Path) -> None:
    """Raise RuntimeError, in one line, when records cannot be stored under `results`: read-only, or full."""
    probe = results / "runs" / f".probe.{platform.node()}-{os.getpid()}.tmp"
    write_atomic(probe, bytes(PROBE_BYTES))
    probe.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes, place: str = "results", sync: bool = True) -> Path:
    """Write a file so that a reader, or the next start after a crash, sees all of it or nothing.

    Args:
        path: the file.
        data: its content.
        place: the option that says where it lies, `results` or `cache`.
        sync: whether that holds for a crash of the machine too. It takes milliseconds, on a busy disk more: leave it
            out for what is checked when it is read and can be made again.

    Raises:
        RuntimeError: the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if sync:
            _sync_folder(path.parent)  # the rename itself is durable only then
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise not_writable(path.parent, error, place) from error
    return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_writable(folder: Path, error: OSError, place: str = "results") -> RuntimeError:
    """The error of a folder that is read-only, full or gone."""
    return RuntimeError(
        f"{place} must be a folder that can be written, got {str(folder)!r} ({error.strerror}): "
        f"free it or choose another with --{place}"
    )


def remove_partial(results: Path, run_id: str) -> None:
    """Remove what a killed process has left of a run's half-written files; the caller holds the run's lock."""
    for path in (results / "runs").glob(f".{run_id}.*.tmp"):
        path.unlink(missing_ok=True)


def write_predictions(results: Path, run_id: str, predictions: pd.DataFrame) -> Path:
    """Store the per-image predictions of a run. Call it before `write_record`: a record vouches for its predictions.

    Args:
        results: the results root.
        run_id: the run they belong to.
        predictions: one row an image with the columns split, path, label, prob_<class> for each class and, where
            images belong to patients, group.
    """
    path = _stored(results, run_id, ".predictions.csv")
    return write_atomic(path, predictions.to_csv(index=False, lineterminator="\n").encode())


def write_record(results: Path, record: Record) -> Path:
    """Store a record as `results/runs/<run_id>.json`; numbers that are not finite become null, as JSON has no others.

    Raises:
        ValueError: the record does not follow the schema.
        RuntimeError: the results folder cannot be written.
    """
    plain = _plain(record)
    _check(plain)
    path = _stored(results, plain["run_id"], ".json")
    return write_atomic(path, (json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        FileNotFoundError: there is no such record.
        ValueError: the file is damaged, or not a record of this schema.
    """
    if not path.exists():
        raise FileNotFoundError(f"record must exist, got {str(path)!r}: `bench.py list runs` names those there are")
    try:
        record = parse_json(path.read_bytes())
        _check(record)
        if _stored(path.parent.parent, record["run_id"], ".json").name != path.name:
            raise ValueError(f"run_id must be the name of its file, got {record['run_id']!r}")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"record must be readable, got {str(path)!r} ({reason}): delete it and run again") from error
    return dict(record)


def parse_json(data: bytes) -> Any:
    """Content of a JSON file as this program writes them: every number finite, every string text.

    Raises:
        ValueError: It is not.
    """
    try:
        content = json.loads(data)
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return content


def load_records(results: Path) -> tuple[list[Record], list[str]]:
    """Read every record under `results/runs`, sorted by run id.

    Returns:
        The readable records, and one line for each file that is not one. The caller shows these lines and exits
        non-zero: a damaged file is never counted and never passed over in silence.
    """
    problems: list[str] = []
    return list(each_record(results, problems)), problems


def load_frame(results: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read every record under `results/runs` as a row, as `load_records` and `runs_frame` do one after the other."""
    problems: list[str] = []
    return runs_frame(each_record(results, problems)), problems


def each_record(results: Path, problems: list[str]) -> Iterator[Record]:
    """The records of `load_records` one by one, as ten thousand at once take a gigabyte; adds to the problems."""
    for path in sorted((results / "runs").glob("[!.]*.json")):
        try:
            yield read_record(path)
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))


def runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a run, one flat column for each entry of `COLUMNS`, and `variant`.

    Identity: run_id, state, message, phase, method, method_title, dataset, dataset_title, dataset_digest, synthetic,
    split_kind (official, ours, user), split_group_key, split_digest, resolution (asked), effective_resolution (run),
    seed. Protocol: backbone (used), backbone_requested, fallback,
    weights_source, weights_sha256, weights_note, device, device_type, precision, attention, batch_size, epochs,
    grad_checkpointing; then preload, lr, weight_decay,
    tuned_lr, tuned_trials, tuned_at_edge (of a chosen rate), best_epoch, torch, commit, dirty, started.
    Parameters: trainable_total, trainable_head, trainable (without head), frozen, percent (0-100).
    Scores (0-1, on the test split unless named val_): val_auc, auc, accuracy, balanced_accuracy, macro_f1, kappa, loss.
    Memory in bytes: {measured,predicted}_{setup,preload,train,eval}_peak_{allocated,reserved,process}_bytes,
    host_peak_bytes, cache_bytes. Time: seconds_{total,...}, images_per_second_{train,eval,preload};
    preload_seconds is what computing the features took when it was done, seconds_preload what this run waited for.
    The test split: majority_share (0-1, of its largest class), num_classes.
    variant: JSON of every setting that is neither place, seed nor protocol; runs that differ in it are never averaged.
    Missing values are missing (NA), whatever the reason.
    """
    rows = [
        {name: _lookup(record, column.path) for name, column in COLUMNS.items()}
        | {"variant": _variant(record)}
        | _test_classes(record)
        for record in records
    ]
    dtypes = {name: _DTYPES[column.kind] for name, column in COLUMNS.items()}
    dtypes |= {"variant": "object", "majority_share": "float64", "num_classes": "Int64"}
    return pd.DataFrame(rows, columns=list(dtypes), dtype="object").astype(dtypes)


def _variant(record: Record) -> str:
    config = identity(record["run"]["config"], RunConfig)
    # What is not among the options is at its default, which tells no variant from another.
    known = (config.get("options"), _lookup(record, "run.method.config"))
    settings: dict[str, Any] = next((options for options in known if isinstance(options, dict)), {})
    settings = settings | {name: value for name, value in config.items() if name not in _PLACE}
    if config.get("lr_grid"):
        del settings["lr"]  # of a tuned run the grid is the setting, and the rate that it led to is a result
    return json.dumps(settings, sort_keys=True)


def _test_classes(record: Record) -> dict[str, Any]:
    counts = _lookup(record, "run.dataset.counts.test")
    if not isinstance(counts, dict) or not counts or not sum(counts.values()):
        return {"majority_share": None, "num_classes": None}
    return {"majority_share": max(counts.values()) / sum(counts.values()), "num_classes": len(counts)}


def _stored(results: Path, run_id: str, suffix: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_+=,@-][A-Za-z0-9._+=,@-]*", run_id):
        raise ValueError(f"run_id must be letters, digits and any of '._+=,@-', got {run_id!r}")
    return results / "runs" / f"{run_id}{suffix}"


@functools.cache
def _keys(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def _lookup(record: Any, path: str) -> Any:
    for key in _keys(path):
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


def _check(record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"record must be a JSON object, got {type(record).__name__}")
    if record.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, got {record.get('schema')!r}")
    for section in ("status", "run", "measurements", "environment"):
        if not isinstance(record.get(section), dict):
            raise ValueError(f"{section} must be an object, got {record.get(section)!r}")
    for column in COLUMNS.values():
        _check_value(_lookup(record, column.path), column)
    if record["status"]["state"] not in STATES:
        raise ValueError(f"status.state must be one of {', '.join(STATES)}, got {record['status']['state']!r}")
    for path, columns in _OBJECTS.items():
        if (found := _lookup(record, path)) is not None:
            _check_object(found, path, columns)
    for column in _MEMBERS:
        members = _lookup(record, column.path)
        if not isinstance(members, list | dict | None):
            raise ValueError(f"{column.path} must hold {column.kind.__name__}, got {members!r}")
        for value in members.values() if isinstance(members, dict) else members or ():
            _check_value(value, column)
    history = _lookup(record, "measurements.history")
    if not isinstance(history, list | None):
        raise ValueError(f"measurements.history must be a list, got {history!r}")
    for epoch in history or ():
        _check_object(epoch, "measurements.history", _EPOCH)


def _check_object(found: Any, path: str, columns: Sequence[Column]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be an object, got {found!r}")
    for column in columns:
        _check_value(found.get(column.path), column._replace(path=f"{path}.{column.path}"))


def _check_value(value: Any, column: Column) -> None:
    if value is None and not column.required:
        return
    number = column.kind is float and isinstance(value, int)
    if not (isinstance(value, column.kind) or number) or (isinstance(value, bool) and column.kind is not bool):
        raise ValueError(f"{column.path} must be {column.kind.__name__}, got {value!r}")
    if column.kind in (int, float):
        high = (2**63 - 1 if isinstance(value, int) else sys.float_info.max) if column.high is None else column.high
        if not column.low <= value <= high:
            raise ValueError(f"{column.path} must be from {column.low:g} to {high:g}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
