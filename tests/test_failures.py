"""Suites in a world that fails: data that vanishes, runs that hang, memory that ends, damaged files, signals, sharing.

Each suite is a real one, in processes of its own; what these cost is why several faults share a suite.
"""

import json
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from bench_process import TINY, Ended, start, watch
from fixed_records import make_record
from tiny_images import make_images

from benchmarks.records.record import write_record
from benchmarks.suite.planned import Plan
from benchmarks.suite.suite import Work, announce

pytestmark = pytest.mark.process

GIB = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("failures")
    make_images(root / "images")
    return root


def worker_of(process: "subprocess.Popen[str]") -> psutil.Process:
    """The process of the run under way: the other one waits for its run."""
    return min(psutil.Process(process.pid).children(), key=lambda worker: worker.create_time())


@pytest.fixture(scope="module")
def lost_data(folder: Path) -> Ended:
    """Of four datasets one vanishes and one changes once the suite has begun; the run of the third hangs."""
    for name in ("gone", "changed", "stuck"):
        shutil.copytree(folder / "images", folder / name)

    def lose(_: object) -> None:
        shutil.rmtree(folder / "gone")
        shutil.copy(folder / "changed/test/dark/0.png", folder / "changed/train/dark/0.png")

    flags = (*TINY, "--datasets", "gone", "changed", "stuck", "images", "--epochs", "2", "--hang-minutes", "0.5")
    on = {
        "4 runs, 0 of them stored already": lose,
        "[3/4] linear stuck 32 px seed 0: started": lambda suite: worker_of(suite).suspend(),
    }
    return watch(folder, "lost", "--methods", "linear", *flags, on=on)


def by_dataset(folder: Path, results: str) -> dict[str, dict[str, Any]]:
    read = [json.loads(path.read_text()) for path in (folder / results / "runs").glob("*.json")]
    return {record["run"]["config"]["dataset"]: record["status"] for record in read}


def test_runs_on_data_that_is_lost_fail_and_others_go_on(folder: Path, lost_data: Ended) -> None:
    statuses = by_dataset(folder, "lost")
    assert {name: status["state"] for name, status in statuses.items()} == {
        "gone": "failed",
        "changed": "failed",
        "stuck": "failed",
        "images": "ok",
    }
    assert re.match(r"dataset must be .*, got 'gone'; there is no such folder", statuses["gone"]["message"])
    assert statuses["changed"]["message"] == "dataset changed has changed since this suite started; start it again"
    assert f"failed ({statuses['changed']['message']}) in " in lost_data.stderr
    whole = statuses["gone"]["message"].replace("'gone'", f"'{folder}/gone'")  # on the terminal, not in the record
    assert f"failed ({whole}) in " in lost_data.stderr


def test_a_run_that_hangs_is_ended_and_recorded(folder: Path, lost_data: Ended) -> None:
    message = by_dataset(folder, "lost")["stuck"]["message"]
    assert message.startswith("no sign of life for 0.5 min (--hang-minutes), so it was ended; see ")
    assert "[4/4] linear images 32 px seed 0: ok in " in lost_data.stderr


def test_failed_runs_are_summed_up_and_show_in_the_exit_status(lost_data: Ended) -> None:
    assert lost_data.returncode == 1
    assert "runs: 3 failed, 1 ok; records in lost/runs" in lost_data.stderr
    assert "failed runs are tried again with --retry-failed" in lost_data.stderr
    assert "Traceback" not in lost_data.stderr
    assert "Linear probe" in lost_data.stdout


class OutOfMemory(NamedTuple):
    """A run that asks for more memory than there is, one that does not, and the latter again from damaged files."""

    ended: Ended
    again: Ended
    before: dict[str, bytes]
    after: dict[str, bytes]


BIG, SMALL = "images-1536-full-", "images-32-full-"


@pytest.fixture(scope="module")
def out_of_memory(folder: Path) -> OutOfMemory:
    command = ("--methods", "full", *TINY, "--res", "1536", "32", "--attention", "eager", "--batch-size", "10")
    command += ("--epochs", "3", "--precision", "fp32")

    def limit(suite: "subprocess.Popen[str]") -> None:
        resource.prlimit(worker_of(suite).pid, resource.RLIMIT_AS, (9 * GIB, 9 * GIB))  # eager attention: 9.5 GiB

    ended = watch(folder, "oom", *command, on={"[1/2] full images 1536 px seed 0: resizing images: 10 done": limit})
    runs = folder / "oom" / "runs"
    before = {path.name: path.read_bytes() for path in runs.iterdir()}
    (record,) = runs.glob(f"{SMALL}*.json")
    record.write_bytes(record.read_bytes()[:1000])
    checkpoints = folder / "oom" / "checkpoints" / record.stem
    checkpoints.mkdir(parents=True)
    (checkpoints / f"epoch-00002-{'0' * 64}.pt").write_bytes(b"damaged")
    again = watch(folder, "oom", *command, on={})
    return OutOfMemory(ended, again, before, {path.name: path.read_bytes() for path in runs.iterdir()})


def test_host_memory_that_runs_out_is_a_result(out_of_memory: OutOfMemory) -> None:
    ended = out_of_memory.ended
    statuses = {
        name: json.loads(out_of_memory.before[name])["status"] for name in out_of_memory.before if ".json" in name
    }
    (big,) = [status for name, status in statuses.items() if name.startswith(BIG)]
    assert (big["state"], big["phase"]) == ("oom", "train")
    assert big["message"].startswith("host memory: ") and "can't allocate memory" in big["message"]
    assert ended.returncode == 0
    assert "runs: 1 ok, 1 oom; records in oom/runs" in ended.stderr


