"""From runs to cells: one row for each protocol block, dataset, resolution and method, averaged over seeds only."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from benchmarks.records import PROTOCOL, STATES
from methods import METHODS

CELL = ("block", "dataset", "dataset_digest", "resolution", "method", "variant")
PARAMETERS = ("trainable", "trainable_head", "trainable_total", "frozen")
SPLIT = ("split_kind", "split_group_key", "split_digest")
_SCORES = ("auc", "accuracy", "balanced_accuracy", "macro_f1", "kappa", "val_auc")


def performance_parameter_efficiency(score: float, trainable_fraction: float) -> float:
    """PPE of the FPT papers: score * exp(-log10(r + 1)), with r the trainable share (0-1) of the parameters."""
    return score * math.exp(-math.log10(trainable_fraction + 1))


def performance_memory_efficiency(score: float, memory: float, memory_full: float) -> float:
    """PME of the FPT papers: score * exp(-log10(m / m_full + 1)), with m_full the memory of full fine-tuning."""
    return score * math.exp(-math.log10(memory / memory_full + 1))


def block_id(row: pd.Series) -> str:
    """Six letters that name the protocol of a run, the same on every machine."""
    values = [None if pd.isna(row[name]) else str(row[name]) for name in PROTOCOL]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:6]


def method_rank(name: str) -> tuple[int, str]:
    """Sort key: the order of the table of methods, then names that only stored records know."""
    known = list(METHODS)
    return (known.index(name) if name in METHODS else len(known), name)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise runs, one row a cell: a method (or variant of it) on a dataset at a resolution under one protocol.

    Args:
        frame: runs as `records.runs_frame` gives them.

    Returns:
        The columns `CELL` and those of the protocol, and:
        split_kind, split_group_key, split_digest (of a dataset that bench.py prepare made);
        label (title of the method, with whatever tells its variants apart), dataset_label, synthetic, fallback,
        effective_resolution; state (ok when any seed is), message, phase, seeds_ok, seeds_asked (the distinct seeds
        tried anywhere in the same block and dataset) and seeds_<state>;
        trainable, trainable_head, trainable_total, frozen, percent;
        {auc,accuracy,...}_mean and _sd (0-1; sample sd, missing for one seed);
        {train,preload}_memory_bytes (peak allocated) and _source (measured where there is a measurement), and both
        apart as {measured,predicted}_{train,preload}_bytes; host_peak_bytes;
        train_process_bytes (what the driver reports for the process, of the source of train_memory_bytes);
        tuned_lr, tuned_trials, tuned_at_edge: of a rate chosen on validation; missing where it was given;
        seconds_train, preload_seconds, images_per_second_preload (means over seeds), cache_bytes;
        majority_share (0-1, of the largest class in the test split), num_classes;
        run_ids (of the runs that are ok) and seeds (tried), divided by spaces;
        ppe, pme (0-1), pme_source: missing where full fine-tuning has no memory of the same source in that cell.
        Sorted by dataset, block, resolution and the order of the methods.
    """
    frame = frame.sort_values(["seed", "run_id"])  # sums of floats depend on their order
    runs = frame.assign(block=[block_id(row) for _, row in frame.iterrows()])
    rows: list[dict[str, Any]] = []
    for _, group in runs.groupby(["block", "dataset", "dataset_digest"], dropna=False):
        titles = variant_labels(group)
        cells = group.groupby(["resolution", "method", "variant"])
        block = [
            _cell(cell) | {"label": titles[str(method), str(variant)], "seeds_asked": group["seed"].nunique()}
            for (_, method, variant), cell in cells
        ]
        rows += [row | _scores(row, block) for row in block]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    table.insert(5, "label", table.pop("label"))
    table.insert(2, "dataset_label", _dataset_labels(table))
    whole = [
        name
        for name in map(str, table.columns)
        if name.endswith("_bytes") or name in ("effective_resolution", "num_classes", *PARAMETERS)
    ]
    table[whole] = table[whole].astype("Int64")
    order = sorted(
        range(len(rows)),
        key=lambda i: (
            *(str(rows[i][name]) for name in ("dataset", "dataset_digest", "backbone", "block")),
            rows[i]["resolution"],
            method_rank(rows[i]["method"]),
            rows[i]["label"],
        ),
    )
    return table.iloc[order].reset_index(drop=True)


