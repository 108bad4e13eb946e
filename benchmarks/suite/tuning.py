"""Choosing a learning rate among a grid, on validation alone: as many trials for every method."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.errors import UserError
from benchmarks.records.record import read_record
from benchmarks.records.schema import Record
from benchmarks.records.stored import trial_results
from benchmarks.scores import preference
from benchmarks.suite.planned import Cell, PlannedRun


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
    """The rate with the best mean validation AUC over the trials' seeds.

    Of equals it is that of the lowest mean validation loss, then the smallest.
    A rate any of whose trials did not come to an end (diverged, out of memory, failed) is out. Where that is all of
    them, the middle of the grid runs, so that what went wrong is seen in the results.

    Returns:
        What a record holds: `grid`, `num_trials`, `seeds`, `val_auc` and `val_loss` by rate (null where a rate is out),
        `chosen`, `at_edge` (whether it is the grid's first or last), `stopped_early` (trials ended at half their
        epochs) and `runs`, the trials' ids.
    """
    grid = trials[0].config.lr_grid
    auc, loss = (_means(trials, records, score) for score in ("auc", "loss"))
    known = {
        # A trial that was stored before losses were is the last among equals.
        rate: preference(mean, math.inf if (its_loss := loss[rate]) is None else its_loss)
        for rate, mean in auc.items()
        if mean is not None
    }
    chosen = max(known, key=lambda rate: (known[rate], -rate)) if known else grid[len(grid) // 2]
    return {
        "grid": list(grid),
        "num_trials": len(trials),
        "seeds": sorted({trial.config.seed for trial in trials}),
        "val_auc": {f"{rate:g}": mean for rate, mean in auc.items()},
        "val_loss": {f"{rate:g}": mean for rate, mean in loss.items()},
        "chosen": chosen,
        "at_edge": bool(known) and chosen in (grid[0], grid[-1]),
        "stopped_early": sum(_stopped(record) for record in records),
        "runs": [trial.config.run_id for trial in trials],
    }


def _means(trials: Sequence[PlannedRun], records: Sequence[Record], score: str) -> dict[float, float | None]:
    """The mean of a validation score over the seeds, by rate; None where a trial of the rate has none."""
    values: dict[float, list[float | None]] = {rate: [] for rate in trials[0].config.lr_grid}
    for trial, record in zip(trials, records, strict=True):
        assert trial.config.lr is not None
        finished = record["status"]["state"] == "ok"
        values[trial.config.lr].append(record["measurements"].get("val", {}).get(score) if finished else None)
    return {
        rate: None if None in found else statistics.fmean(value for value in found if value is not None)
        for rate, found in values.items()
    }


def _stopped(record: Record) -> bool:
    return record["run"].get("selection", {}).get("stopped_after") is not None


def rivals_of(trial: PlannedRun, cell: Cell) -> list[PlannedRun]:
    """What a trial that may be stopped is compared with: the trials of the same cell and seed before it in the plan.

    It starts when all of them have ended, whoever does them, so that its end depends on nothing else.
    """
    if not trial.config.stop_hopeless:
        return []
    before = cell.trials[: cell.trials.index(trial)]
    return [other for other in before if other.config.seed == trial.config.seed]


def val_aucs_of(rivals: Sequence[PlannedRun], results: Path) -> list[list[float]]:
    """Validation AUC by epoch of each trial that has finished; one that diverged, failed or found no memory has none.

    Raises:
        UserError: There is no record of one, or it is damaged.
    """
    records = [read_record(trial_results(results) / "runs" / f"{rival.config.run_id}.json") for rival in rivals]
    finished = [record for record in records if record["status"]["state"] == "ok"]
    return [[epoch["val_auc"] for epoch in record["measurements"].get("history", [])] for record in finished]
