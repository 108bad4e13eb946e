"""Suites on a real SLURM: several runs at once, one cancelled, one preempted and one timed out, which all go on."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from absent import without
from bench_process import TINY, finish, records
from fault_injection import scores
from inside import finish_inside
from slurm_cluster import NUM_CPUS, missing, slurm_cluster
from tiny_images import make_images

from benchmarks.records.record import load_records
from benchmarks.suite.run_status import list_runs

pytestmark = [pytest.mark.cluster, pytest.mark.process]

WORDS = [word for word in TINY if word not in ("--device", "cpu")]
PATIENCE = 240.0  # seconds


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    if reason := missing():
        without(f"NO SLURM, THE CLUSTER IS NOT TESTED: {reason}")
    with contextlib.ExitStack() as stack:
        try:
            environment = stack.enter_context(slurm_cluster())
        except RuntimeError as error:  # installed, but not allowed to run here
            without(f"NO SLURM, THE CLUSTER IS NOT TESTED: {error}")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slurm")
    make_images(root / "images")
    return root


def submit(folder: Path, results: str, *options: str, slurm: tuple[str, ...] = ()) -> str:
    """Hands a suite to SLURM; returns what was said."""
    settings = {"minutes": "5", "gpus": "0", "cpus": "1"} | dict(setting.split("=", 1) for setting in slurm)
    asked = ["--launcher", "slurm", "--slurm", *(f"{key}={value}" for key, value in settings.items())]
    ended = finish(folder, *WORDS, "--results", results, *options, *asked)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def rows(folder: Path, results: str) -> list[dict[str, Any]]:
    found, problems = list_runs(folder / results)
    assert not problems
    return found


def statuses(folder: Path, results: str) -> list[str]:
    return [row["status"] for row in rows(folder, results)]


def cancel(said: str, name: str) -> None:
    """Cancels the job of a run, by what was said when it was submitted."""
    (job,) = [line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith("job ") and name in line]
    subprocess.run(["scancel", job], check=True)


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.2)


def wait_for_epoch(folder: Path, results: str, method: str, epoch: int) -> None:
    """Until a run has trained so long, and so has checkpoints."""
    logs = folder / results / "logs"
    wait(lambda: any(f" epoch {epoch}/" in log.read_text() for log in logs.glob(f"*{method}*.log")))


def test_a_grid_with_trials_goes_through_the_queue(folder: Path) -> None:
    grid = ("--methods", "vpt_shallow", "--lr", "1e-3", "1e-2", "--seeds", "0", "1", "--epochs", "2")
    said = submit(folder, "grid", *grid)
    assert "4 jobs submitted" in said
    seen: set[str] = set()
    at_once = 0
    while True:
        now = statuses(folder, "grid")
        seen |= set(now)
        at_once = max(at_once, now.count("running"))
        if set(now) == {"done"}:
            break
        assert "lost" not in now and "failed" not in now
        time.sleep(0.2)
    assert {"queued", "running", "done"} <= seen and at_once >= 2
    listed = finish_inside(folder, "list", "runs", "--format", "json", "--results", "grid")
    assert [(row["kind"], row["status"], row["result"]) for row in json.loads(listed.stdout)] == [
        *[("trial", "done", "ok")] * 2,
        *[("run", "done", "ok")] * 2,
    ]
    assert "0 jobs submitted" in submit(folder, "grid", *grid)
    assert finish_inside(folder, *WORDS, "--device", "cpu", *grid, "--results", "local").returncode == 0
    local, queued = (
        {record["run_id"]: scores(record) for record in load_records(folder / results)[0]}
        for results in ("local", "grid")
    )
    assert len(local) == 2 and queued == local


def test_the_same_command_with_more_seeds_waits_for_trials_that_are_queued(folder: Path) -> None:
    everything = ["sbatch", "--parsable", f"--cpus-per-task={NUM_CPUS}", "--output=/dev/null", "--wrap=sleep 600"]
    blocker = subprocess.run(everything, check=True, capture_output=True, text=True).stdout.strip()
    wait(lambda: queue("%i %T").get(blocker) == "RUNNING")
    grid = ("--methods", "linear", "--lr", "1e-3", "1e-2", "--epochs", "1", "--seeds")
    first = submit(folder, "seeds", *grid, "0")
    assert "3 jobs submitted; " in first
    more = submit(folder, "seeds", *grid, "0", "1")
    assert "1 jobs submitted, 3 were queued or running already; " in more
    trials, run = (
        next(line.split()[1] for line in said.splitlines() if line.startswith("job ")) for said in (first, more)
    )
    assert f"afterany:{trials.partition('_')[0]}_" in queue("%i %E")[run.rstrip(":")]
    subprocess.run(["scancel", blocker], check=True)
    wait(lambda: statuses(folder, "seeds") == ["done"] * 4)
    logs = [*(folder / "seeds").glob("logs/*.log"), *(folder / "seeds").glob("trials/logs/*.log")]
    assert [log.read_text().count("--- ") for log in logs] == [1] * 4


def queue(columns: str) -> dict[str, str]:
    """What squeue says of each job: its id, and a column more."""
    listed = subprocess.run(
        ["squeue", "--noheader", "--array", f"--format={columns}"], check=True, capture_output=True, text=True
    ).stdout
    return dict(line.split(maxsplit=1) for line in listed.splitlines())


def test_a_run_that_fails_is_said_to_have_failed(folder: Path) -> None:
    submit(folder, "failing", "--methods", "linear", "--precision", "fp32", slurm=("gpus=1",))
    wait(lambda: statuses(folder, "failing") == ["failed"])
    (row,) = rows(folder, "failing")
    assert row["message"].startswith("device must be one of 0 GPUs seen here, got 'cuda:0'")


def test_a_cancelled_run_is_lost_until_the_same_command_goes_on(folder: Path) -> None:
    command = ("--methods", "linear", "vpt_shallow", "--epochs", "120")
    said = submit(folder, "cancelled", *command)
    wait_for_epoch(folder, "cancelled", "vpt_shallow", 3)
    cancel(said, "vpt_shallow")
    wait(lambda: sorted(statuses(folder, "cancelled")) == ["done", "lost"])
    assert "1 jobs submitted" in submit(folder, "cancelled", *command)
    wait(lambda: statuses(folder, "cancelled") == ["done", "done"])


def test_a_preempted_run_goes_on_from_its_last_epoch(folder: Path) -> None:
    command = ("--methods", "vpt_shallow", "--epochs", "120")
    submit(folder, "preempted", *command)
    wait_for_epoch(folder, "preempted", "vpt_shallow", 3)
    everything = ["srun", "--partition=urgent", f"--cpus-per-task={NUM_CPUS}", "true"]
    subprocess.run(everything, check=True, capture_output=True)
    wait(lambda: statuses(folder, "preempted") == ["done"])
    (record,) = records(folder / "preempted").values()
    assert len(record["run"]["resumed_after"]) == 1 and record["run"]["resumed_after"][0] >= 2
    assert finish_inside(folder, *WORDS, "--device", "cpu", *command, "--results", "calm").returncode == 0
    (calm,) = records(folder / "calm").values()
    assert scores(record) == scores(calm)


def test_a_run_whose_time_is_over_is_queued_again(folder: Path) -> None:
    # SLURM looks every 30 s and may tell a job a minute early: with this 20 to 75 s after its start.
    command = ("--methods", "vpt_shallow", "--epochs", "3000")
    said = submit(folder, "timed", *command, slurm=("minutes=2", "signal_seconds=75"))
    logs = folder / "timed" / "logs"
    wait(lambda: any("goes on after epoch" in log.read_text() for log in logs.glob("*.log")))
    (record,) = records(folder / "timed").values()
    assert record["status"]["message"] == "stopped by the cluster, to be queued again"
    cancel(said, "vpt_shallow")


def test_what_slurm_refuses_is_one_line(folder: Path) -> None:
    asked = ["--launcher", "slurm", "--slurm", "minutes=1", "gpus=0", "partition=no-such"]
    ended = finish_inside(folder, "--methods", "linear", *WORDS, "--results", "refused", *asked)
    assert ended.returncode == 2
    assert "SLURM must take the jobs, got: " in ended.stderr.splitlines()[-1]
    assert "invalid partition" in ended.stderr.splitlines()[-1]


def test_short_runs_are_packed_into_jobs_behind_their_setup(folder: Path) -> None:
    grid = ("--methods", "linear", "--lr", "1e-3", "1e-2", "--epochs", "1", "--seeds", "0", "1", "2")
    packed = ("runs_per_job=2", "setup=echo done >> set-up", "sbatch.comment=two runs each")
    said = submit(folder, "packed", *grid, slurm=packed)
    assert "3 jobs submitted for 5 runs; " in said
    assert "two runs each" in set(queue("%i %k").values())
    wait(lambda: statuses(folder, "packed") == ["done"] * 5)
    found = [record for results in ("packed/trials", "packed") for record in load_records(folder / results)[0]]
    assert sorted(record["environment"]["process"] for record in found) == ["fresh"] * 3 + ["reused"] * 2
    assert (folder / "set-up").read_text() == "done\n" * 3


def test_a_job_whose_setup_fails_does_nothing(folder: Path) -> None:
    submit(folder, "unset", "--methods", "linear", slurm=("setup=module-that-is-not-there",))
    wait(lambda: statuses(folder, "unset") == ["lost"])
    (error,) = (folder / "unset/jobs").glob("slurm-*/*.err")
    assert "module-that-is-not-there: command not found" in error.read_text()
