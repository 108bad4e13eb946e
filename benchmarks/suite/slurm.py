"""Hands a suite to SLURM through submitit: an array of jobs, one a trial, and behind it an array of one a run.

Trials that wait for one another (`--stop-hopeless`) are one job.

A job whose time is over is queued again by submitit, one that is preempted by SLURM itself; either goes on from the
last epoch's checkpoint. Nobody waits for the jobs: their records are in the results folder, which all nodes share.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import submitit

from benchmarks.errors import MachineError
from benchmarks.storage.files import write_atomic
from benchmarks.suite.local import Agent, importable
from benchmarks.suite.options import SlurmSettings
from benchmarks.suite.plan import Cell, Plan, PlannedRun
from benchmarks.suite.slurm_queue import FOLDER, QUEUED, RUNNING, JobEntry, queued_jobs
from benchmarks.suite.suite import Work
from benchmarks.suite.tuning import rivals_of, tuned_runs

MAX_ARRAY = 1000  # jobs: SLURM takes 1001 unless it is configured otherwise


def submit_suite(work: Work, settings: SlurmSettings) -> list[JobEntry]:
    """Queues what is due and not queued yet: the trials, then the runs, which wait for these trials' end.

    Raises:
        MachineError: SLURM is not there or refuses; the message is its own.
    """
    folder = work.results / FOLDER
    active = {entry.key for entry, state in queued_jobs(work.results) if state in (*QUEUED, *RUNNING)}
    entries: list[JobEntry] = []
    waits: list[str] = []
    for shares in (list(_trials(work)), list(_runs(work))):
        new = [(share, entry) for share, entry in shares if entry.key not in active]
        for start in range(0, len(new), MAX_ARRAY):
            entries += _submit_array(folder, new[start : start + MAX_ARRAY], settings, waits)
        if not waits:
            arrays = dict.fromkeys(entry.job.partition("_")[0] for entry in entries)
            waits = [f"afterany:{':'.join(arrays)}"] if arrays else []
    return entries


def _trials(work: Work) -> Iterator[tuple[Work, JobEntry]]:
    for cell in work.plan.cells:
        due = [trial for trial in cell.trials if work.trials.is_due(trial.config.run_id)]
        waited_for = {rival.config.run_id for trial in due for rival in rivals_of(trial, cell)}
        for trial in due:
            if trial.config.run_id not in waited_for:  # else the job of the last that waits for it does it as well
                share = _share(work, Cell([*rivals_of(trial, cell), trial], []), trial)
                yield share, _entry(trial, trial.config.run_id, [])


def _runs(work: Work) -> Iterator[tuple[Work, JobEntry]]:
    for cell in work.plan.cells:
        trials = [trial.config.run_id for trial in cell.trials]
        tuned = None if any(map(work.trials.is_due, trials)) else tuned_runs(cell, work.results)
        for run in tuned or cell.runs:
            if tuned is None or work.runs.is_due(run.config.run_id):
                run_id = None if tuned is None else run.config.run_id
                yield _share(work, Cell(cell.trials, [run]), run), _entry(run, run_id, trials)


def _entry(run: PlannedRun, run_id: str | None, trials: list[str]) -> JobEntry:
    return JobEntry("", run.title, run_id, trials, run.config.seed, run.config.trial)


def _share(work: Work, cell: Cell, run: PlannedRun) -> Work:
    beginning = run.config.run_id.rpartition("-")[0]  # without the hash, which the rate will change
    return dataclasses.replace(
        work, plan=Plan([cell], []), runs=work.runs.part(beginning), trials=work.trials.part(beginning)
    )


def _submit_array(
    folder: Path, shares: list[tuple[Work, JobEntry]], settings: SlurmSettings, waits: list[str]
) -> list[JobEntry]:
    folder = folder / f"slurm-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=settings.resubmissions)
        extra = {"dependency": waits[0]} if waits else {}
        executor.update_parameters(job_name="bench", **_parameters(settings), **extra)
        with importable(), executor.batch():
            jobs = [executor.submit(Agent(share)) for share, _ in shares]
    except (submitit.core.utils.FailedJobError, RuntimeError, FileNotFoundError) as error:
        raise MachineError(f"SLURM must take the jobs, got: {' '.join(str(error).split())}") from error
    entries = [dataclasses.replace(entry, job=job.job_id) for job, (_, entry) in zip(jobs, shares, strict=True)]
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
    }
    return {name: value for name, value in found.items() if value is not None}
