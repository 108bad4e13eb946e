"""Memory on the page: a point for each setting, method and resolution, of runs and of what was measured apart."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.choices import PHASES
from benchmarks.memory.measured import Record
from benchmarks.memory.needs import needed_bytes
from benchmarks.memory.point import MemoryPoint
from benchmarks.names import variant_title
from benchmarks.records.whole_run import SOME_RUNS, highest_phase
from methods import TITLES

SETTING = ("backbone", "batch_size", "precision", "attention", "grad_checkpointing")
_SOURCES = ("measured", "predicted")
_OF_RUNS = [
    *("run_id", "method", "resolution", "device", "device_type", "state", *SETTING, *SOME_RUNS.values()),
    *(f"{source}_{phase}_peak_allocated_bytes" for source in _SOURCES for phase in PHASES),
]

Point = dict[str, Any]


def run_points(frame: pd.DataFrame, labels: Sequence[str | None]) -> Iterator[Point]:
    """The memory of every run that the table counts, measured and predicted.

    Args:
        frame: the runs.
        labels: of each run that of its row in the table; None where it has none.
    """
    runs = frame[_OF_RUNS].astype("object")
    for run, label in zip(runs.where(runs.notna(), None).to_dict("records"), labels, strict=True):
        if label is None:
            continue
        place = {name: run[name] for name in ("method", "resolution", "device")}
        place |= {"setting": setting_of(run), "label": label, "record": run["run_id"]}
        also = [phase for phase, column in SOME_RUNS.items() if run[column] is not None]
        for source in _SOURCES:
            peaks = {phase: run[f"{source}_{phase}_peak_allocated_bytes"] for phase in PHASES}
            # Only a run that finished has seen its peak.
            out = source == "measured" and run["state"] == "oom" and run["device_type"] == "cuda"
            if out or source == "predicted" or run["state"] == "ok":
                yield from make_point(place, source, {} if out else peaks, out, also)


def measured_points(measured: Mapping[str, Record]) -> Iterator[Point]:
    """The memory that `bench.py memory --measure` stored, by `measured_name`."""
    for name, record in measured.items():
        point = MemoryPoint.from_dict(record["point"])
        live = [] if point.preload else ["live features"]
        label = variant_title(TITLES.get(point.method, point.method), dict(point.options), live)
        place = {
            "method": point.method,
            "resolution": point.resolution,
            "device": record.get("environment", {}).get("device"),
        }
        place |= {"setting": setting_of(point.as_dict()), "label": label}
        place["record"] = name
        phases = (record.get("memory") or {"phases": {}})["phases"]
        peaks = {phase: (phases.get(phase) or {}).get("peak_allocated_bytes") for phase in PHASES}
        yield from make_point(place, "measured", peaks, record["status"]["state"] == "oom", [])


def measured_name(path: Path) -> str:
    """What the page calls the record of a measured point: its place below the results, without the suffix."""
    return f"measured/{path.parent.name}/{path.stem}"


def highest_points(points: Sequence[Point]) -> list[Point]:
    """One point for each setting, method, resolution and source: the one that needs most."""
    chosen: dict[tuple[Any, ...], Point] = {}
    for point in points:
        key = tuple(point[name] for name in ("setting", "label", "resolution", "source"))
        chosen.setdefault(key, point)
        if (point["needs"] or 0) > (chosen[key]["needs"] or 0):
            chosen[key] = point
    return sorted(chosen.values(), key=lambda point: (point["setting"], point["resolution"]))


def make_point(
    place: Point, source: str, peaks: Mapping[str, int | None], out_of_memory: bool, also: Sequence[str]
) -> Iterator[Point]:
    """The point of a place, or none where too little is known.

    Args:
        place: What it is of.
        source: `measured` or `predicted`.
        peaks: In bytes, by phase.
        out_of_memory: Whether the card was too small.
        also: As that of `highest_phase`.
    """
    known = {phase: int(value) for phase, value in peaks.items() if value is not None}
    highest = highest_phase(known, also)
    if out_of_memory:
        yield place | {"source": source, "oom": True, "run": None, "train": None, "preload": None, "needs": None}
    elif highest is not None:
        phases = {phase: known.get(phase) for phase in ("train", "preload")}
        yield place | {"source": source, "oom": False, "run": highest[1], **phases, "needs": needed_bytes(highest[1])}


def setting_of(values: Mapping[Any, Any]) -> str:
    """What memory depends on beside method and resolution, in words."""
    backbone, batch_size, precision, attention, checkpointing = (values[name] for name in SETTING)
    words = f"{backbone}, batch size {batch_size}, {precision}, {attention} attention"
    return words + (", gradient checkpointing" if checkpointing else "")
