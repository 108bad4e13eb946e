"""Suites end to end, in processes of their own: what they store, say, repeat, skip and survive."""

import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
import pytest
from bench_process import TINY, finish, options_of, records, start
from fault_injection import scores
from fixed_records import make_record
from inside import finish_inside
from tiny_images import COUNTS, make_images

from benchmarks.records.record import write_record
from benchmarks.records.schema import STATES
from benchmarks.records.stored import DONE, POLICIES, StoredStates
from methods import METHODS

pytestmark = pytest.mark.process

METHODS_RUN = ("linear", "fpt", "full")


class Suite(NamedTuple):
    """A suite that has ended."""

    folder: Path
    ended: "subprocess.CompletedProcess[str]"
    records: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite")
    make_images(root / "images")
    return root


@pytest.fixture(scope="module")
def suite(folder: Path) -> Suite:
    ended = finish(folder, "--methods", *METHODS_RUN, *TINY, "--epochs", "2")
    return Suite(folder, ended, records(folder / "results"))


def predictions(folder: Path, results: str, method: str) -> bytes:
    (path,) = (folder / results / "runs").glob(f"images-32-{method}-s0-*.predictions.csv")
    return path.read_bytes()


def test_every_run_is_stored_whole(suite: Suite) -> None:
    assert suite.ended.returncode == 0, suite.ended.stderr
    assert set(suite.records) == set(METHODS_RUN)
    for method, record in suite.records.items():
        assert record["status"] == {"state": "ok", "message": None, "phase": None}
        run, measured = record["run"], record["measurements"]
        assert run["method"]["title"] == METHODS[method].title
        assert run["input"]["effective_resolution"] == run["input"]["resolution"] == 32
        assert run["dataset"]["counts"] == {split: {"bright": n, "dark": n} for split, n in COUNTS.items()}
        assert run["input"]["augmented"] == {"full": ["image"]}.get(method, AUGMENTED.get(method, ([], []))[1])
        assert run["weights"]["source"] == "none" and not run["weights"]["fallback"]
        assert [epoch["epoch"] for epoch in measured["history"]] == [1, 2]
        assert measured["history"][-1]["lr"] == pytest.approx(0, abs=1e-9)
        assert measured["val"]["auc"] == max(epoch["val_auc"] for epoch in measured["history"])
        assert measured["memory"] is None and measured["predicted_memory"]["source"] == "predicted"
        assert measured["host_peak_bytes"] > 2**27
        assert record["environment"]["device_type"] == "cpu"


def test_the_seconds_of_a_run_add_up(suite: Suite) -> None:
    for record in suite.records.values():
        seconds = dict(record["measurements"]["seconds"])
        total = seconds.pop("total")
        assert sum(seconds.values()) == pytest.approx(total)
        assert min(seconds.values()) >= -0.01
        assert {"import", "setup", "images", "train", "validate", "test", "other"} <= set(seconds)


def test_predictions_lie_beside_each_record(suite: Suite) -> None:
    for record in suite.records.values():
        frame = pd.read_csv(suite.folder / "results" / "runs" / f"{record['run_id']}.predictions.csv")
        of_classes = ["prob_bright", "prob_dark", "logit_bright", "logit_dark"]
        assert list(frame.columns) == ["split", "path", "label", *of_classes]
        assert dict(frame["split"].value_counts()) == {"val": 2 * COUNTS["val"], "test": 2 * COUNTS["test"]}
        assert (frame["path"] == frame["split"] + "/" + frame["label"] + "/" + frame["path"].str[-5:]).all()
        assert (frame["prob_bright"] + frame["prob_dark"]).tolist() == pytest.approx([1.0] * len(frame))
        odds = frame["prob_bright"] / (1 + np.exp(frame["logit_dark"] - frame["logit_bright"])) ** -1
        assert odds.tolist() == pytest.approx([1.0] * len(frame))
        test = frame[frame["split"] == "test"]
        right = (test["prob_bright"] > 0.5) == (test["label"] == "bright")
        assert right.mean() == pytest.approx(record["measurements"]["test"]["accuracy"])


