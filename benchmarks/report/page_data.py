"""What the page shows, as plain data: table cells, runs with their records, memory of points, results of classes."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from sklearn.metrics import confusion_matrix

from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import CELL, block_ids, blocks, refusals, summary
from benchmarks.choices import PHASES
from benchmarks.errors import UserError
from benchmarks.memory.card_fit import MARGIN
from benchmarks.memory.measure import read_measured
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import CONTEXT_BYTES
from benchmarks.records.frame import PROTOCOL, runs_frame
from benchmarks.records.schema import Record
from benchmarks.records.whole_run import SOME_RUNS, highest_phase
from benchmarks.report.baselines import add_baselines
from benchmarks.report.captions import AUC_MARKS, auc_marks, definitions, footnotes, preloading, protocol, spread, title
from benchmarks.report.columns import columns_of, rows_by_resolution
from benchmarks.report.style import Style, styles
from methods import METHODS

_SETTING = ("backbone", "batch_size", "precision", "attention", "grad_checkpointing")
# What a row says elsewhere: in its place, its protocol or its footnotes.
_SAID = (
    *(*CELL, *PROTOCOL, "label", "dataset_label", "dataset_title", "method_title", "message", "backbone_requested"),
    *("dataset_folder", "shared_code", "code", "code_mix", "unconverged", "leaks"),
)
_SYMBOLS = {
    **{"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"},
    **{"X": "x", "*": "star", "<": "triangle-left", ">": "triangle-right", "h": "hexagon", "d": "diamond-tall"},
}


def collect(
    results: Path, folder: Path, records: Sequence[Record], problems: Sequence[str] = (), mix_code: bool = False
) -> dict[str, Any]:
    """Everything the page shows, ready for JSON: no number that is not finite, floats to six digits.

    Args:
        results: the results root; probabilities and measured memory are read from it.
        folder: where the page will lie; links to records are relative to it.
        records: the runs.
        problems: a line for each record that could not be read.
        mix_code: whether to average runs that different code has trained.

    Raises:
        UserError: a file of measured memory is damaged.
    """
    frame = runs_frame(records)
    evidence, unreadable = load_evidence(results, frame)
    table = summary(frame, mix_code)
    if len(table):
        table = add_baselines(add_significance(table, evidence))
    measured = dict(zip(sorted((results / "measured").glob("*/*.json")), read_measured(results), strict=True))
    rows, columns, extra, places = _rows(table)
    blocks_of_runs = zip((row for _, row in frame.iterrows()), block_ids(frame), strict=True)
    runs, unread = _runs(results, records, [places.get(_place(row, block)) for row, block in blocks_of_runs])
    points = [*_run_points(frame, rows, runs), *_measured_points(measured)]
    stored = {record["run_id"]: results / "runs" / f"{record['run_id']}.json" for record in records}
    files = {str(path.relative_to(results).with_suffix("")): path for path in measured} | stored
    contents = {record["run_id"]: record for record in records}
    contents |= {str(path.relative_to(results).with_suffix("")): record for path, record in measured.items()}
    return _plain(
        {
            "definitions": definitions(table),
            "needs": f"the highest peak of a run's phases, {MARGIN:.0%} of it for fragmentation and the prediction's "
            f"error, and {CONTEXT_BYTES['train'] / 2**20:,.0f} MiB of CUDA context, as bench.py fit counts",
            "problems": [*problems, *dict.fromkeys([*unreadable, *unread]), *([] if mix_code else refusals(frame))],
            "styles": _styles(table, points),
            "auc_marks": AUC_MARKS,
            "columns": columns,
            "extra": extra,
            "groups": [
                {
                    **{"dataset": title(block), "block": block["block"].iloc[0], "protocol": protocol(block)},
                    **{"spread": spread(block), "preloading": preloading(block), "footnotes": footnotes(block)},
                    "synthetic": bool(block["synthetic"].any()),
                }
                for block in blocks(table)
            ],
            "rows": rows,
            "runs": runs,
            "memory": _highest(points),
            "records": {
                name: {"href": quote(Path(os.path.relpath(files[name], folder)).as_posix()), "content": content}
                for name, content in contents.items()
            },
        }
    )


def class_results(path: Path) -> dict[str, Any]:
    """Test results of each class, from stored predictions: the class of the highest logit or, without, probability.

    Returns:
        `classes`: names; `confusion`: counts, a row for each true class, a column for each predicted one;
        `sensitivity`, `specificity` and `precision` of each class (0-1), None where there is nothing to divide by.

    Raises:
        UserError: the file is missing, damaged, or has no image of the test split.
    """
    try:
        kinds = {"split": str, "label": str}
        frame = pd.read_csv(path, dtype=kinds, keep_default_na=False)
        test = frame[frame["split"] == "test"]
        names = [str(name) for name in frame.columns if str(name).startswith("prob_")]
        classes = [name.removeprefix("prob_") for name in names]
        unknown = sorted(set(test["label"]) - set(classes))
        if test.empty or unknown:
            raise UserError(f"no column for class {unknown[0]}" if unknown else "no image of the test split")
        logits = [f"logit_{name}" for name in classes]
        scores = logits if set(logits) <= set(frame.columns) else names
        predicted = test[scores].to_numpy(dtype="float64").argmax(axis=1)
        counts = confusion_matrix(test["label"], [classes[i] for i in predicted], labels=classes)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"predictions must be readable, got {str(path)!r} ({reason}): delete the run's record and run again"
        ) from error
    hits, true, called = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    false_calls = called - hits
    return {
        **{"classes": classes, "confusion": counts.tolist()},
        "sensitivity": _ratios(hits, true),
        "specificity": [None if r is None else 1 - r for r in _ratios(false_calls, counts.sum() - true)],
        "precision": _ratios(hits, called),
    }


def _ratios(above: Sequence[int], below: Sequence[int]) -> list[float | None]:
    return [a / b if b else None for a, b in zip(above, below, strict=True)]


def _rows(
    table: pd.DataFrame,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], dict[tuple[Any, ...], int]]:
    """The rows of the table, its columns, the names of those shown when asked for, and where each cell is."""
    if table.empty:
        return [], [], [], {}
    columns = columns_of(table)
    extra = [str(name) for name in table.columns if name not in _SAID and table[name].notna().any()]
    rows: list[dict[str, Any]] = []
    places: dict[tuple[Any, ...], int] = {}
    for group, block in enumerate(blocks(table)):
        parts = zip(rows_by_resolution(block, columns), block.groupby("resolution", sort=True), strict=True)
        for (resolution, entries), (_, part) in parts:
            for row_entries, (_, row) in zip(entries, part.iterrows(), strict=True):
                places[_place(row, row["block"])] = len(rows)
                rows.append(
                    {
                        **{"group": group, "resolution": row["resolution"], "resolution_text": resolution},
                        **{name: row[name] for name in ("label", "method", "state", "complete", "auc_mean", "auc_sd")},
                        "auc_marks": auc_marks(row),
                        "cells": [[entry.text, entry.mark, entry.rank] for entry in row_entries],
                        "costs": _costs(row),
                        "extra": [_raw(name, row[name]) for name in extra],
                    }
                )
    shown = [{"title": column.header, "better": column.better} for column in columns]
    return rows, shown, [name.replace("_bytes", " (MiB)").replace("_", " ") for name in extra], places


def _place(row: pd.Series, block: str) -> tuple[Any, ...]:
    """What a run and the row that counts it have in common."""
    return (block, *(None if pd.isna(row[name]) else row[name] for name in CELL if name != "block"))


def _costs(row: pd.Series) -> dict[str, Any]:
    """What AUC can be drawn against: for each its value, and whether that is predicted.

    `alone` is training's part of `run`, of the same source.
    """
    source = row["memory_source"]
    predicted = source == "predicted"
    return {
        "run": [row["memory_bytes"], predicted],
        "alone": [None if pd.isna(source) else row[f"{source}_train_bytes"], predicted],
        "train": [row["train_memory_bytes"], row["train_memory_source"] == "predicted"],
        "trainable": [row["trainable_total"], False],
    }


def _raw(name: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return "–"
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _runs(
    results: Path, records: Sequence[Record], rows: Sequence[int | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every run with its row and per-class results, and a line for each file of probabilities that cannot be read."""
    runs, problems = [], []
    for record, row in zip(records, rows, strict=True):
        name = record["run_id"]
        run = {"id": name, "row": row, "seed": record["run"]["config"]["seed"], "classes": None}
        if record["status"]["state"] == "ok":
            try:
                run["classes"] = class_results(results / "runs" / f"{name}.predictions.csv")
            except UserError as error:
                problems.append(str(error))
        runs.append(run)
    return runs, problems


