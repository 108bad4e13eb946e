"""What it takes to reach a validation AUC: epochs, seconds, joules and money, from the stored histories.

Counted is what a run does from its start until the end of the first epoch whose validation AUC is that high: set-up,
features (what computing them took, also where a run found them computed), preparation, compiling, then training and
validation epoch by epoch. Trials of learning rates, importing and resizing of images are not: they are the suite's.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.records.schema import Record

BEFORE = ("setup", "prepare", "compile")  # parts of a run that come before its first epoch, features apart


@dataclass(frozen=True)
class Reached:
    """What one run took.

    Attributes:
        epoch: The first epoch that is as good, from 1; None where none is.
        seconds: Until its end, or of all epochs.
        joules: The same of the GPU's energy; None where that was not counted.
    """

    epoch: int | None
    seconds: float
    joules: float | None


def reached(record: Record, val_auc: float) -> Reached | None:
    """What a run took to reach a validation AUC (0-1); None where its history or its seconds are not known."""
    measured: Mapping[str, Any] = record["measurements"]
    history, seconds = measured.get("history") or [], measured.get("seconds") or {}
    if not history or any(entry.get("seconds") is None or entry.get("val_auc") is None for entry in history):
        return None
    first = next((place for place, entry in enumerate(history, start=1) if entry["val_auc"] >= val_auc), None)
    done = history[: first or len(history)]
    validated = (seconds.get("validate") or 0.0) / len(history) * len(done)
    preload = measured.get("preload") or {}
    before = sum(seconds.get(part) or 0.0 for part in BEFORE) + (preload.get("seconds") or 0.0)
    joules: Mapping[str, float] = measured.get("joules") or {}
    energy = None
    if joules and all(entry.get("joules") is not None for entry in done) and _counted(preload, joules):
        energy = sum(joules.get(part, 0.0) for part in (*BEFORE, "preload")) + sum(entry["joules"] for entry in done)
    return Reached(first, before + sum(entry["seconds"] for entry in done) + validated, energy)


def _counted(preload: Mapping[str, Any], joules: Mapping[str, float]) -> bool:
    """Whether the energy of the features is known: not that of a run which found them computed."""
    return not preload or ("preload" in joules and not preload.get("reused"))


def reach_table(
    table: pd.DataFrame, records: Mapping[str, Record], val_auc: float, price: float | None = None
) -> pd.DataFrame:
    """One row a cell, the fastest first in each dataset, protocol and resolution.

    Args:
        table: As `summary` gives it.
        records: By run id.
        val_auc: To be reached (0-1).
        price: Of an hour of the device.

    Returns:
        Columns: dataset, protocol, resolution, method, reached (seeds), seeds, epoch, seconds, least_seconds and
        most_seconds, hours (of the device), joules and, with a price, cost: medians over all seeds, of which one that
        never reaches it counts as later than any; missing where that is half of them or more.
    """
    rows = list(_rows(table, records, val_auc, price))
    found = pd.DataFrame(rows)
    if found.empty:
        return found
    return found.sort_values(
        ["dataset", "protocol", "resolution", "seconds"], kind="stable", na_position="last"
    ).reset_index(drop=True)


def _rows(
    table: pd.DataFrame, records: Mapping[str, Record], val_auc: float, price: float | None
) -> Iterator[dict[str, Any]]:
    for _, cell in table.iterrows():
        runs = [reached(records[name], val_auc) for name in str(cell["run_ids"] or "").split() if name in records]
        known = [run for run in runs if run is not None]
        if not known:
            continue
        seconds = _median([run.seconds if run.epoch else math.inf for run in known])
        energy = [run.joules if run.epoch else math.inf for run in known]
        row = {
            "dataset": cell["dataset_label"],
            "protocol": cell["block"],
            "resolution": cell["resolution"],
            "method": cell["label"],
            "reached": sum(run.epoch is not None for run in known),
            "seeds": len(known),
            "epoch": _median([run.epoch or math.inf for run in known]),
            "seconds": seconds,
            "least_seconds": min((run.seconds for run in known if run.epoch), default=None),
            "most_seconds": max((run.seconds for run in known if run.epoch), default=None),
            "hours": None if seconds is None else seconds / 3600,
            "joules": None if None in energy else _median([value for value in energy if value is not None]),
        }
        yield row if price is None else row | {"cost": None if seconds is None else seconds / 3600 * price}


def _median(values: Sequence[float]) -> float | None:
    """None where it is not finite."""
    value = statistics.median(values)
    return value if math.isfinite(value) else None