def test_tables_and_plots_are_written_and_nothing_else_is_left(suite: Suite) -> None:
    results = suite.folder / "results"
    assert {path.suffix for path in (results / "tables").iterdir()} >= {".md", ".csv", ".tex"}
    assert {path.suffix for path in (results / "plots").iterdir()} == {".png", ".pdf"}
    names = {record["run_id"] for record in suite.records.values()}
    expected = {f"{name}{suffix}" for name in names for suffix in (".json", ".predictions.csv", ".model.safetensors")}
    assert {path.name for path in (results / "runs").iterdir()} == expected
    assert {path.name for path in (results / "logs").iterdir()} == {f"{name}.log" for name in names}
    assert not list(results.glob("checkpoints/*"))
    assert not [path for path in (suite.folder / ".cache").rglob("*") if "partial" in path.name]


def test_stdout_is_the_table_alone_and_stderr_tells_the_rest(suite: Suite) -> None:
    stdout, stderr = suite.ended.stdout, suite.ended.stderr
    for method in METHODS_RUN:
        assert METHODS[method].title in stdout
    assert "random weights" in stdout
    assert not any(word in stdout for word in ("epoch 1/2", "note:", "records in", "tables and plots"))
    assert "[3/3] fpt images 32 px seed 0: epoch 2/2" in stderr
    assert "runs: 3 ok; records in results/runs" in stderr
    assert "tables and plots: results/plots, results/tables" in stderr
    assert "Traceback" not in stderr and "Warning" not in stderr


def test_the_same_command_again_does_nothing_but_show(suite: Suite) -> None:
    files = {path: path.stat().st_mtime_ns for path in (suite.folder / "results" / "runs").iterdir()}
    again = finish_inside(suite.folder, "--methods", *METHODS_RUN, *TINY, "--epochs", "2")
    assert again.returncode == 0
    assert "3 runs, 3 of them stored already" in again.stderr and "epoch" not in again.stderr
    assert again.stdout == suite.ended.stdout
    assert {path: path.stat().st_mtime_ns for path in (suite.folder / "results" / "runs").iterdir()} == files


def test_a_run_repeats_bit_for_bit_without_anything_cached(suite: Suite) -> None:
    flags = ("--epochs", "2", "--results", "repeated", "--cache", "fresh")
    assert finish_inside(suite.folder, "--methods", "fpt", "full", *TINY, *flags).returncode == 0
    for method, record in records(suite.folder / "repeated").items():
        first = suite.records[method]
        assert record["run_id"] == first["run_id"]
        assert scores(record) == scores(first)
        assert predictions(suite.folder, "repeated", method) == predictions(suite.folder, "results", method)


AUGMENTED: dict[str, tuple[list[str], list[str]]] = {
    "linear": (["image"], []),
    "fpt": (["image_low"], ["image_low"]),
}


def test_preloaded_features_train_as_live_ones_where_these_are_not_augmented(suite: Suite) -> None:
    flags = ("--epochs", "2", "--results", "live", "--preload", "off")
    assert finish_inside(suite.folder, "--methods", "linear", "fpt", *TINY, *flags).returncode == 0
    for method, record in records(suite.folder / "live").items():
        cached = suite.records[method]
        seen = (record["run"]["input"]["augmented"], cached["run"]["input"]["augmented"])
        assert seen == AUGMENTED[method]
        assert (record["run"]["config"]["preload"], cached["run"]["config"]["preload"]) == (False, True)
        assert "preload" not in record["measurements"]["seconds"]
        assert cached["measurements"]["cache_bytes"] > 0
        if seen[0] != seen[1]:  # they did not see the same images
            continue
        for split in ("val", "test"):
            live, kept = record["measurements"][split], cached["measurements"][split]
            assert live["auc"] == kept["auc"] and live["loss"] == pytest.approx(kept["loss"], abs=1e-4)


def test_a_loss_that_is_not_finite_is_a_result(folder: Path) -> None:
    command = ("--methods", "linear", *TINY, "--epochs", "2", "--lr", "1e30", "--results", "diverged")
    ended = finish_inside(folder, *command)
    record = records(folder / "diverged")["linear"]
    assert record["status"]["state"] == "diverged"
    assert "must stay finite" in record["status"]["message"]
    assert "try a smaller --lr" in ended.stderr and "runs: 1 diverged" in ended.stderr
    assert ended.returncode == 0
    assert "diverged" in ended.stdout


