"""What was handed to a cluster, and how it stands there."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import MachineError, UserError
from benchmarks.storage.files import read_regular

FOLDER = "jobs"  # below the results: submitit's files, and which run each job does
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED", "RESV_DEL_HOLD", "REQUEUE_FED")
RUNNING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING")


@dataclass(frozen=True)
class JobEntry:
    """A run in the queue, as stored beside submitit's files.

    Attributes:
        job: SLURM's id, as `12_3`.
        name: For people.
        run_id: The run; None while its rate is still to be chosen.
        trials: Ids of the trials that choose it.
        seed: The run's.
        trial: Whether it is one.
    """

    job: str
    name: str
    run_id: str | None
    trials: list[str]
    seed: int
    trial: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """What names the run, before its rate is known and after."""
        return (*self.trials, self.seed) if self.trials else (self.run_id,)

    @property
    def array(self) -> str:
        """The id of the array that its job is of."""
        return self.job.partition("_")[0]


def queued_jobs(results: Path, must_answer: bool = False) -> list[tuple[JobEntry, str]]:
    """Every run that was handed to SLURM from this results folder, with its state in SLURM's words.

    The state is `GONE` where SLURM knows the job no more: it has ended some minutes ago, or was cancelled.

    Args:
        results: The results folder.
        must_answer: Whether SLURM has to be there; else, away from the cluster, all jobs are taken to be gone.

    Raises:
        UserError: A file of ours is damaged.
        MachineError: SLURM must answer, and does not.
    """
    entries = []
    for path in sorted((results / FOLDER).glob("slurm-*/jobs.json")):
        try:
            entries += [JobEntry(**entry) for entry in json.loads(read_regular(path))]
        except (TypeError, ValueError) as error:
            raise UserError(f"jobs must be readable, got {str(path)!r} ({error}): delete it") from error
    states = _slurm_states(must_answer) if entries else {}
    return [(entry, states.get(entry.job, "GONE")) for entry in entries]


def _slurm_states(must_answer: bool) -> dict[str, str]:
    """Of this user's jobs by id. From squeue, which needs no accounting database and knows ended jobs for minutes."""
    command = ["squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        if must_answer:  # what is queued would be queued a second time
            said = getattr(error, "stderr", None) or str(error)
            raise MachineError(f"SLURM must say what is queued, got {' '.join(said.split())!r} of squeue") from error
        return {}
    return dict(line.strip().split("|", 1) for line in listed.splitlines() if "|" in line)
