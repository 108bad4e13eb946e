"""What is submitted beside what SLURM already has; SLURM itself is a table of states here."""

import dataclasses
import pickle
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bench_process import TINY, options_of
from fixed_records import make_record
from tiny_images import make_images

from benchmarks.config import Disclosure
from benchmarks.errors import MachineError
from benchmarks.records.record import write_record
from benchmarks.records.stored import trial_results
from benchmarks.suite import slurm, slurm_queue
from benchmarks.suite.options import SlurmSettings
from benchmarks.suite.plan import make_plan
from benchmarks.suite.slurm_queue import JobEntry
from benchmarks.suite.suite import Work

WORDS = [word for word in TINY if word not in ("--device", "cpu")]


class Cluster:
    """A SLURM that only queues.

    Attributes:
        jobs: What was handed to it, with its state.
        dependencies: Of each array, in the order of submission.
        shares: What jobs do, as it comes to their nodes.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.jobs, self.dependencies = folder, list[tuple[JobEntry, str]](), list[str | None]()
        self.shares = list[Work]()
        monkeypatch.setattr(slurm, "_submit_array", self._submit_array)
        monkeypatch.setattr(slurm, "queued_jobs", lambda *_, must_answer: self.jobs)

    def _submit_array(self, _: Path, shares: Sequence[Any], __: SlurmSettings, waits: str | None) -> list[JobEntry]:
        self.dependencies.append(waits)
        self.shares += [pickle.loads(pickle.dumps(share)) for share, _ in shares]
        entries = [
            dataclasses.replace(entry, job=f"{len(self.dependencies)}_{place}")
            for place, (_, entry) in enumerate(shares)
        ]
        self.jobs += [(entry, "PENDING") for entry in entries]
        return entries

    def submit(self, *options: str) -> tuple[list[str], list[str]]:
        """Names of what was submitted, and of what was there before."""
        asked = ("--launcher", "slurm", "--slurm", "minutes=5", "gpus=0")
        found = options_of("--methods", "linear", *WORDS, "--lr", "1e-3", "1e-2", *options, *asked)
        work = Work.make(make_plan(found), self.folder / "results", "only-missing", 1, disclosure=found.disclosure)
        new, before = slurm.submit_suite(work, SlurmSettings(minutes=5))
        return [entry.name for entry in new], [entry.name for entry in before]

    def finish_trials(self) -> None:
        """All trials end, with a record each; the runs are still queued."""
        for entry, _ in self.jobs:
            if entry.trial:
                write_record(trial_results(self.folder / "results"), make_record("linear") | {"run_id": entry.run_id})
        self.jobs = [(entry, "COMPLETED" if entry.trial else state) for entry, state in self.jobs]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return Cluster(tmp_path, monkeypatch)


def run_of(seed: int) -> str:
    return f"linear images 32 px seed {seed}"


TRIALS = [f"{run_of(0)} trial lr {rate}" for rate in ("0.001", "0.01")]


def test_what_records_may_tell_reaches_the_nodes(cluster: Cluster) -> None:
    cluster.submit("--record-host", "--hash-names")
    assert cluster.shares and {share.disclosure for share in cluster.shares} == {Disclosure(True, True)}
    ids = {run.config.run_id for share in cluster.shares for run in share.plan.trials}
    cluster.jobs.clear()
    cluster.submit()
    assert cluster.shares[-1].disclosure == Disclosure(False, False)
    assert {run.config.run_id for share in cluster.shares for run in share.plan.trials} == ids


def test_more_seeds_wait_for_trials_that_are_queued(cluster: Cluster) -> None:
    assert cluster.submit() == ([*TRIALS, run_of(0)], [])
    assert cluster.dependencies == [None, "afterany:1"]
    assert cluster.submit("--seeds", "0", "1") == ([run_of(1)], [*TRIALS, run_of(0)])
    assert cluster.dependencies[2:] == ["afterany:1"]
    assert cluster.submit("--seeds", "0", "1") == ([], [*TRIALS, run_of(0), run_of(1)])


def test_a_run_that_is_queued_is_not_queued_again_once_its_rate_is_known(cluster: Cluster) -> None:
    cluster.submit()
    cluster.finish_trials()
    assert cluster.submit("--seeds", "0", "1") == ([run_of(1)], [run_of(0)])
    assert cluster.dependencies[2:] == [None]


def test_seeds_that_choose_too_wait_for_the_new_trials_and_the_old(cluster: Cluster) -> None:
    cluster.submit("--trial-seeds", "all")
    new, before = cluster.submit("--trial-seeds", "all", "--seeds", "0", "1")
    assert before == TRIALS and len(new) == 4
    assert cluster.dependencies[2:] == [None, "afterany:3:1"]


def test_nothing_is_submitted_where_slurm_does_not_say_what_is_queued(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="slurm_load_jobs error:\nTimed out\n")

    (jobs := cluster.folder / "results/jobs/slurm-1/jobs.json").parent.mkdir(parents=True)
    jobs.write_text('[{"job": "1_0", "name": "a", "run_id": "a", "trials": [], "seed": 0, "trial": false}]')
    monkeypatch.setattr(slurm, "queued_jobs", slurm_queue.queued_jobs)
    monkeypatch.setattr("subprocess.run", fail)
    assert [state for _, state in slurm_queue.queued_jobs(cluster.folder / "results")] == ["GONE"]
    with pytest.raises(MachineError, match="SLURM must say what is queued, got 'slurm_load_jobs error: Timed out' of"):
        cluster.submit()
    assert cluster.dependencies == []
