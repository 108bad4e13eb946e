"""Memory of points as tables: a row a phase and whole run, measured beside predicted, and the breakdown of a peak."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from benchmarks.choices import COUNTERS
from benchmarks.config import Savers, said_words
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction
from benchmarks.records.whole_run import WHOLE_RUN, highest_phase

POINT_COLUMNS = (
    "method",
    "backbone",
    "resolution",
    "batch_size",
    "precision",
    "attention",
    "grad_checkpointing",
    "savers",
)
_SETTING = tuple(name for name in POINT_COLUMNS if name != "resolution")
COLUMNS = (*POINT_COLUMNS, "phase", "source", "status", *COUNTERS)
MIB = 2**20
NO_SAVER = "no saver"


def point_rows(
    point: MemoryPoint, memory: dict[str, Any] | None, status: dict[str, Any], source: str
) -> list[dict[str, Any]]:
    """A row for each phase and one for the whole run, the highest of each counter; what broke off has no bytes.

    Args:
        point: What was measured or predicted.
        memory: Its section of a record: `phases`.
        status: Its `state`, and the `phase` that an error broke off.
        source: `measured` or `predicted`.
    """
    phases = dict(memory["phases"]) if memory else {}
    if status["state"] != "ok":
        phases[status["phase"]] = None
    place = _place(point)
    rows = [
        place
        | {"phase": phase, "source": source, "status": "ok" if peaks else status["state"]}
        | {counter: (peaks or {}).get(counter) for counter in COUNTERS}
        for phase, peaks in phases.items()
    ]
    whole = {"phase": WHOLE_RUN, "source": source, "status": status["state"]}
    for counter in COUNTERS:
        highest = highest_phase({row["phase"]: row[counter] for row in rows})
        whole[counter] = highest[1] if highest and status["state"] == "ok" else None
    return [*rows, place | whole]


def _place(point: MemoryPoint) -> dict[str, Any]:
    """`POINT_COLUMNS` of a point; `method` has its options behind it, as `--methods` takes it."""
    known = {column: getattr(point, column) for column in POINT_COLUMNS if column != "savers"}
    return known | {"method": point.variant, "savers": savers_text(point)}


def savers_text(savers: Savers) -> str:
    """The savers in use in words, in one cell."""
    return ", ".join(said_words(vars(savers))) or "none"


def measured_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a measured point's record."""
    point = MemoryPoint.from_dict(record["point"])
    return point_rows(point, record.get("memory"), record["status"], "measured")


def points_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame with `COLUMNS`; bytes are whole numbers, or missing."""
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(COUNTERS, "Int64"))


def with_measured(frame: pd.DataFrame, records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The frame, and the measured rows of its points."""
    measured = points_frame(row for record in records for row in measured_rows(record))
    points = frame[list(POINT_COLUMNS)].drop_duplicates()
    own = measured.merge(points, on=list(POINT_COLUMNS))
    return pd.concat([frame, own]).drop_duplicates(ignore_index=True)


def compare_frame(pairs: Iterable[tuple[dict[str, Any], Prediction]]) -> pd.DataFrame:
    """Predicted beside measured peaks, a row for each measured point and phase.

    For each counter (allocated, reserved, process) `<counter>_measured_bytes`, `<counter>_predicted_bytes` and
    `<counter>_error_percent`: the prediction's error, missing where the GPU ran out of memory.

    Args:
        pairs: The record of each measured point, and its prediction.
    """
    rows = []
    for record, prediction in pairs:
        phases = prediction.as_record()["phases"]
        for row in measured_rows(record):
            if row["phase"] == WHOLE_RUN:
                continue
            compared = {column: row[column] for column in (*POINT_COLUMNS, "phase", "status")}
            for counter in COUNTERS:
                measured, predicted = row[counter], phases[row["phase"]][counter]
                name = short_name(counter)
                compared[f"{name}_measured_bytes"] = measured
                compared[f"{name}_predicted_bytes"] = predicted
                compared[f"{name}_error_percent"] = None if not measured else round(100 * (predicted / measured - 1), 2)
            rows.append(compared)
    frame = pd.DataFrame(rows)
    kinds = {f"{short_name(counter)}_measured_bytes": "Int64" for counter in COUNTERS}
    return frame.astype(kinds | {f"{short_name(counter)}_error_percent": "float64" for counter in COUNTERS})


