"""What the page shows, as plain data: table cells, runs, memory of points; and apart, in parts, every run's details."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
from pydantic_core import to_json

from benchmarks.analysis.budgets import in_every_budget
from benchmarks.analysis.curves import load_curves
from benchmarks.analysis.evidence import Evidence, load_evidence
from benchmarks.analysis.headline import load_wanted, with_scores
from benchmarks.analysis.influence import Integers
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import CELL, block_ids, blocks, refusals, summary
from benchmarks.analysis.verdict import Limits, Verdict, verdicts
from benchmarks.memory.measured import measured_records
from benchmarks.memory.needs import CONTEXT_BYTES, MARGIN
from benchmarks.privacy import hide_places
from benchmarks.records.frame import PROTOCOL, runs_frame
from benchmarks.records.private import anonymous, private
from benchmarks.records.record import predictions_path
from benchmarks.records.schema import Record
from benchmarks.report.advice import heading, sentences, short
from benchmarks.report.baselines import add_baselines
from benchmarks.report.captions import AUC_MARKS, auc_marks, definitions, footnotes, preloading, protocol, spread, title
from benchmarks.report.columns import columns_of, idea_title, rows_by_resolution
from benchmarks.report.page_curves import page_curves
from benchmarks.report.page_memory import highest_points, measured_name, measured_points, run_points
from benchmarks.report.page_parts import pack
from benchmarks.report.style import Style, styles
from methods import idea_of

# What a row says elsewhere: in its place, its protocol or its footnotes.
_SAID = (
    *(*CELL, *PROTOCOL, "label", "dataset_label", "dataset_title", "method_title", "message", "backbone_requested"),
    *("names_keys", "shared_code", "code", "code_mix", "unconverged", "leaks"),
)
_SYMBOLS = {
    **{"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"},
    **{"X": "x", "*": "star", "<": "triangle-left", ">": "triangle-right", "h": "hexagon", "d": "diamond-tall"},
}
_MACHINE = ("device", "host", "host_id", "driver", "torch", "timm", "peft", "python")
_AS_IT_IS = frozenset({str, int, bool, type(None)})
APART, MEASURED = "apart", "measured"  # parts of runs that no row of the table counts, and of measured points


class PageData(NamedTuple):
    """What a page is made of.

    Attributes:
        shown: what it shows when it opens, ready for JSON: no number that is not finite, floats to six digits.
        parts: what it loads when it is asked for, by name, as `page_parts.pack` makes it.
        problems: a line for each thing wrong with what is stored; on the page they name no place.
    """

    shown: dict[str, Any]
    parts: dict[str, bytes]
    problems: list[str]


def collect(
    results: Path,
    folder: Path,
    records: Iterable[Record],
    problems: Sequence[str] = (),
    mix_code: bool = False,
    nameless: bool = False,
    families: Sequence[str] = (),
) -> PageData:
    """Everything the page shows.

    Args:
        results: the results root; probabilities and measured memory are read from it.
        folder: where the page will lie; links to records are relative to it.
        records: the runs, one by one: ten thousand at once take a gigabyte.
        problems: a line for each record that could not be read, complete once the records are read.
        mix_code: whether to average runs that different code has trained.
        nameless: whether to leave out what tells machine and user.
        families: of scores to show beside AUC, see `headline.chosen_scores`.

    Raises:
        UserError: a file of measured memory is damaged.
    """
    stored = _Stored(anonymous if nameless else private)
    frame = runs_frame(map(stored.add, records))
    evidence, unreadable = load_evidence(results, frame)
    wanted = load_wanted(results, frame, families)
    table = summary(frame, mix_code)
    found: list[Verdict] = []
    if len(table):
        table = add_significance(table, evidence)
        found = list(verdicts(table, evidence, Limits()))
        table = add_baselines(with_scores(table, wanted))
    measured = {path: stored.shown(record) for path, record in measured_records(results).items()}
    rows, columns, extra, places = _rows(table)
    placed = in_every_budget(frame).drop_duplicates("run_id")  # a run of several blocks counts in the first
    rows_of_runs = [places.get(place) for place in _places(placed, block_ids(placed))]
    labels = [None if row is None else rows[row]["label"] for row in rows_of_runs]
    points = [*run_points(frame, labels), *measured_points(measured)]
    parts = [APART if row is None else f"{rows[row]['group']}-{rows[row]['resolution']}" for row in rows_of_runs]
    drawn = page_curves(load_curves(results, frame), frame["run_id"], rows_of_runs)
    packed = _packed(frame["run_id"], parts, stored.contents, evidence, drawn)
    for record in measured.values():
        stored.count(record)
    if measured:
        contents = {measured_name(path): to_json(record).decode() for path, record in measured.items()}
        packed[MEASURED] = pack(contents, {})
    faults = [
        *problems,
        *dict.fromkeys([*unreadable, *wanted.problems, *_without_predictions(results, frame)]),
        *([] if mix_code else refusals(frame)),
    ]
    shown = {
        "definitions": definitions(table),
        "needs": f"the highest peak of a run's phases, {MARGIN:.0%} of it for fragmentation and the prediction's "
        f"error, and {CONTEXT_BYTES['train'] / 2**20:,.0f} MiB of CUDA context, as bench.py fit counts",
        "problems": [hide_places(problem, _folders(results)) for problem in faults],
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
        "verdicts": _verdicts(found, list(blocks(table))),
        "rows": rows,
        "runs": {"id": list(frame["run_id"]), "row": rows_of_runs, "seed": list(frame["seed"])}
        | {"state": list(frame["state"]), "part": parts},
        "memory": highest_points(points),
        "measured": list(map(measured_name, measured)),
        "machines": [json.loads(machine) | {"count": count} for machine, count in stored.machines.items()],
        "latest": stored.latest,
        "folder": None if nameless else _link(results, folder),
    }
    return PageData(_plain(shown), packed, faults)


def _verdicts(found: Sequence[Verdict], parts: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """What to use at each place, with the number of its part of the table."""
    numbers = {(part["dataset_label"].iloc[0], part["block"].iloc[0]): number for number, part in enumerate(parts)}
    return [
        {
            "group": numbers[verdict.place["dataset_label"], verdict.place["block"]],
            "resolution": verdict.place["resolution"],
            "heading": heading(verdict),
            "short": short(verdict),
            "sentences": list(sentences(verdict, Limits())),
        }
        for verdict in found
    ]


def _folders(results: Path) -> dict[Path, str]:
    """What stands for the results folder, as it may be named in problems."""
    return {results.absolute(): "<results>", results.resolve(): "<results>"}


def _link(results: Path, folder: Path) -> str | None:
    """The way from the page to the results; None where it would name folders above them."""
    way = Path(os.path.relpath(results, folder))
    if ".." in way.parts and len([part for part in way.parts if part != ".."]) > 1:
        return None
    return quote(way.as_posix() + "/").removeprefix("./")


class _Stored:
    """What is kept of records on their way into the table.

    Args:
        shown: what is shown of a record.

    Attributes:
        contents: each record as JSON, by name: a tenth of what it takes as objects.
        machines: how many records come from each machine and code version, as JSON.
        latest: when the last of them was started.
    """

    def __init__(self, shown: Callable[[Record], Record]) -> None:
        self.shown = shown
        self.contents: dict[str, str] = {}
        self.machines: Counter[str] = Counter()
        self.latest = ""

    def add(self, record: Record) -> Record:
        """Keeps what is shown of a run's record, and passes that on."""
        record = self.shown(record)
        self.contents[record["run_id"]] = to_json(record).decode()
        self.count(record)
        return record

    def count(self, record: Record) -> None:
        """Counts where a record comes from."""
        run = record.get("run", record)  # of a measured point there is no run
        code = run.get("code") or {}
        machine = {
            "environment": {name: record.get("environment", {}).get(name) for name in _MACHINE},
            "code": {name: code.get(name) for name in ("commit", "dirty")},
            "kind": "runs" if "run" in record else "memory",
        }
        self.machines[json.dumps(machine)] += 1
        self.latest = max(self.latest, run.get("started") or "")


