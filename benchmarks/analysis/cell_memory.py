"""GPU memory of cells: of the whole run, of training and of preloading, measured or else predicted."""

from typing import Any

import pandas as pd

from benchmarks.choices import PHASES
from benchmarks.records.whole_run import SOME_RUNS, highest_phase

_PARTS = {"whole": "", "train": "train_", "preload": "preload_"}  # of a run, and what their columns begin with


def cell_memory(good: Any, tried: Any) -> pd.DataFrame:
    """Peaks of cells in bytes, the highest of their runs; a source is never mixed with another.

    Args:
        good: The runs that finished, grouped by cell: only they have seen their peaks.
        tried: All runs, grouped alike: a prediction holds whatever became of a run.

    Returns:
        One row a cell, with the columns that `summary` tells of.
    """
    also = pd.DataFrame({phase: tried[column].count() for phase, column in SOME_RUNS.items()}) > 0
    groups = {"measured": good, "predicted": tried}
    allocated, process = (
        {source: _peaks(group, source, counter, also) for source, group in groups.items()}
        for counter in ("allocated", "process")
    )
    columns: dict[str, pd.Series] = {}
    for part, prefix in _PARTS.items():
        measured, predicted = (allocated[source][part] for source in groups)
        sources = predicted.notna().map({True: "predicted", False: None}).astype("object")
        sources = sources.mask(measured.notna(), "measured")
        columns |= {f"measured_{part}_bytes": measured, f"predicted_{part}_bytes": predicted}
        columns |= {f"{prefix}memory_bytes": measured.fillna(predicted), f"{prefix}memory_source": sources}
        is_measured = sources == "measured"
        columns[f"{prefix}process_bytes"] = process["measured"][part].where(is_measured, process["predicted"][part])
        if part == "whole":
            first, second = (allocated[source]["highest"] for source in groups)
            columns["memory_phase"] = first.where(is_measured, second)
    return pd.DataFrame(columns)


def _peaks(group: Any, source: str, counter: str, also: pd.DataFrame) -> pd.DataFrame:
    """Peaks by phase and of the `whole` run, and which phase is the `highest`; missing unless all are known."""
    columns = {phase: group[f"{source}_{phase}_peak_{counter}_bytes"].max() for phase in PHASES}
    peaks = pd.DataFrame(columns).reindex(also.index)
    found = []
    for values, others in zip(peaks.astype("object").to_numpy(), also.to_numpy(), strict=True):
        known = {phase: None if pd.isna(value) else int(value) for phase, value in zip(PHASES, values, strict=True)}
        needed = [str(phase) for phase, there in zip(also, others, strict=True) if there]
        found.append(highest_phase(known, needed) or (None, None))
    highest, whole = zip(*found, strict=True)
    return peaks.assign(
        highest=pd.Series(highest, peaks.index, dtype="object"), whole=pd.Series(whole, peaks.index, dtype="Int64")
    )