def blocks(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The parts of a summary that may stand in one table or figure: one dataset under one protocol."""
    if len(table):
        for _, group in table.groupby(["dataset_label", "block"], sort=False, dropna=False):
            yield group


def _cell(runs: pd.DataFrame) -> dict[str, Any]:
    """One cell: every run of one method variant on one dataset at one resolution, its seeds."""
    first = runs.iloc[0]
    good = runs[runs["state"] == "ok"]
    bad = runs[runs["state"] != "ok"]
    counts = {f"seeds_{state}": int((runs["state"] == state).sum()) for state in STATES}
    worst = min(runs["state"], key=STATES.index)  # ok before oom before diverged before failed before interrupted
    row = {name: first[name] for name in (*CELL, *PROTOCOL, "dataset_title", "method_title", "device_type")}
    row |= {name: _first(runs[name]) for name in SPLIT}
    row |= {"state": worst, "message": _first(bad["message"]), "phase": _first(bad["phase"])}
    row |= {
        "synthetic": bool(runs["synthetic"].fillna(False).any()),
        "fallback": bool(runs["fallback"].fillna(False).any()),
    }
    row |= {name: _first(runs[name]) for name in ("effective_resolution", "backbone_requested", "weights_note")}
    row |= {
        name: _first(runs[name]) for name in ("trainable", "trainable_head", "trainable_total", "frozen", "percent")
    }
    row |= {name: _first(runs[name]) for name in ("majority_share", "num_classes")}
    row |= counts | {"run_ids": " ".join(good["run_id"]), "seeds": " ".join(map(str, runs["seed"].unique()))}
    for score in _SCORES:
        row[f"{score}_mean"] = good[score].mean()
        row[f"{score}_sd"] = good[score].std(ddof=1) if len(good) > 1 else math.nan
    for phase in ("train", "preload"):
        # Only a run that finished has seen its peak; a prediction holds whatever became of the run.
        measured = _maximum(good[f"measured_{phase}_peak_allocated_bytes"])
        predicted = _maximum(runs[f"predicted_{phase}_peak_allocated_bytes"])
        row |= {f"measured_{phase}_bytes": measured, f"predicted_{phase}_bytes": predicted}
        row[f"{phase}_memory_bytes"] = predicted if measured is None else measured
        row[f"{phase}_memory_source"] = _source(measured, predicted)
    seen = (good, "measured") if row["train_memory_source"] == "measured" else (runs, "predicted")
    row["train_process_bytes"] = _maximum(seen[0][f"{seen[1]}_train_peak_process_bytes"])
    row |= {name: _first(runs[name]) for name in ("tuned_lr", "tuned_trials")}
    row["tuned_at_edge"] = bool(runs["tuned_at_edge"].fillna(False).any())
    costs = ("seconds_train", "preload_seconds", "images_per_second_preload")
    row |= {name: good[name].mean() for name in costs}
    return row | {name: _maximum(good[name]) for name in ("host_peak_bytes", "cache_bytes")}


def _scores(row: dict[str, Any], block: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """PPE and PME of a cell; a ratio of memories is taken between two measurements or two predictions, never across."""
    auc, percent = row["auc_mean"], row["percent"]
    scores: dict[str, Any] = {"ppe": None, "pme": None, "pme_source": None}
    if pd.isna(auc):
        return scores
    if not pd.isna(percent):
        scores["ppe"] = performance_parameter_efficiency(auc, percent / 100)
    full = [other for other in block if other["method"] == "full" and other["resolution"] == row["resolution"]]
    for source in ("measured", "predicted"):
        memory = row[f"{source}_train_bytes"]
        reference = [other[f"{source}_train_bytes"] for other in full if other[f"{source}_train_bytes"]]
        if memory and reference:
            scores["pme"] = performance_memory_efficiency(auc, memory, max(reference))
            scores["pme_source"] = source
            break
    return scores


def across_datasets(table: pd.DataFrame) -> pd.Series:
    """Labels under which the rows of one protocol, all its datasets, are one method or another.

    A method that has one setting in each dataset and resolution is one, even where its learning rate was chosen for
    each; a method with several somewhere is told apart by settings everywhere.
    """
    labels = variant_labels(table)
    several = table.groupby(["method", "dataset_label", "resolution"], dropna=False)["variant"].nunique()
    apart = set(several[several > 1].index.get_level_values("method"))
    plain = variant_labels(table.drop_duplicates("method"))
    titles = {method: label for (method, _), label in plain.items()}
    return pd.Series(
        [
            labels[method, variant] if method in apart else titles[method]
            for method, variant in zip(table["method"], table["variant"], strict=True)
        ],
        index=table.index,
    )


def variant_labels(runs: pd.DataFrame) -> dict[tuple[str, str], str]:
    """A label for each (method, variant): the title, and in brackets the settings in which its variants differ."""
    labels = {}
    for method in sorted(set(runs["method"])):
        group = runs[runs["method"] == method]
        known = METHODS[method].title if method in METHODS else None
        title = known or _first(group["method_title"]) or method
        settings = {variant: json.loads(variant) for variant in group["variant"].unique()}
        keys = sorted({key for setting in settings.values() for key in setting})
        differing = [key for key in keys if len({json.dumps(s.get(key)) for s in settings.values()}) > 1]
        for variant, setting in settings.items():
            details = ", ".join(f"{key} {_shown(setting.get(key))}" for key in differing)
            labels[method, variant] = f"{title} ({details})" if details else str(title)
    return labels


def _dataset_labels(table: pd.DataFrame) -> list[str]:
    """The title of each row's dataset; two sets of images under one name are told apart by their digest."""
    digests = table.groupby("dataset")["dataset_digest"].nunique()
    labels = []
    for name, title, digest in zip(table["dataset"], table["dataset_title"], table["dataset_digest"], strict=True):
        several = digests[name] > 1
        labels.append(f"{title or name} [{digest!s:.6}]" if several else str(title or name))
    return labels


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return "-".join(map(_shown, value))
    return "default" if value is None else str(value)


def _first(values: pd.Series) -> Any:
    present = values.dropna()
    return present.iloc[0] if len(present) else None


def _maximum(values: pd.Series) -> int | None:
    present = values.dropna()
    return int(present.max()) if len(present) else None


def _source(measured: int | None, predicted: int | None) -> str | None:
    if measured is not None:
        return "measured"
    return None if predicted is None else "predicted"
