"""What was handed to a cluster, and how it stands there."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import UserError
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
        """What names the run before its rate is known."""
        return (self.run_id,) if self.run_id else (*self.trials, self.seed)


def queued_jobs(results: Path) -> list[tuple[JobEntry, str]]:
    """Every run that was handed to SLURM from this results folder, with its state in SLURM's words.

    The state is `GONE` where SLURM knows the job no more: it has ended some minutes ago, or was cancelled.

    Raises:
        UserError: A file of ours is damaged.
    """
    entries = []
    for path in sorted((results / FOLDER).glob("slurm-*/jobs.json")):
        try:
            entries += [JobEntry(**entry) for entry in json.loads(read_regular(path))]
        except (TypeError, ValueError) as error:
            raise UserError(f"jobs must be readable, got {str(path)!r} ({error}): delete it") from error
    states = _slurm_states() if entries else {}
    return [(entry, states.get(entry.job, "GONE")) for entry in entries]


def _slurm_states() -> dict[str, str]:
    """Of this user's jobs by id. From squeue, which needs no accounting database and knows ended jobs for minutes."""
    command = ["squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}  # not on a machine of the cluster
    return dict(line.strip().split("|", 1) for line in listed.splitlines() if "|" in line)