def _run_points(
    frame: pd.DataFrame, rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The memory of every run that the table counts, measured and predicted."""
    for run, (_, row) in zip(runs, frame.iterrows(), strict=True):
        if run["row"] is None:
            continue
        place = {name: row[name] for name in ("method", "resolution", "device")}
        place |= {"setting": _setting(row), "label": rows[run["row"]]["label"], "record": run["id"]}
        for source in ("measured", "predicted"):
            peaks = {phase: row[f"{source}_{phase}_peak_allocated_bytes"] for phase in PHASES}
            also = [phase for phase, column in SOME_RUNS.items() if not pd.isna(row[column])]
            # Only a run that finished has seen its peak.
            out = source == "measured" and row["state"] == "oom" and row["device_type"] == "cuda"
            if out or source == "predicted" or row["state"] == "ok":
                yield from _point(place, source, {} if out else peaks, out, also)


def _measured_points(measured: dict[Path, Record]) -> Iterator[dict[str, Any]]:
    """The memory that `bench.py memory --measure` stored."""
    for path, record in measured.items():
        point = MemoryPoint.from_dict(record["point"])
        details = [*(f"{name} {value}" for name, value in point.options), *([] if point.preload else ["live features"])]
        label = METHODS[point.method].title if point.method in METHODS else point.method
        label += f" ({', '.join(details)})" if details else ""
        place = {
            "method": point.method,
            "resolution": point.resolution,
            "device": record.get("environment", {}).get("device"),
        }
        place |= {"setting": _setting(point.as_dict()), "label": label}
        place["record"] = f"measured/{path.parent.name}/{path.stem}"
        phases = (record.get("memory") or {"phases": {}})["phases"]
        peaks = {phase: (phases.get(phase) or {}).get("peak_allocated_bytes") for phase in PHASES}
        yield from _point(place, "measured", peaks, record["status"]["state"] == "oom", [])


def _point(
    place: dict[str, Any], source: str, peaks: dict[str, Any], out_of_memory: bool, also: Sequence[str]
) -> Iterator[dict[str, Any]]:
    known = {phase: int(value) for phase, value in peaks.items() if not (value is None or pd.isna(value))}
    highest = highest_phase(known, also)
    if out_of_memory:
        yield place | {"source": source, "oom": True, "run": None, "train": None, "preload": None, "needs": None}
    elif highest is not None:
        phases = {phase: known.get(phase) for phase in ("train", "preload")}
        needs = int(highest[1] * (1 + MARGIN) + CONTEXT_BYTES["train"])
        yield place | {"source": source, "oom": False, "run": highest[1], **phases, "needs": needs}


def _highest(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One point for each setting, method, resolution and source: the one that needs most."""
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for point in points:
        key = tuple(point[name] for name in ("setting", "label", "resolution", "source"))
        chosen.setdefault(key, point)
        if (point["needs"] or 0) > (chosen[key]["needs"] or 0):
            chosen[key] = point
    return sorted(chosen.values(), key=lambda point: (point["setting"], point["resolution"]))


def _setting(values: Any) -> str:
    """What memory depends on beside method and resolution, in words."""
    backbone, batch_size, precision, attention, checkpointing = (values[name] for name in _SETTING)
    words = f"{backbone}, batch size {batch_size}, {precision}, {attention} attention"
    return words + (", gradient checkpointing" if not pd.isna(checkpointing) and checkpointing else "")


def _styles(table: pd.DataFrame, points: Sequence[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """How each label is drawn, in the order of the table of methods; the same as in the printed figures."""
    labels = {(point["method"], point["label"]) for point in points}
    if len(table):
        labels |= set(zip(table["method"], table["label"], strict=True))
    return {label: _look(style) for label, style in styles(labels).items()}


def _look(style: Style) -> dict[str, str]:
    dash = "solid" if style.dashes == "-" else ",".join(f"{2 * length}px" for length in style.dashes[1])
    return {"colour": style.colour, "symbol": _SYMBOLS[style.marker], "dash": dash}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | None):
        return value
    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
