"""Memory of points as tables: one row a point and phase, measured beside predicted, and the breakdown of a peak."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from benchmarks.phases import MemoryPoint

POINT_COLUMNS = ("method", "backbone", "resolution", "batch_size", "precision", "attention", "grad_checkpointing")
COUNTERS = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes")
COLUMNS = (*POINT_COLUMNS, "phase", "source", "status", *COUNTERS)
MIB = 2**20


def point_rows(
    point: MemoryPoint, memory: dict[str, Any] | None, status: dict[str, Any], source: str
) -> list[dict[str, Any]]:
    """A row for each phase; the phase that broke off has no bytes.

    Args:
        point: What was measured or predicted.
        memory: Its section of a record: `phases`.
        status: Its `state`, and the `phase` that an error broke off.
        source: `measured` or `predicted`.
    """
    phases = dict(memory["phases"]) if memory else {}
    if status["state"] != "ok":
        phases[status["phase"]] = None
    place = {column: getattr(point, column) for column in POINT_COLUMNS}
    return [
        place
        | {"phase": phase, "source": source, "status": "ok" if peaks else status["state"]}
        | {counter: (peaks or {}).get(counter) for counter in COUNTERS}
        for phase, peaks in phases.items()
    ]


def measured_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a measured point's record."""
    point = MemoryPoint.from_dict(record["point"])
    return point_rows(point, record.get("memory"), record["status"], "measured")


def points_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame with `COLUMNS`; bytes are whole numbers, or missing."""
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(COUNTERS, "Int64"))


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame for people: bytes as MiB."""
    shown = frame.copy()
    for column in [name for name in frame.columns if str(name).endswith("_bytes")]:
        mebibytes = [None if pd.isna(value) else f"{value / MIB:,.0f}" for value in frame[column]]
        shown[column] = pd.Series(mebibytes, index=frame.index, dtype="object")
    return shown.rename(columns=lambda name: str(name).replace("_bytes", "_mib"))
