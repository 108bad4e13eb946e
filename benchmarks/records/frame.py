"""Stored runs as a frame: one row a run, one flat column for each value that tables and plots use."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.config import ALL_LABELS, SAVER_WORDS, RunConfig, identity, train_labels
from benchmarks.records.index import LEAST
from benchmarks.records.kept_frame import keep_frame, read_frame, state_of
from benchmarks.records.private import private
from benchmarks.records.record import each_record, record_paths
from benchmarks.records.schema import COLUMNS, Record, num_images

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
    "warmup_epochs",
    "decay_all",
    "resample_patch_embed",
    "optimizer",
    "frozen_weights",
    "quantize",
    "normalized_by",
    "train_labels",
    "keep_steps",
)
_LATER = {entry.name: entry.default for entry in fields(RunConfig) if entry.metadata.get("later")}
# What runs did that were stored before these came.
LATER = {name: _LATER[name] for name in PROTOCOL if name in _LATER} | {
    "normalized_by": "dataset",
    "train_labels": ALL_LABELS,
}
# Keys of run.config that say which cell or protocol a run belongs to; whatever else differs makes another variant.
_PLACE = (
    *("method", "dataset", "dataset_digest", "resolution", "seed", "device", "device_type"),
    *("precision", "attention", "batch_size", "epochs", "grad_checkpointing", "warmup_epochs", "decay_all"),
    *("normalization", "resample_patch_embed", "training_set"),
)
_DTYPES = {int: "Int64", float: "float64", bool: "boolean", str: "object"}


def load_frame(results: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read every record under `results/runs` as a row, as `load_records` and `runs_frame` do one after the other.

    Where there are thousands, the frame is kept until one of their files changes.
    """
    paths = record_paths(results)
    state = state_of(paths) if len(paths) >= LEAST else None
    known = None if state is None else read_frame(results, state)
    if known is not None:
        return known, []
    problems: list[str] = []
    frame = runs_frame(each_record(results, problems))
    if state is not None and not problems:
        keep_frame(results, state, frame)
    return frame, problems


def runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a run, one flat column for each entry of `COLUMNS`, and `variant`.

    Identity: run_id, state, message, phase, method, method_title, dataset, dataset_title, dataset_digest,
    synthetic, bit_depth (of images of more than 8), split_kind (official, ours, user),
    split_group_key, split_digest, resolution (asked), effective_resolution (run), seed. Protocol: backbone (used),
    backbone_requested, fallback, weights_source, weights_sha256, weights_note, device, device_type, precision,
    attention, batch_size, epochs, grad_checkpointing, warmup_epochs, decay_all, resample_patch_embed, optimizer,
    frozen_weights, quantize, normalized_by (`dataset` or `backbone`), train_labels (`all`, or how many), keep_steps;
    then loss_name, uncertain, compile, train_fraction, shots, imbalance, offload, recompute, backbone_family,
    backbone_pool, preload, lr, weight_decay, tuned_lr, tuned_trials, tuned_at_edge (of a chosen rate), best_epoch,
    torch, started, names_key (with which names in predictions are hashed); code_digest and method_digest (of the code
    that trained: what
    all methods share, and the method's own), version, commit, dirty.
    Parameters: trainable_total, trainable_head, trainable (without head), frozen, percent (0-100).
    Scores (0-1, on the test split unless named val_): val_auc, auc, accuracy, balanced_accuracy, macro_f1, loss; kappa
    (-1 to 1, without weights) or, where the classes are grades, quadratic_kappa and mae (in grades): `ordered`,
    which runs did not say before, when all had quadratic weights.
    Memory in bytes: {measured,predicted}_{setup,preload,train,eval}_peak_{allocated,reserved,process}_bytes,
    host_peak_bytes, cache_bytes. Time: seconds_{total,...}, images_per_second_{train,eval,preload};
    preload_seconds is what computing the features took when it was done, seconds_preload what this run waited for.
    augmented: the views that training augmented, divided by spaces: `all` or `none` of them, or their names.
    leaks: images that lie in another split too. metric: by which the dataset's methods are ranked.
    Of a run whose seed was added by a rule: stopping_rule, stopping_look, stopping_looks, stopping_level,
    stopping_margin; stopping_asked (JSON: the method and variant of each that was to have that seed there).
    The test split: majority_share (0-1, of its largest class), num_classes.
    The history: train_losses and val_aucs, tuples with an entry an epoch, empty where none was stored.
    What was trained on: num_train (images), num_train_units (patients or images, where not all), class_entropy (nats,
    of the classes as the loss counts them; of findings the mean over all that is known).
    variant: JSON of every setting that is neither place, seed nor protocol; runs that differ in it are never averaged.
    Of an evaluation: evaluation_kind, evaluation_run_id, evaluation_run_predictions_sha256, evaluation_data,
    evaluation_data_digest; its scores are of its images. Of a soup also soup_way, soup_members, soup_members_sha256,
    soup_used, soup_best_val_auc.
    predictions_sha256: of the file of predictions, which was compared with it when the record was read.
    Of a damaged run, whose state is `damaged`, there is only what says where it belongs.
    Missing values are missing (NA), whatever the reason. No text names a place or machine, whatever a record holds.
    """
    rows = [
        _values(record, _TREE, dict.fromkeys(COLUMNS))
        | {"variant": _variant(record), "augmented": _augmented(record), "normalized_by": _normalized_by(record)}
        | {"stopping_asked": _asked(record), "train_labels": _train_labels(record)}
        | _test_classes(record)
        | _history(record)
        | _train_classes(record)
        for record in map(private, records)
    ]
    dtypes = {name: _DTYPES[column.kind] for name, column in COLUMNS.items()}
    dtypes |= {"variant": "object", "augmented": "object", "normalized_by": "object"}
    dtypes |= {"stopping_asked": "object", "train_labels": "object"}
    dtypes |= {"majority_share": "float64", "num_classes": "Int64"}
    dtypes |= {"train_losses": "object", "val_aucs": "object", "num_train": "Int64", "class_entropy": "float64"}
    frame = pd.DataFrame(rows, columns=list(dtypes), dtype="object").astype(dtypes)
    return _with_kappas(frame.fillna(LATER | {name: _LATER[name] for name in (*SAVER_WORDS, "imbalance")}))


def _with_kappas(frame: pd.DataFrame) -> pd.DataFrame:
    """Tells the two kappas apart, which are one number only where there are two classes."""
    quadratic = frame["ordered"].fillna(True).astype(bool) & frame["num_classes"].ne(2).fillna(True).astype(bool)
    return frame.assign(kappa=frame["kappa"].mask(quadratic), quadratic_kappa=frame["kappa"].where(quadratic))


def _tree() -> dict[str, Any]:
    """The columns as records hold their values: the name of each, by the keys on the way to it."""
    tree: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        part = tree
        for key in column.path[:-1]:
            part = part.setdefault(key, {})
        part[column.path[-1]] = name
    return tree


_TREE = _tree()


def _values(part: Record, tree: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The row with the values of a part of a record in it; what the record lacks stays as it was."""
    for key, inner in tree.items():
        value = part.get(key)
        if isinstance(inner, str):
            row[inner] = value
        elif isinstance(value, dict):
            _values(value, inner, row)
    return row


def _variant(record: Record) -> str:
    method_config = _lookup(record, ("run", "method", "config"))
    return json.dumps(settings_of(record["run"]["config"], method_config), sort_keys=True)


def settings_of(config: Mapping[str, Any], method_config: Any = None) -> dict[str, Any]:
    """The settings that tell a run from others of its method at the same place, whatever its seed.

    Args:
        config: As a record has it.
        method_config: All fields of the method's Config, where the record has them and `config` no options.
    """
    config = identity(config, RunConfig)
    # What is not among the options is at its default, which tells no variant from another.
    known = (config.get("options"), method_config)
    settings: dict[str, Any] = next((options for options in known if isinstance(options, dict)), {})
    settings = settings | {name: value for name, value in config.items() if name not in _PLACE}
    if config.get("lr_grid"):
        del settings["lr"]  # of a tuned run the grid is the setting, and the rate that it led to is a result
    return settings


def _asked(record: Record) -> str | None:
    stopping = record["run"].get("stopping")
    if not stopping:
        return None
    return json.dumps([(one["method"], json.dumps(one["settings"], sort_keys=True)) for one in stopping["asked"]])


def _augmented(record: Record) -> str | None:
    views, augmented = (_lookup(record, ("run", "input", name)) for name in ("views", "augmented"))
    if views is None or augmented is None:
        return None
    return "all" if set(views) <= set(augmented) else " ".join(augmented) or "none"


def _normalized_by(record: Record) -> str:
    return "dataset" if record["run"]["config"].get("normalization") is None else "backbone"


def _train_labels(record: Record) -> str:
    config = record["run"]["config"]
    return train_labels(config.get("train_fraction"), config.get("shots"))


def _test_classes(record: Record) -> dict[str, Any]:
    counts = _lookup(record, ("run", "dataset", "counts", "test"))
    if not counts or not sum(counts.values()):
        return {"majority_share": None, "num_classes": None}
    if record["run"]["dataset"].get("findings"):  # there is no class to call them all
        return {"majority_share": None, "num_classes": len(counts)}
    return {"majority_share": max(counts.values()) / sum(counts.values()), "num_classes": len(counts)}


def _history(record: Record) -> dict[str, Any]:
    epochs = _lookup(record, ("measurements", "history")) or []
    known = all(epoch.get("loss") is not None and epoch.get("val_auc") is not None for epoch in epochs)
    losses, aucs = (tuple(epoch[name] for epoch in epochs) if known else () for name in ("loss", "val_auc"))
    return {"train_losses": losses, "val_aucs": aucs}


def _train_classes(record: Record) -> dict[str, Any]:
    dataset = record["run"].get("dataset") or {}
    found = [_lookup(dataset, path) for path in (("trained_on", "counts"), ("counts", "train"))]
    counts = [count for count in (found[0] or found[1] or {}).values() if count]
    if not counts:
        return {"num_train": None, "class_entropy": None}
    if dataset.get("findings"):
        some = dataset.get("trained_on") or {}
        known = some.get("known") or dataset["findings"]["known"]["train"]
        with_it = some.get("counts") or dataset["counts"]["train"]
        num_train = some.get("num_images") or num_images(dataset, "train")
        if record["run"]["config"].get("imbalance") == "class_weights":
            return {"num_train": num_train, "class_entropy": math.log(2)}  # either side is half of the loss
        parts = [(with_it[name], number) for name, number in known.items() if number]
        lost = sum(_entropy([own, number - own]) * number for own, number in parts)
        return {"num_train": num_train, "class_entropy": lost / max(sum(known.values()), 1)}
    if record["run"]["config"].get("imbalance") in ("class_weights", "balanced_sampling"):
        return {"num_train": sum(counts), "class_entropy": math.log(len(counts))}  # classes are of one size in the loss
    return {"num_train": sum(counts), "class_entropy": _entropy(counts)}


def _entropy(counts: Sequence[int]) -> float:
    """Of shares, in nats: the mean loss of a model that knows them and nothing of the image."""
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts if count)


def _lookup(record: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record
