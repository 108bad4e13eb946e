"""Models in use on the page: what each costs, and what it scores on other images; nothing where neither is stored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.analysis.evidence import Evidence
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.stored_costs import StoredCost, read_costs
from benchmarks.names import variant_title
from benchmarks.report.other_data import HOW, other_data, parts_of
from benchmarks.report.page_panels import Sections, panel, panel_table
from methods import TITLES

COSTS_SAID = (
    "What each model costs in use, from pixels in memory to logits, by images at a time, as bench.py cost --store has "
    "found it. s: seconds of an image; images a second; MiB: peak allocated memory on an NVIDIA GPU, predicted; "
    "measured: the same on the GPU that was timed; GFLOPs: of an image. A task: MiB to store for each trained model; "
    "shared: MiB to store once for all tasks. Merged: with what was added merged into the weights. Two sides are those "
    "of two networks, both of which run."
)
_MIB = 2**20


def use_panels(
    results: Path, frame: pd.DataFrame, evidence: Mapping[str, Evidence], mix_code: bool, nameless: bool
) -> tuple[Sections, list[str]]:
    """The sections of the page on models in use, and a line for each stored file that cannot be shown.

    Args:
        results: the results root.
        frame: its runs.
        evidence: theirs.
        mix_code: whether runs that different code has trained are averaged.
        nameless: whether to leave out the models of CPUs.

    Returns:
        The sections and the lines.
    """
    costs, problems = read_costs(results)
    if nameless:
        costs = [cost | {"timed_on": "a CPU"} if cost.get("device_type") == "cpu" else cost for cost in costs]
    table, faults = other_data(results, frame, evidence, mix_code)
    panels = []
    if costs:
        panels.append(panel("use", "What using a model costs", COSTS_SAID, _costs(costs)))
    if len(table):
        panels.append(panel("elsewhere", "On other images", HOW, map(panel_table, parts_of(table))))
    return {"use": panels}, problems + faults


def _costs(costs: list[StoredCost]) -> list[dict[str, Any]]:
    """A table for each backbone, setting and device; a row has all batch sizes of a method, merged or not."""
    timed = {_key(cost) for cost in costs if cost.get("timed_on")}
    tables: dict[str, dict[tuple[Any, ...], dict[int, StoredCost]]] = {}
    for cost in costs:
        if cost.get("timed_on") or _key(cost) not in timed:
            point = cost["point"]
            row = (point["resolution"], point["method"], str(point["options"]), cost["merged"])
            tables.setdefault(_setting(cost), {}).setdefault(row, {})[point["batch_size"]] = cost
    return [{"caption": caption} | _cost_table(rows) for caption, rows in sorted(tables.items())]


def _key(cost: StoredCost) -> tuple[str, bool]:
    return MemoryPoint.from_dict(cost["point"]).name, cost["merged"]


def _setting(cost: StoredCost) -> str:
    point = cost["point"]
    timed = f"time of {cost['timed_on']}" if cost.get("timed_on") else "not timed"
    return (
        f"{point['backbone']}, {point['num_classes']} classes, {point['precision']}, {point['attention']} attention; "
        f"{timed}."
    )


def _cost_table(rows: dict[tuple[Any, ...], dict[int, StoredCost]]) -> dict[str, Any]:
    order = list(TITLES)
    sizes = sorted({size for found in rows.values() for size in found})
    made = []
    for (resolution, method, _, merged), found in sorted(
        rows.items(),
        key=lambda item: (item[0][0], order.index(item[0][1]) if item[0][1] in order else len(order), item[0]),
    ):
        first = found[min(found)]
        label = variant_title(TITLES.get(method, method), dict(first["point"]["options"]))
        cells = {"Method": label + ", merged" * merged, "Sides (px)": " + ".join(map(str, first["views"]))}
        for size in sizes:
            cells |= _of_size(size, found.get(size))
        cells |= {"GFLOPs": _number(first["flops"] / 1e9)}
        cells |= {"A task": _mib(first["task_bytes"]), "Shared": _mib(first["shared_bytes"])}
        made.append({"label": label, "resolution": resolution, "cells": cells})
    columns = [name for name in made[0]["cells"] if any(row["cells"][name] != "–" for row in made)]
    shown = [row | {"cells": [row["cells"][name] for name in columns]} for row in made]
    return {"columns": columns, "rows": shown}


def _of_size(size: int, cost: StoredCost | None) -> dict[str, str]:
    cost = cost or {}
    seconds = cost.get("seconds")
    return {
        f"s, {size}": "–" if seconds is None else _number(seconds / size),
        f"Images/s, {size}": "–" if seconds is None else _number(size / seconds),
        f"MiB, {size}": _mib(cost.get("predicted_bytes")),
        f"Measured, {size}": _mib(cost.get("measured_bytes")),
    }


def _mib(value: int | None) -> str:
    return "–" if value is None else _number(value / _MIB)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or not value else f"{value:.3g}"
