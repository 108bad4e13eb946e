"""bench.py run --dry-run: what a suite has done and has to do, a row a cell, and what that takes."""

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.commands.printing import markdown_table, print_narrow
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction
from benchmarks.memory.prediction_cache import predict_points, stored_predictions
from benchmarks.memory.table import MIB
from benchmarks.records.frame import load_frame
from benchmarks.records.stored import is_due, trial_results
from benchmarks.storage.notes import say
from benchmarks.suite.estimate import Basis, Duration, Estimate, Predict, Probe, estimate_cells
from benchmarks.suite.planned import Cell, Plan
from benchmarks.suite.probe import Steps, probe_points
from benchmarks.suite.tuning import tuned_runs

NONE = "–"  # of what a method without gradients has not
_DETAILS = (
    "images MiB",
    "features MiB",
    "training MiB",
    "trials",
    "batch",
    "epochs",
    "lr",
    "runs",
    "seeds",
)  # where it is narrow
MOST_NEW = 100  # predictions that are made unasked: a minute at most


def show_plan(
    plan: Plan, results: Path, policy: str, predict_all: bool, probe: bool = False, verbose: bool = False
) -> None:
    """Prints the cells to stdout; notes and totals go to stderr.

    Args:
        plan: The suite.
        results: The results folder.
        policy: What of stored runs is done again, as `StoredStates` takes it.
        predict_all: Whether to predict memory however many predictions there are to make.
        probe: Whether to time steps of runs of whose time nothing stored tells.
        verbose: Whether to show all columns, however wide the terminal is.
    """
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    (stored, damaged), (trials, damaged_trials) = load_frame(results), load_frame(trial_results(results))
    for problem in (*damaged, *damaged_trials):
        print(problem, file=sys.stderr)
    states: dict[str, str] = {}
    for frame in (trials, stored):
        states |= dict(zip(frame["run_id"], frame["state"], strict=True))
    places = plan.cells[0].runs[0].places
    device = torch.device(places.device)
    prober = _prober(device) if probe else None
    estimates, disk = estimate_cells(plan.cells, stored, _predictor(places.cache, predict_all), prober)
    num_due: list[int] = []
    rows: list[dict[str, Any]] = []
    for cell, estimate in zip(plan.cells, estimates, strict=True):
        tuned = tuned_runs(cell, results)
        found = [states.get(run.config.run_id) for run in (*cell.trials, *(tuned or cell.runs))]
        num_due.append(sum(is_due(state, policy) for state in found))
        counts = Counter(state for state in found if state is not None)
        stored_counts = ", ".join(f"{count} {state}" for state, count in counts.items())
        rows.append(_row(cell, tuned[0].config.lr if tuned else None, estimate, stored_counts, num_due[-1]))
    if verbose:
        print(markdown_table(pd.DataFrame(rows), disable_numparse=True))
    else:
        print_narrow(pd.DataFrame(rows), _DETAILS, "--verbose", disable_numparse=True)
    _say_totals(plan, estimates, disk, num_due)
    _say_time(estimates, num_due, "GPU-hours" if device.type == "cuda" else "device-hours", probe)


def _predictor(cache: Path, predict_all: bool) -> Predict:
    def predict(points: Sequence[MemoryPoint]) -> dict[MemoryPoint, Prediction]:
        print("memory is predicted for an NVIDIA GPU: of the whole run, and of training alone", file=sys.stderr)
        known = stored_predictions(points, cache)
        fresh = [point for point in points if point not in known]
        if len(fresh) > MOST_NEW and not predict_all:
            print(
                f"memory and features of {len(fresh)} settings are left blank, not predicted yet: "
                "the same command with --predict-all does it, about half a second each",
                file=sys.stderr,
            )
            return known
        made = predict_points(fresh, cache, say)
        bar = track(made, "predicting memory", len(fresh), console=Console(stderr=True), transient=True)
        return known | {prediction.point: prediction for prediction in (bar if fresh else made)}

    return predict


def _prober(device: torch.device) -> Probe:
    def probe(points: Sequence[MemoryPoint]) -> dict[MemoryPoint, Steps | None]:
        print(f"timing a few steps of {len(points)} settings on this machine", file=sys.stderr)
        found = probe_points(points, device, say)
        return dict(track(found, "timing steps", len(points), console=Console(stderr=True), transient=True))

    return probe


