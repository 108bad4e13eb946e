"""Hands a suite to SLURM through submitit: an array of jobs, one a trial, and behind it an array of one a run.

A job whose time is over is queued again by submitit, one that is preempted by SLURM itself; either goes on from the
last epoch's checkpoint. Nobody waits for the jobs: their records are in the results folder, which all nodes share.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import submitit

from benchmarks.choices import one_of
from benchmarks.storage.files import write_atomic
from benchmarks.suite.local import Agent, importable
from benchmarks.suite.plan import Cell, Plan, PlannedRun
from benchmarks.suite.slurm_queue import FOLDER, QUEUED, RUNNING, JobEntry, queued_jobs
from benchmarks.suite.suite import Work
from benchmarks.suite.tuning import tuned_runs

MAX_ARRAY = 1000  # jobs: SLURM takes 1001 unless it is configured otherwise


@dataclass(frozen=True)
class SlurmSettings:
    """What to ask of SLURM for each run: the section `slurm` of a suite file, or `--slurm KEY=VALUE ...`.

    Attributes:
        minutes: Time limit; a run that needs more is queued again and goes on.
        gpus: 0, 1 or a kind of GPU, like `a100`.
        cpus: CPU cores.
        memory: Of the host, like `32GB`; None for the partition's default.
        partition, constraint, account, qos: As sbatch takes them; None for the cluster's default.
        at_once: At most so many jobs of an array run at once; None for no limit.
        resubmissions: A run is queued again after its time limit so many times.
        signal_seconds: So long before the limit a job is told.
    """

    minutes: int
    gpus: str = "1"
    cpus: int = 8
    memory: str | None = None
    partition: str | None = None
    constraint: str | None = None
    account: str | None = None
    qos: str | None = None
    at_once: int | None = None
    resubmissions: int = 100
    signal_seconds: int = 120

    @staticmethod
    def parse(settings: Sequence[str]) -> "SlurmSettings":
        """From `KEY=VALUE` each.

        Raises:
            ValueError: A key or value is none.
        """
        fields = {field.name: field for field in dataclasses.fields(SlurmSettings)}
        values: dict[str, Any] = {}
        for setting in settings:
            key, _, text = setting.partition("=")
            field = fields[one_of("key of slurm", fields, key)]
            values[key] = _whole(key, text) if "int" in str(field.type) else text
            if not text:
                raise ValueError(f"slurm must be like partition=gpu, got {setting!r}")
        if "minutes" not in values:
            raise ValueError("slurm must have minutes, the time limit of a run, like --slurm minutes=240; got none")
        return SlurmSettings(**values)

    @property
    def device(self) -> str:
        """Where runs run."""
        return "cpu" if self.gpus == "0" else "cuda:0"

    def parameters(self) -> dict[str, Any]:
        """As submitit's executor takes them."""
        gpus = self.gpus if self.gpus.isdigit() else f"{self.gpus}:1"
        found = {
            "time": self.minutes,
            "gres": None if self.gpus == "0" else f"gpu:{gpus}",
            "cpus_per_task": self.cpus,
            "mem": self.memory,
            "partition": self.partition,
            "constraint": self.constraint,
            "account": self.account,
            "qos": self.qos,
            "array_parallelism": self.at_once or MAX_ARRAY,
            "signal_delay_s": self.signal_seconds,
        }
        return {name: value for name, value in found.items() if value is not None}


def _whole(key: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{key} of slurm must be a whole number of at least 1, got {text!r}")
    return int(text)


def submit_suite(work: Work, settings: SlurmSettings) -> list[JobEntry]:
    """Queues what is due and not queued yet: the trials, then the runs, which wait for these trials' end.

    Raises:
        RuntimeError: SLURM is not there or refuses; the message is its own.
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
    for trial in work.plan.trials:
        if work.trials.is_due(trial.config.run_id):
            yield _share(work, Cell([trial], []), trial), _entry(trial, trial.config.run_id, [])


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
        executor.update_parameters(job_name="bench", **settings.parameters(), **extra)
        with importable(), executor.batch():
            jobs = [executor.submit(Agent(share)) for share, _ in shares]
    except (submitit.core.utils.FailedJobError, RuntimeError, FileNotFoundError) as error:
        raise RuntimeError(f"SLURM must take the jobs, got: {' '.join(str(error).split())}") from error
    entries = [dataclasses.replace(entry, job=job.job_id) for job, (_, entry) in zip(jobs, shares, strict=True)]
    content = json.dumps([asdict(entry) for entry in entries], indent=1)
    write_atomic(folder / "jobs.json", content.encode())
    return entries