def _packed(
    run_ids: Iterable[str],
    parts: Sequence[str],
    contents: Mapping[str, str],
    evidence: Mapping[str, Evidence],
    curves: Mapping[str, Mapping[str, Any]],
) -> dict[str, bytes]:
    """The parts of runs, in two threads: compressing takes half of the time, and no part of Python."""
    packed: dict[str, Future[bytes]] = {}
    with ThreadPoolExecutor(2) as pool:
        for part, members in groupby(sorted(zip(parts, run_ids, strict=True)), key=lambda member: member[0]):
            names = [name for _, name in members]
            classes = {name: class_results(evidence[name]) for name in names if name in evidence}
            own = {row: curve for name in names for row, curve in curves.get(name, {}).items()}
            packed[part] = pool.submit(pack, {name: contents[name] for name in names}, _plain(classes), own)
    return {part: made.result() for part, made in packed.items()}


def _without_predictions(results: Path, frame: pd.DataFrame) -> Iterator[str]:
    """A line for each finished run whose predictions are gone."""
    for run_id in frame.loc[frame["state"] == "ok", "run_id"]:
        path = predictions_path(results, run_id)
        if not path.exists():
            yield f"predictions must be there, got no {str(path)!r}: delete the run's record and run again"


def class_results(evidence: Evidence) -> dict[str, Any]:
    """Test results of each class: the class of the highest logit or, without, probability counts.

    Returns:
        `classes`: names; `confusion`: counts, a row for each true class, a column for each predicted one;
        `sensitivity`, `specificity` and `precision` of each class (0-1), None where there is nothing to divide by.
    """
    counts = evidence.confusion
    hits, true, called = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return {
        **{"classes": evidence.classes, "confusion": counts.tolist()},
        "sensitivity": _ratios(hits, true),
        "specificity": _ratios(counts.sum() - true - called + hits, counts.sum() - true),
        "precision": _ratios(hits, called),
    }