def _row(cell: Cell, chosen: float | None, estimate: Estimate, stored: str, num_due: int) -> dict[str, Any]:
    config = cell.runs[0].config
    best = f"best of {len(config.lr_grid)}" if config.lr_grid else ""
    rate = _rate(config.lr) if not best else best if chosen is None else f"{chosen:g}, {best}"
    trains = config.epochs is not None
    return {
        "method": cell.runs[0].name,
        "dataset": cell.runs[0].dataset_label or config.dataset,
        "res": config.resolution,
        "seeds": ranges([run.config.seed for run in cell.runs]),
        "epochs": config.epochs if trains else NONE,
        "batch": config.batch_size,
        "lr": rate,
        "memory MiB": _mebibytes(estimate.run_bytes, 0),
        "training MiB": _mebibytes(estimate.train_bytes, 0) if trains else NONE,
        "images MiB": _mebibytes(estimate.image_bytes, 1),
        "features MiB": _mebibytes(estimate.feature_bytes or None, 1),
        "minutes a run": _minutes(estimate.duration),
        "trials": len(cell.trials) or "",
        "runs": len(cell.runs),
        "stored": stored,
        "to do": num_due or "",
    }


def _minutes(found: Duration | None) -> str:
    if found is None:
        return "unknown"
    low, high = (f"{(seconds + found.once) / 60:,.1f}" for seconds in (found.low, found.high))
    if found.basis == "scaled":
        return f"{low} to {high} (from {found.resolution} px)"
    return f"{low} (probed)" if found.basis == "probed" else low


def _rate(rate: float | None) -> str:
    return NONE if rate is None else f"{rate:g}"


def _mebibytes(value: int | None, decimals: int) -> str:
    return "" if value is None else f"{value / MIB:,.{decimals}f}"


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers for reading: `0-2, 7`."""
    ordered = sorted(numbers)
    ends = [i for i, (one, two) in enumerate(pairwise(ordered), start=1) if two != one + 1]
    parts = [ordered[begin:end] for begin, end in pairwise([0, *ends, len(ordered)])]
    return ", ".join(f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _say_totals(plan: Plan, estimates: Sequence[Estimate], disk: int, num_due: Sequence[int]) -> None:
    """Runs and disk, as far as that is known."""
    trials = f"{len(plan.trials)} trials and " if plan.trials else ""
    print(f"{trials}{len(plan.runs)} runs in {len(plan.cells)} cells, {sum(num_due)} to do", file=sys.stderr)
    features = (
        "features" if all(e.feature_bytes is not None for e in estimates) else "those features that are predicted"
    )
    print(
        f"disk: {disk / 2**30:,.2f} GiB of images and {features} in all, those already there included", file=sys.stderr
    )


_BASES: dict[Basis, str] = {
    "stored": "{} from stored runs of the same kind",
    "probed": "{} from steps probed on this machine, without reading images",
    "scaled": "{} from stored runs at another resolution, by the number of tokens to its square",
}


def _say_time(estimates: Sequence[Estimate], num_due: Sequence[int], unit: str, probed: bool) -> None:
    """Hours of what is to do, what they rest on, and of how much nothing tells."""
    due = [(count, found.duration) for count, found in zip(num_due, estimates, strict=True) if count]
    known = [(count, duration) for count, duration in due if duration is not None]
    unknown = sum(count for count, _ in due) - sum(count for count, _ in known)
    hint = "" if probed else "; --probe times a few steps of each kind"
    if not known:
        if unknown:
            print(f"time: unknown for {unknown} to do, as no stored run is like them{hint}", file=sys.stderr)
        return
    once = sum(duration.once for _, duration in known)
    ends = [(sum(count * getattr(found, end) for count, found in known) + once) / 3600 for end in ("low", "high")]
    hours = " to ".join(dict.fromkeys(f"{end:,.0f}" if end >= 10 else f"{end:.2g}" for end in ends))
    counts = {basis: sum(count for count, duration in known if duration.basis == basis) for basis in _BASES}
    rests = [text.format(counts[basis]) for basis, text in _BASES.items() if counts[basis]]
    rest = f"; unknown for {unknown}{hint}" if unknown else ""
    print(f"time: {hours} {unit}: {', '.join(rests)}{rest}", file=sys.stderr)
