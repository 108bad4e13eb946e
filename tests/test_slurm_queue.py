"""What is submitted beside what SLURM already has; SLURM itself is a table of states here."""

import dataclasses
import pickle
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import submitit
from bench_process import TINY, options_of
from fixed_records import make_record
from submitit.slurm.slurm import _make_sbatch_string
from tiny_images import make_images

from benchmarks.config import Disclosure
from benchmarks.errors import MachineError, UserError
from benchmarks.records.record import write_record
from benchmarks.records.stored import trial_results
from benchmarks.suite import slurm, slurm_queue
from benchmarks.suite.plan import make_plan
from benchmarks.suite.slurm_queue import JobEntry
from benchmarks.suite.slurm_settings import SlurmSettings
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

    def _submit_array(self, _: Path, jobs: Sequence[Any], __: SlurmSettings, waits: str | None) -> list[JobEntry]:
        self.dependencies.append(waits)
        self.shares += [pickle.loads(pickle.dumps(work)) for work, _ in jobs]
        entries = [
            dataclasses.replace(entry, job=f"{len(self.dependencies)}_{place}")
            for place, (_, entries) in enumerate(jobs)
            for entry in entries
        ]
        self.jobs += [(entry, "PENDING") for entry in entries]
        return entries

    def submit(self, *options: str, runs_per_job: int = 1) -> tuple[list[str], list[str]]:
        """Names of what was submitted, and of what was there before."""
        asked = ("--launcher", "slurm", "--slurm", "minutes=5", "gpus=0")
        found = options_of("--methods", "linear", *WORDS, "--lr", "1e-3", "1e-2", *options, *asked)
        work = Work.make(make_plan(found), self.folder / "results", "only-missing", 1, disclosure=found.disclosure)
        new, before = slurm.submit_suite(work, SlurmSettings(minutes=5, runs_per_job=runs_per_job))
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


def test_several_runs_are_one_job_each_of_them_listed(cluster: Cluster) -> None:
    assert cluster.submit("--seeds", "0", "1", "2", runs_per_job=2) == ([*TRIALS, *map(run_of, range(3))], [])
    assert [entry.job for entry, _ in cluster.jobs] == ["1_0", "1_0", "2_0", "2_0", "2_1"]
    assert cluster.dependencies == [None, "afterany:1"]
    trials, first, last = (share.plan for share in cluster.shares)
    assert [len(cell.trials) for cell in trials.cells] == [1, 1] and not trials.runs
    assert len(first.cells) == 1 and len(first.trials) == 2
    assert [run.config.seed for run in (*first.runs, *last.runs)] == [0, 1, 2]
    assert cluster.submit("--seeds", "0", "1", "2", "3", runs_per_job=2)[0] == [run_of(3)]


def test_runs_of_several_methods_are_packed_in_order(cluster: Cluster) -> None:
    cluster.submit("--lr", "1e-3", "--methods", "linear", "full", "--seeds", "0", "1", runs_per_job=3)
    runs = [[(run.config.method, run.config.seed) for run in share.plan.runs] for share in cluster.shares]
    expected = [(method, seed) for method in ("full", "linear") for seed in (0, 1)]
    assert sorted(run for names in runs for run in names) == expected
    assert [len(names) for names in runs] == [3, 1]


def test_what_is_done_again_stays_so_in_a_job_of_several(cluster: Cluster) -> None:
    options = options_of("--methods", "linear", *WORDS, "--seeds", "0", "1", "2")
    plan = make_plan(options)
    for run in plan.runs:
        write_record(cluster.folder / "results", make_record("linear") | {"run_id": run.config.run_id})
    work = Work.make(plan, cluster.folder / "results", "overwrite", 1)
    slurm.submit_suite(work, SlurmSettings(minutes=5, runs_per_job=2))
    for share in cluster.shares:
        assert all(share.runs.is_due(run.config.run_id) for run in share.plan.runs)
        assert sorted(share.runs._before) == sorted(run.config.run_id for run in share.plan.runs)


def settings_of(*pairs: str) -> SlurmSettings:
    found = options_of("--methods", "linear", "--launcher", "slurm", "--slurm", "minutes=5", *pairs).slurm
    assert found is not None
    return found


def test_further_options_and_a_setup_reach_the_script_that_sbatch_gets(tmp_path: Path) -> None:
    asked = ("setup=module load cuda  # the newest", "setup=source env.sh", "sbatch.reservation=a b", "partition=long")
    found = settings_of(*asked, "sbatch.exclusive=true", "sbatch.nice=100")
    file = tmp_path / "mine.yaml"
    file.write_text(
        "methods: linear\nlauncher: slurm\nslurm:\n  minutes: 5\n  partition: long\n"
        "  setup: ['module load cuda  # the newest', source env.sh]\n"
        "  sbatch: {reservation: a b, exclusive: true, nice: 100}\n"
    )
    assert options_of("--suite", str(file)).slurm == found
    executor = submitit.SlurmExecutor.__new__(submitit.SlurmExecutor)
    script = _make_sbatch_string("python go.py", tmp_path, **executor._convert_parameters(slurm._parameters(found)))
    lines = script.splitlines()
    assert {"#SBATCH --reservation='a b'", "#SBATCH --exclusive", "#SBATCH --nice=100", "#SBATCH --partition=long"} <= {
        *lines
    }
    begin = lines.index("# setup") + 1
    assert lines[begin : begin + 6] == [
        *("{", "module load cuda  # the newest", "} || exit", "{", "source env.sh", "} || exit")
    ]
    (tmp_path / "a.sh").write_text("\n".join(["{", "false  # no such module", "} || exit", "echo went on"]))
    ended = subprocess.run(["bash", tmp_path / "a.sh"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("sbatch.time=5", "sbatch of slurm must not have what the suite sets itself, got 'time'; use the key minutes"),
        ("sbatch.array=0-3", "sbatch of slurm must not have what the suite sets itself, got 'array'; leave it out"),
        ("sbatch.p=long", "sbatch of slurm must have long names of options, like reservation, got 'p'"),
        ("sbatch=exclusive", "sbatch of slurm must be options of sbatch, like sbatch.reservation=x, got 'exclusive'"),
        ("sbatch.comment=a\n#SBATCH --x", "comment must be one line, got 'a\\n#SBATCH --x'"),
        ("setup=a\nb", "setup of slurm must be one line, got 'a\\nb'"),
        ("runs_per_job=0", "runs_per_job of slurm must be at least 1, got '0'"),
    ],
)
def test_what_sbatch_cannot_have_is_refused(pair: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        settings_of(pair)


def test_an_option_of_sbatch_that_is_switched_off_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "mine.yaml").write_text("methods: linear\nslurm: {minutes: 5, sbatch: {exclusive: false}}")
    with pytest.raises(UserError, match="exclusive of sbatch must be a text, a number or true, got False; or leave it"):
        options_of("--suite", str(file))
