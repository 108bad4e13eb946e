"""submitit on a real SLURM: several jobs at once, one cancelled, one preempted and one timed out that go on."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import submitit
from slurm_cluster import NUM_CPUS, missing, slurm_cluster
from submitit.helpers import DelayedSubmission


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    if reason := missing():
        pytest.skip(f"NO SLURM, THE CLUSTER IS NOT TESTED: {reason}")
    with slurm_cluster() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # A job starts in this folder with this environment, and unpickles Count by its module's name.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


class Count:
    """Counts to `target` in a file, one a tenth of a second, from where the file stands: a run with its checkpoint."""

    def __init__(self, file: Path, target: int) -> None:
        self.file = file
        self.target = target

    def __call__(self) -> None:
        start = count(self.file)
        with self.file.with_suffix(".starts").open("a") as starts:
            starts.write(f"{start}\n")
        self.file.with_suffix(".devices").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        for number in range(start + 1, self.target + 1):
            time.sleep(0.1)
            temporary = self.file.with_suffix(".temporary")
            temporary.write_text(str(number))
            temporary.replace(self.file)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues again after a time-out."""
        return DelayedSubmission(self)


def count(file: Path) -> int:
    return int(file.read_text()) if file.exists() else 0


def starts(file: Path) -> list[int]:
    """From which number each start of the job counted."""
    return [int(line) for line in file.with_suffix(".starts").read_text().split()]


def submit(folder: Path, *functions: Count, **parameters: object) -> list[submitit.Job[None]]:
    """One job, or an array of several."""
    executor = submitit.SlurmExecutor(folder=folder / "%A", max_num_timeout=3)
    executor.update_parameters(**{"time": 1, "cpus_per_task": 1} | parameters)
    with executor.batch():
        return [executor.submit(function) for function in functions]


def state(job: submitit.Job[None]) -> str:
    """From squeue, which knows ended jobs for a while: submitit asks sacct, which needs a database."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%T", f"--jobs={job.job_id}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def wait_for(state_name: str, *jobs: submitit.Job[None]) -> None:
    wait(lambda: all(state(job) == state_name for job in jobs))


def test_several_at_once_and_an_array_after_them(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.count" for index in range(4)]
    later = tmp_path / "later.count"
    jobs = submit(tmp_path, *(Count(file, 50) for file in files))
    array = jobs[0].job_id.split("_")[0]
    (last,) = submit(tmp_path, Count(later, 1), dependency=f"afterany:{array}")
    wait_for("RUNNING", *jobs)
    assert state(last) == "PENDING"
    wait_for("COMPLETED", *jobs, last)
    assert [count(file) for file in files] == [50] * 4
    assert later.stat().st_mtime >= max(file.stat().st_mtime for file in files)


def test_gpus_of_its_own(tmp_path: Path) -> None:
    jobs = submit(tmp_path, *(Count(tmp_path / f"{index}.count", 30) for index in range(3)), gres="gpu:1")
    wait(lambda: [state(job) for job in jobs] == ["RUNNING", "RUNNING", "PENDING"])
    wait_for("COMPLETED", *jobs)
    devices = [(tmp_path / f"{index}.devices").read_text() for index in range(3)]
    assert sorted(devices[:2]) == ["0", "1"]


def test_cancelled(tmp_path: Path) -> None:
    file, other = tmp_path / "cancelled.count", tmp_path / "other.count"
    cancelled, kept = submit(tmp_path, Count(file, 1000), Count(other, 60))
    wait(lambda: count(file) > 0)
    cancelled.cancel()
    wait_for("CANCELLED", cancelled)
    wait_for("COMPLETED", kept)
    assert 0 < count(file) < 1000
    assert starts(file) == [0]
    assert count(other) == 60


def test_preempted_and_continued(tmp_path: Path) -> None:
    file = tmp_path / "preempted.count"
    (job,) = submit(tmp_path, Count(file, 60))
    wait(lambda: count(file) > 0)
    (urgent,) = submit(tmp_path, Count(tmp_path / "urgent.count", 1), partition="urgent", cpus_per_task=NUM_CPUS)
    wait_for("COMPLETED", urgent, job)
    first, second = starts(file)
    assert first == 0
    assert 0 < second < 60
    assert count(file) == 60


def test_timed_out_and_continued(tmp_path: Path) -> None:
    file = tmp_path / "timed_out.count"
    # A limit is in minutes and SLURM looks every 30 s: with this the warning comes within 30 s of the start.
    submit(tmp_path, Count(file, 1000), signal_delay_s=59)
    wait(lambda: count(file) > 0)
    wait(lambda: len(starts(file)) == 2)
    first, second = starts(file)
    assert first == 0
    assert second > 0
    wait(lambda: count(file) > second)
