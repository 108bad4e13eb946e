"""What the page shows, as plain data: table cells, runs, memory of points; and apart, in parts, every run's details."""

import json
import math
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd

from benchmarks.analysis.budgets import in_every_budget
from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.headline import load_wanted, with_scores
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import CELL, block_ids, blocks, refusals, summary
from benchmarks.memory.measured import measured_records
from benchmarks.memory.needs import CONTEXT_BYTES, MARGIN
from benchmarks.privacy import hide_places
from benchmarks.records.frame import PROTOCOL
from benchmarks.records.private import anonymous, private
from benchmarks.records.record import predictions_path
from benchmarks.report.baselines import add_baselines
from benchmarks.report.captions import AUC_MARKS, auc_marks, definitions, footnotes, preloading, protocol, spread, title
from benchmarks.report.columns import columns_of, idea_title, rows_by_resolution
from benchmarks.report.latex import TEX
from benchmarks.report.page_fronts import page_fronts
from benchmarks.report.page_memory import highest_points, measured_name, measured_points, run_points
from benchmarks.report.page_panels import MakeSections, Shown
from benchmarks.report.page_parts import pack
from benchmarks.report.page_predictions import kept_points, page_settings, trained
from benchmarks.report.page_runs import Part, make_parts, origins_of, page_frame
from benchmarks.report.page_use import use_panels
from benchmarks.report.page_verdict import page_verdicts
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
    mix_code: bool = False,
    nameless: bool = False,
    families: Sequence[str] = (),
    cache: Path | None = None,
    further: Sequence[MakeSections] = (),
) -> PageData:
    """Everything the page shows.

    Args:
        results: the results root.
        folder: where the page will lie; links to records are relative to it.
        mix_code: whether to average runs that different code has trained.
        nameless: whether to leave out what tells machine and user.
        families: of scores to show beside AUC, see `headline.chosen_scores`.
        cache: the folder of caches, whose predictions fill what was not measured.
        further: what makes sections that were asked for.

    Raises:
        UserError: a file of measured memory is damaged.
    """
    frame, damaged = page_frame(results, nameless)
    evidence, unreadable = load_evidence(results, frame)
    wanted = load_wanted(results, frame, families)
    table = summary(frame, mix_code)
    if len(table):
        table = add_significance(table, evidence)
    advice = page_verdicts(table, evidence, list(blocks(table)))
    sections, unshown = use_panels(results, frame, evidence, mix_code, nameless)
    if len(table):
        table = with_scores(table, wanted)
        for make in further:
            made, faults = make(Shown(results, frame, evidence, table, wanted.names, mix_code))
            sections = {name: [*sections.get(name, []), *made.get(name, [])] for name in {**sections, **made}}
            unshown = [*unshown, *faults]
        table = add_baselines(table)
    shown = anonymous if nameless else private
    measured = {measured_name(path): shown(record) for path, record in measured_records(results).items()}
    rows, columns, extra, places, fronts = _rows(table)
    placed = in_every_budget(frame).drop_duplicates("run_id")  # a run of several blocks counts in the first
    rows_of_runs = [places.get(place) for place in _places(placed, block_ids(placed))]
    labels = [None if row is None else rows[row]["label"] for row in rows_of_runs]
    points = [*run_points(frame, labels), *measured_points(measured)]
    methods = trained(frame, labels)
    points += list(kept_points(methods, points, cache))
    part_of_runs = [APART if row is None else f"{rows[row]['group']}-{rows[row]['resolution']}" for row in rows_of_runs]
    parts, damaged_since = make_parts(results, frame, rows_of_runs, part_of_runs, evidence, nameless)
    if measured:
        parts[MEASURED] = Part(pack(measured, {}), origins_of(list(measured.values()), "memory"))
    machines = sum((part.origins.machines for part in parts.values()), Counter[str]())
    problems = [
        *dict.fromkeys([*damaged, *damaged_since]),
        *dict.fromkeys([*unreadable, *unshown, *wanted.problems, *_without_predictions(results, frame)]),
        *([] if mix_code else refusals(frame)),
    ]
    content = {
        "definitions": definitions(table),
        "tex": TEX,
        "needs": f"the highest peak of a run's phases, {MARGIN:.0%} of it for fragmentation and the prediction's "
        f"error, and {CONTEXT_BYTES['train'] / 2**20:,.0f} MiB of CUDA context, as bench.py fit counts",
        "problems": [hide_places(problem, _folders(results)) for problem in problems],
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
        "advice": advice,
        "fronts": fronts,
        "rows": rows,
        "runs": {"id": list(frame["run_id"]), "row": rows_of_runs, "seed": list(frame["seed"])}
        | {"state": list(frame["state"]), "part": part_of_runs},
        "settings": page_settings(methods, points),
        "memory": highest_points(points),
        "measured": list(measured),
        "machines": [json.loads(machine) | {"count": count} for machine, count in machines.items()],
        "latest": max((part.origins.latest for part in parts.values()), default=""),
        "folder": None if nameless else _link(results, folder),
    }
    content |= {name: made for name, made in sections.items() if made}
    return PageData(_plain(content), {name: part.data for name, part in parts.items()}, problems)


def _folders(results: Path) -> dict[Path, str]:
    """What stands for the results folder, as it may be named in problems."""
    return {results.absolute(): "<results>", results.resolve(): "<results>"}


def _link(results: Path, folder: Path) -> str | None:
    """The way from the page to the results; None where it would name folders above them."""
    way = Path(os.path.relpath(results, folder))
    if ".." in way.parts and len([part for part in way.parts if part != ".."]) > 1:
        return None
    return quote(way.as_posix() + "/").removeprefix("./")


def _without_predictions(results: Path, frame: pd.DataFrame) -> Iterator[str]:
    """A line for each finished run whose predictions are gone."""
    for run_id in frame.loc[frame["state"] == "ok", "run_id"]:
        path = predictions_path(results, run_id)
        if not path.exists():
            yield f"predictions must be there, got no {str(path)!r}: delete the run's record and run again"


def _rows(
    table: pd.DataFrame,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], dict[tuple[Any, ...], int], dict[str, Any]]:
    """The rows of the table, its columns, names of those shown when asked for, where each cell is, and the fronts."""
    if table.empty:
        return [], [], [], {}, {}
    columns = columns_of(table)
    extra = [str(name) for name in table.columns if name not in _SAID and table[name].notna().any()]
    rows: list[dict[str, Any]] = []
    keys = dict(zip(table.index, _places(table, table["block"]), strict=True))
    places: dict[tuple[Any, ...], int] = {}
    numbers: dict[Hashable, int] = {}
    fronts: dict[str, Any] = {}
    for group, block in enumerate(blocks(table)):
        parts = zip(rows_by_resolution(block, columns), block.groupby("resolution", sort=True), strict=True)
        for (resolution, entries, _), (_, part) in parts:
            for row_entries, (i, row) in zip(entries, part.iterrows(), strict=True):
                places[keys[i]] = numbers[i] = len(rows)
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
            fronts[f"{group}/{part['resolution'].iloc[0]}"] = page_fronts(part, numbers)
    shown = [{"title": column.header, "better": column.better} for column in columns]
    return rows, shown, [name.replace("_bytes", " (MiB)").replace("_", " ") for name in extra], places, fronts


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
