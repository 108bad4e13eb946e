"""Hands a suite to SLURM through submitit: an array of jobs, one a trial, and behind it an array of one a run.

Trials that wait for one another (`--stop-hopeless`) are one job; with `runs_per_job` so are several trials or runs.

A job whose time is over is queued again by submitit, one that is preempted by SLURM itself; either goes on from the
last epoch's checkpoint. Nobody waits for the jobs: their records are in the results folder, which all nodes share.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import submitit

from benchmarks.errors import MachineError
from benchmarks.storage.files import write_atomic
from benchmarks.suite.local import Agent, importable
from benchmarks.suite.planned import Cell, Plan, PlannedRun
from benchmarks.suite.slurm_queue import FOLDER, QUEUED, RUNNING, JobEntry, queued_jobs
from benchmarks.suite.slurm_settings import SlurmSettings
from benchmarks.suite.suite import Work
from benchmarks.suite.tuning import rivals_of, tuned_runs

Share = tuple[Cell, JobEntry]  # the smallest part of a job, and what is stored about it
ArrayJob = tuple[Work, list[JobEntry]]  # what a job does, and what is stored about each of its runs

MAX_ARRAY = 1000  # jobs: SLURM takes 1001 unless it is configured otherwise


def submit_suite(work: Work, settings: SlurmSettings) -> tuple[list[JobEntry], list[JobEntry]]:
    """Queues what is due and not queued yet: the trials, then the runs, which wait for the end of all their trials.

    Returns:
        What was queued now, and what is due and was queued before.

    Raises:
        MachineError: SLURM is not there or refuses; the message is its own.
    """
    known = queued_jobs(work.results, must_answer=True)
    active = {entry.key: entry for entry, state in known if state in (*QUEUED, *RUNNING)}
    new_trials, trials_before = _divide(_trials(work), active)
    new_runs, runs_before = _divide(_runs(work), active)
    trials = _submit(work, new_trials, settings, None)
    awaited = {run_id for _, entry in new_runs for run_id in entry.trials}
    waits = dict.fromkeys(entry.array for entry in trials)
    waits |= dict.fromkeys(entry.array for entry in trials_before if entry.run_id in awaited)
    runs = _submit(work, new_runs, settings, f"afterany:{':'.join(waits)}" if waits else None)
    return trials + runs, trials_before + runs_before


def _divide(shares: Iterable[Share], active: Mapping[tuple[Any, ...], JobEntry]) -> tuple[list[Share], list[JobEntry]]:
    """What is not in the queue, and the entries of what is."""
    shares = list(shares)
    new = [(share, entry) for share, entry in shares if entry.key not in active]
    return new, [active[entry.key] for _, entry in shares if entry.key in active]


def _submit(work: Work, shares: Sequence[Share], settings: SlurmSettings, waits: str | None) -> list[JobEntry]:
    """Queues shares in as few arrays as SLURM takes; `waits` says after what, in SLURM's words."""
    size, entries = settings.runs_per_job, list[JobEntry]()
    jobs = [_job(work, shares[start : start + size]) for start in range(0, len(shares), size)]
    for start in range(0, len(jobs), MAX_ARRAY):
        entries += _submit_array(work.results / FOLDER, jobs[start : start + MAX_ARRAY], settings, waits)
    return entries


def _trials(work: Work) -> Iterator[Share]:
    for cell in work.plan.cells:
        due = [trial for trial in cell.trials if work.trials.is_due(trial.config.run_id)]
        waited_for = {rival.config.run_id for trial in due for rival in rivals_of(trial, cell)}
        for trial in due:
            if trial.config.run_id not in waited_for:  # else the job of the last that waits for it does it as well
                yield Cell([*rivals_of(trial, cell), trial], []), _entry(trial, trial.config.run_id, [])


def _runs(work: Work) -> Iterator[Share]:
    for cell in work.plan.cells:
        trials = [trial.config.run_id for trial in cell.trials]
        tuned = None if any(map(work.trials.is_due, trials)) else tuned_runs(cell, work.results)
        for run in tuned or cell.runs:
            if tuned is None or work.runs.is_due(run.config.run_id):
                run_id = None if tuned is None else run.config.run_id
                yield Cell(cell.trials, [run]), _entry(run, run_id, trials)


def _entry(run: PlannedRun, run_id: str | None, trials: list[str]) -> JobEntry:
    return JobEntry("", run.title, run_id, trials, run.config.seed, run.config.trial)


def _job(work: Work, shares: Sequence[Share]) -> ArrayJob:
    """One job of several shares: runs that the same trials choose for are one cell."""
    cells: list[Cell] = []
    for cell, _ in shares:
        if cells and cell.runs and cells[-1].trials == cell.trials:
            cells[-1] = Cell(cell.trials, cells[-1].runs + cell.runs)
        else:
            cells.append(cell)
    runs = [(cell.runs or cell.trials)[-1].config.run_id for cell, _ in shares]
    beginnings = tuple(run_id.rpartition("-")[0] for run_id in runs)  # without the hash, which the rate will change
    own = dataclasses.replace(
        work, plan=Plan(cells, []), runs=work.runs.part(beginnings), trials=work.trials.part(beginnings)
    )
    return own, [entry for _, entry in shares]


def _submit_array(folder: Path, work: Sequence[ArrayJob], settings: SlurmSettings, waits: str | None) -> list[JobEntry]:
    folder = folder / f"slurm-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=settings.resubmissions)
        extra = {"dependency": waits} if waits else {}
        executor.update_parameters(job_name="bench", **_parameters(settings), **extra)
        with importable(), executor.batch():
            jobs = [executor.submit(Agent(own)) for own, _ in work]
    except (submitit.core.utils.FailedJobError, RuntimeError, FileNotFoundError) as error:
        raise MachineError(f"SLURM must take the jobs, got: {' '.join(str(error).split())}") from error
    of_jobs = zip(jobs, work, strict=True)
    entries = [dataclasses.replace(entry, job=job.job_id) for job, (_, found) in of_jobs for entry in found]
    content = json.dumps([asdict(entry) for entry in entries], indent=1)
    write_atomic(folder / "jobs.json", content.encode())
    return entries


def _parameters(settings: SlurmSettings) -> dict[str, Any]:
    """As submitit's executor takes them."""
    gpus = settings.gpus if settings.gpus.isdigit() else f"{settings.gpus}:1"
    found = {
        "time": settings.minutes,
        "gres": None if settings.gpus == "0" else f"gpu:{gpus}",
        "cpus_per_task": settings.cpus,
        "mem": settings.memory,
        "partition": settings.partition,
        "constraint": settings.constraint,
        "account": settings.account,
        "qos": settings.qos,
        "array_parallelism": settings.at_once or MAX_ARRAY,
        "signal_delay_s": settings.signal_seconds,
        # A shell goes on behind a command that fails; in braces, a comment at its end does no harm.
        "setup": [line for command in settings.setup for line in ("{", command, "} || exit")] or None,
        "additional_parameters": {name: text == "true" or text for name, text in settings.sbatch.items()} or None,
    }
    return {name: value for name, value in found.items() if value is not None}