def test_a_damaged_record_is_named_and_its_run_done_again(out_of_memory: OutOfMemory) -> None:
    again, before, after = out_of_memory.again, out_of_memory.before, out_of_memory.after
    (line,) = [line for line in again.stderr.splitlines() if "record must be readable, got " in line]
    assert line.startswith("note: ") and f"/{SMALL}" in line
    assert again.returncode == 0 and "2 runs, 1 of them stored already" in again.stderr
    assert again.stdout == out_of_memory.ended.stdout
    assert set(after) == set(before)
    changed = [name for name in before if after[name] != before[name]]
    assert len(changed) == 1 and changed[0].startswith(SMALL) and changed[0].endswith(".json")


def test_a_damaged_checkpoint_is_named_and_its_run_begins_again(out_of_memory: OutOfMemory) -> None:
    (line,) = [line for line in out_of_memory.again.stderr.splitlines() if "checkpoint" in line]
    assert re.match(
        r"\[2/2\] full images 32 px seed 0: checkpoint \S+/epoch-00002-0+\.pt is left aside: it is damaged$", line
    )
    first, second = (
        next(json.loads(files[name]) for name in files if name.startswith(SMALL) and ".json" in name)
        for files in (out_of_memory.before, out_of_memory.after)
    )
    assert second["run"]["resumed_after"] == []
    for split in ("val", "test"):
        assert second["measurements"][split] == first["measurements"][split]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', "of another run"])
def test_a_damaged_record_is_due_whatever_the_damage(
    tmp_path: Path, damage: bytes | str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path, make_record("lora") | {"run_id": "a-run"})
    path = write_record(tmp_path, make_record("lora") | {"run_id": "another-run"})
    path.write_bytes(damage if isinstance(damage, bytes) else (tmp_path / "runs" / "a-run.json").read_bytes())
    work = Work.make(Plan([], []), tmp_path, "only-missing", 1)
    assert work.runs.is_due("another-run") and not work.runs.is_due("a-run")
    announce(work)
    assert f"note: record must be readable, got '{path}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signum", "moment"),
    [(signal.SIGTERM, "epoch 2/400"), (signal.SIGHUP, "started"), (signal.SIGINT, "started")],
    ids=["SIGTERM", "SIGHUP", "SIGINT-many-times"],
)
def test_a_signal_ends_a_suite_within_seconds(folder: Path, signum: signal.Signals, moment: str) -> None:
    processes: list[psutil.Process] = []
    began = 0.0

    def stop(suite: "subprocess.Popen[str]") -> None:
        nonlocal began
        processes.extend(psutil.Process(suite.pid).children())
        began = time.monotonic()
        suite.send_signal(signum)
        while signum == signal.SIGINT and suite.poll() is None:
            suite.send_signal(signum)
            time.sleep(0.02)

    command = ("--methods", "full", *TINY, "--epochs", "400")
    ended = watch(folder, signum.name, *command, on={moment: stop})
    assert time.monotonic() - began < 20
    assert ended.returncode == 128 + signum
    said = f"stopped by {signum.name}; what is finished is kept, and the same command goes on from there"
    assert ended.stderr.splitlines()[-1] == said
    assert "Traceback" not in ended.stderr
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    if signum != signal.SIGINT:
        assert ended.records["full"]["status"]["state"] == "interrupted"
        assert ended.records["full"]["status"]["message"] == f"stopped by {signum.name}"


class Shared(NamedTuple):
    """Two suites at the same time on one results folder; the second has all runs of the first and one more."""

    folder: Path
    ended: list["subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def shared(folder: Path) -> Shared:
    command = ("--methods", "linear", *TINY, "--epochs", "2", "--lr", "1e-3", "1e-2", "--results", "shared")
    suites = [start(folder, *command), start(folder, *command, "--seeds", "0", "1")]
    ended = []
    for suite in suites:
        stdout, stderr = suite.communicate()
        ended.append(subprocess.CompletedProcess(suite.args, suite.returncode, stdout, stderr))
    return Shared(folder, ended)


def test_suites_that_share_a_folder_do_each_run_once(shared: Shared) -> None:
    results = shared.folder / "shared"
    started = [line for ended in shared.ended for line in ended.stderr.splitlines() if line.endswith(": started")]
    logs = [*results.glob("logs/*.log"), *results.glob("trials/logs/*.log")]
    assert len(started) == len(logs) == 4
    assert [log.read_text().count("--- ") for log in logs] == [1, 1, 1, 1]
    assert len({line.partition("]")[2] for line in started}) == 4


def test_suites_that_share_a_folder_both_end_with_all_of_it(shared: Shared) -> None:
    for ended, num_runs in zip(shared.ended, (1, 2), strict=True):
        assert ended.returncode == 0, ended.stderr
        assert "trials: 2 ok; records in shared/trials/runs" in ended.stderr
        assert f"runs: {num_runs} ok; records in shared/runs" in ended.stderr
        assert re.search(rf"Linear probe\S* .* {num_runs} ", ended.stdout)
    left = {path.suffix for path in (shared.folder / "shared").rglob("*") if path.is_file()}
    assert not left & {".lease", ".tmp", ".pt"}