def _ratios(above: Integers, below: Integers) -> list[float | None]:
    return [a / b if b else None for a, b in zip(above.tolist(), below.tolist(), strict=True)]


def _rows(
    table: pd.DataFrame,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], dict[tuple[Any, ...], int]]:
    """The rows of the table, its columns, the names of those shown when asked for, and where each cell is."""
    if table.empty:
        return [], [], [], {}
    columns = columns_of(table)
    extra = [str(name) for name in table.columns if name not in _SAID and table[name].notna().any()]
    rows: list[dict[str, Any]] = []
    keys = dict(zip(table.index, _places(table, table["block"]), strict=True))
    places: dict[tuple[Any, ...], int] = {}
    for group, block in enumerate(blocks(table)):
        parts = zip(rows_by_resolution(block, columns), block.groupby("resolution", sort=True), strict=True)
        for (resolution, entries, _), (_, part) in parts:
            for row_entries, (i, row) in zip(entries, part.iterrows(), strict=True):
                places[keys[i]] = len(rows)
                rows.append(
                    {
                        **{
                            "group": group,
                            "resolution": row["resolution"],
                            "resolution_text": resolution,
                            "idea": idea_title(row),
                        },
                        **{name: row[name] for name in ("label", "method", "state", "complete", "auc_mean", "auc_sd")},
                        "auc_marks": auc_marks(row),
                        "cells": [[entry.text, entry.mark, entry.rank] for entry in row_entries],
                        "costs": _costs(row),
                        "extra": [_raw(name, row[name]) for name in extra],
                    }
                )
    shown = [{"title": column.header, "better": column.better} for column in columns]
    return rows, shown, [name.replace("_bytes", " (MiB)").replace("_", " ") for name in extra], places


def _places(runs: pd.DataFrame, block: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """What runs and the row that counts them have in common."""
    values = runs[[name for name in CELL if name != "block"]].astype("object")
    return zip(block, *(column for _, column in values.where(values.notna(), None).items()), strict=True)


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


def _styles(table: pd.DataFrame, points: Sequence[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """How each label is drawn, in the order of the table of methods; the same as in the printed figures."""
    labels = {(point["method"], point["label"]) for point in points}
    if len(table):
        labels |= set(zip(table["method"], table["label"], strict=True))
    ideas = {label: idea_of(method) for method, label in labels}
    return {label: _look(style) | {"idea": ideas[label]} for label, style in styles(labels).items()}


def _look(style: Style) -> dict[str, str]:
    dash = "solid" if style.dashes == "-" else ",".join(f"{2 * length}px" for length in style.dashes[1])
    return {"colour": style.colour, "symbol": _SYMBOLS[style.marker], "dash": dash}


def _plain(value: Any) -> Any:
    if type(value) in _AS_IT_IS:
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