class Broken(NamedTuple):
    """A suite whose first run was killed and whose last run the user stopped, and the same command again."""

    folder: Path
    returncode: int
    stderr: str
    records: dict[str, dict[str, Any]]
    again: "subprocess.CompletedProcess[str]"
    records_after: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def broken(folder: Path) -> Broken:
    command = ("--methods", "full", "linear", "vpt_shallow", *TINY, "--epochs", "40", "--results", "broken")
    process = start(folder, *command)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("[1/3]") and "epoch 3/40" in line:
            workers = psutil.Process(process.pid).children()
            min(workers, key=lambda worker: worker.create_time()).kill()  # the younger one waits for its run
        elif line.startswith("[3/3]") and "epoch 3/40" in line:
            process.send_signal(signal.SIGINT)
    process.communicate()
    stored = records(folder / "broken")
    again = finish(folder, *command)
    return Broken(folder, process.returncode, "".join(lines), stored, again, records(folder / "broken"))


def test_a_killed_run_is_recorded_and_the_others_go_on(broken: Broken) -> None:
    status = broken.records["full"]["status"]
    assert status["state"] == "interrupted"
    assert status["message"].startswith("the run's process was killed (SIGKILL)")
    assert broken.records["linear"]["status"]["state"] == "ok"


def test_ctrl_c_keeps_what_is_finished(broken: Broken) -> None:
    assert broken.returncode == 130
    said = "stopped by SIGINT; what is finished is kept, and the same command goes on from there"
    assert broken.stderr.splitlines()[-1] == said
    assert "Traceback" not in broken.stderr
    assert broken.records["vpt_shallow"]["status"]["state"] == "interrupted"
    assert broken.records["vpt_shallow"]["status"]["message"] == "stopped by SIGINT"


def test_the_same_command_goes_on_after_ctrl_c(broken: Broken) -> None:
    assert "3 runs, 1 of them stored already" in broken.again.stderr
    assert broken.again.returncode == 0
    assert broken.records_after["linear"] == broken.records["linear"]
    for method in ("full", "vpt_shallow"):
        record = broken.records_after[method]
        assert record["status"]["state"] == "ok"
        assert len(record["run"]["resumed_after"]) == 1 and record["run"]["resumed_after"][0] >= 2
        log = (broken.folder / "broken" / "logs" / f"{record['run_id']}.log").read_text()
        assert log.count("--- ") == 2 and "goes on after epoch" in log and "epoch 40/40" in log


def test_a_killed_suite_takes_its_processes_along_and_leaves_no_false_record(folder: Path) -> None:
    process = start(folder, "--methods", "full", "linear", *TINY, "--epochs", "400", "--results", "killed")
    assert process.stderr is not None
    next(line for line in process.stderr if "epoch 1/400" in line)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert records(folder / "killed") == {}


@pytest.mark.parametrize("state", [None, *STATES])
def test_what_is_due(tmp_path: Path, state: str | None) -> None:
    if state is not None:
        write_record(tmp_path, make_record("lora", state=state) | {"run_id": "a-run"})
    stored = {policy: StoredStates(tmp_path, policy) for policy in POLICIES}
    due = {policy: states.is_due("a-run") for policy, states in stored.items()}
    assert due["overwrite"]
    assert due["only-missing"] == (state in (None, "interrupted"))
    assert due["retry-failed"] == (state not in DONE)
    assert {states.state("a-run") for states in stored.values()} == {state}


def test_what_was_done_again_since_is_not_due_again(tmp_path: Path) -> None:
    write_record(tmp_path, make_record("lora", state="failed") | {"run_id": "a-run"})
    stored = {policy: StoredStates(tmp_path, policy) for policy in POLICIES}
    assert [states.is_due("a-run") for states in stored.values()] == [False, True, True]
    write_record(tmp_path, make_record("lora", state="failed") | {"run_id": "a-run"})
    assert not any(states.is_due("a-run") for states in stored.values())


def test_what_could_not_be_done_again_is_not_done(
    folder: Path, suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.suite.plan import make_plan
    from benchmarks.suite.suite import Work, say_states

    flags = [word if word != "images" else str(folder / "images") for word in TINY]
    flags += ["--methods", "linear", "fpt", "--epochs", "2", "--cache", str(folder / ".cache")]
    plan = make_plan(options_of(*flags))
    statuses = {}
    for policy in POLICIES:
        statuses[policy], _ = say_states(Work.make(plan, suite.folder / "results", policy, hang_minutes=1))
    assert statuses == {"only-missing": 0, "retry-failed": 0, "overwrite": 1}
    assert "runs: 2 not done" in capsys.readouterr().err