def short_name(counter: str) -> str:
    """`allocated` of `peak_allocated_bytes`."""
    return counter.removeprefix("peak_").removesuffix("_bytes")


def breakdown_frame(predictions: Iterable[Prediction]) -> pd.DataFrame:
    """What fills each predicted peak: a row for each point, phase and purpose, the largest first."""
    return pd.DataFrame(
        _place(prediction.point) | {"phase": phase, "purpose": purpose, "bytes": size}
        for prediction in predictions
        for phase, peak in prediction.phases.items()
        for purpose, size in peak.breakdown.items()
    )


def by_resolution(frame: pd.DataFrame) -> pd.DataFrame:
    """Peak allocated memory of whole runs in MiB, as text: a row a setting, a column `<side> px` a resolution.

    What ran out of memory or failed has its status in place of a number.
    """
    whole = readable(frame[frame["phase"] == WHOLE_RUN])
    return _pivot(whole.assign(mib=whole["peak_allocated_mib"].fillna(whole["status"])), (*_SETTING, "source"))


def by_saver(frame: pd.DataFrame) -> pd.DataFrame:
    """The same, what saves memory in one column."""
    shown = by_resolution(frame)
    shown.insert(list(shown).index("method") + 1, "saving", savers_said(shown))
    return shown.drop(columns=["grad_checkpointing", "savers"])


def savers_said(frame: pd.DataFrame) -> pd.Series:
    """The savers of each row in words, gradient checkpointing among them."""
    checkpointing = frame["grad_checkpointing"].map({True: "checkpointing, ", False: ""})
    others = frame["savers"].where(frame["savers"] != "none", "")
    said = (checkpointing + others).str.removesuffix(", ")
    return said.where(said != "", NO_SAVER)


def breakdown_by_resolution(frame: pd.DataFrame) -> pd.DataFrame:
    """A breakdown in MiB, as text: a row a setting, phase and purpose, a column `<side> px` a resolution."""
    return _pivot(readable(frame), (*_SETTING, "phase", "purpose"))


def compare_allocated(frame: pd.DataFrame) -> pd.DataFrame:
    """A comparison in MiB, as text, with the headline counter alone and the factors of a setting in one column."""
    shown, name = readable(frame), short_name(COUNTERS[0])
    factors = shown[["precision", "attention"]].agg(", ".join, axis=1)
    return (
        pd.DataFrame(
            {
                **{column: shown[column] for column in ("backbone", "batch_size", "savers", "status", "method")},
                "px": shown["resolution"],
                "setting": factors + shown["grad_checkpointing"].map({True: ", checkpointing", False: ""}),
                "phase": shown["phase"],
                **{side: shown[f"{name}_{side}_mib"] for side in ("measured", "predicted")},
                "error %": shown[f"{name}_error_percent"],
            }
        )
        .set_index("method")
        .reset_index()
    )


def _pivot(frame: pd.DataFrame, index: tuple[str, ...]) -> pd.DataFrame:
    """The column `mib` over resolution, rows and columns in the order they came."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        key = tuple(row[name] for name in index)
        rows.setdefault(key, dict(zip(index, key, strict=True)))[f"{row['resolution']} px"] = row["mib"]
    sides = [f"{side} px" for side in frame["resolution"].unique()]
    return pd.DataFrame(rows.values(), columns=[*index, *sides])


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame for people: bytes as MiB."""
    shown = frame.copy()
    for column in [name for name in frame.columns if str(name).endswith("bytes")]:
        mebibytes = [None if pd.isna(value) else f"{value / MIB:,.0f}" for value in frame[column]]
        shown[column] = pd.Series(mebibytes, index=frame.index, dtype="object")
    return shown.rename(columns=lambda name: str(name).replace("bytes", "mib"))
