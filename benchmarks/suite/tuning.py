"""Choosing a learning rate among a grid, on validation alone: as many trials for every method."""

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.errors import UserError
from benchmarks.records.record import read_record
from benchmarks.records.schema import Record
from benchmarks.records.stored import trial_results
from benchmarks.suite.plan import Cell, PlannedRun


def tuned_runs(cell: Cell, results: Path) -> list[PlannedRun] | None:
    """The runs of a cell with the rate that its trials chose; None while a trial has no record or was interrupted.

    Args:
        cell: With or without trials.
        results: The results folder.
    """
    if not cell.trials or not cell.runs:
        return cell.runs
    records: list[Record] = []
    for trial in cell.trials:
        path = trial_results(results) / "runs" / f"{trial.config.run_id}.json"
        try:
            records.append(read_record(path))
        except UserError:  # not there, or damaged
            return None
        if records[-1]["status"]["state"] == "interrupted":
            return None
    tuning = choose(cell.trials, records)
    return [replace(run, config=replace(run.config, lr=tuning["chosen"]), tuning=tuning) for run in cell.runs]


def choose(trials: Sequence[PlannedRun], records: Sequence[Record]) -> dict[str, Any]:
    """The rate with the best mean validation AUC over the trials' seeds, the smaller of equals.

    A rate any of whose trials did not come to an end (diverged, out of memory, failed) is out. Where that is all of
    them, the middle of the grid runs, so that what went wrong is seen in the results.

    Returns:
        What a record holds: `grid`, `num_trials`, `seeds`, `val_auc` by rate (null where a rate is out), `chosen`,
        `at_edge` (whether it is the grid's first or last), `stopped_early` (trials ended at half their epochs) and
        `runs`, the trials' ids.
    """
    grid = trials[0].config.lr_grid
    scores: dict[float, list[float | None]] = {rate: [] for rate in grid}
    for trial, record in zip(trials, records, strict=True):
        finished = record["status"]["state"] == "ok"
        scores[trial.config.lr].append(record["measurements"].get("val", {}).get("auc") if finished else None)
    means = {rate: _mean(values) for rate, values in scores.items()}
    known = {rate: mean for rate, mean in means.items() if mean is not None}
    chosen = max(known, key=lambda rate: (known[rate], -rate)) if known else grid[len(grid) // 2]
    return {
        "grid": list(grid),
        "num_trials": len(trials),
        "seeds": sorted({trial.config.seed for trial in trials}),
        "val_auc": {f"{rate:g}": mean for rate, mean in means.items()},
        "chosen": chosen,
        "at_edge": bool(known) and chosen in (grid[0], grid[-1]),
        "stopped_early": sum(_stopped(record) for record in records),
        "runs": [trial.config.run_id for trial in trials],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _stopped(record: Record) -> bool:
    return record["run"].get("selection", {}).get("stopped_after") is not None


def rivals_of(trial: PlannedRun, cell: Cell, results: Path) -> list[list[float]]:
    """Validation AUC by epoch of the finished trials of the same cell and seed that come before one."""
    histories = []
    for other in cell.trials[: cell.trials.index(trial)]:
        if other.config.seed != trial.config.seed:
            continue
        path = trial_results(results) / "runs" / f"{other.config.run_id}.json"
        with contextlib.suppress(UserError):  # another process has it, or does it again
            history = read_record(path)["measurements"].get("history", [])
            histories.append([epoch["val_auc"] for epoch in history])
    return histories
