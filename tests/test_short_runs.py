"""Processes that do several runs: which share one, when it ends, and that each gives what a fresh one gives."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import psutil
import pytest
import torch
from bench_process import ROOT, TINY, finish, options_of, records, watch
from fault_injection import scores
from safetensors.torch import save_file
from tiny_images import make_images

from benchmarks.config import Places, RunConfig
from benchmarks.model.backbone import create_backbone
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.weights import load_weights
from benchmarks.storage.notes import heard_by, say
from benchmarks.suite.plan import make_plan
from benchmarks.suite.planned import PlannedRun, process_kind
from benchmarks.suite.processes import Job, Worker, Workers
from benchmarks.suite.progress import SuiteProgress
from benchmarks.suite.run import Run, drawing_nothing, seed_generators
from benchmarks.suite.suite import Work, run_suite
from benchmarks.training.clock import Clock

VIT, RESNET = "vit_tiny_patch16_224", "resnet50[layers=[1,1,1,1],channels=[8,16,16,32]]"
CASES = {  # by method: the backbone, and how it is run
    "linear": (VIT, ()),  # features preloaded
    "fpt_plus": (VIT, ()),  # parts of features, and a second view
    "knn": (VIT, ("--set", "knn.num_neighbours=3")),  # no training, buffers that are filled
    "lora": (VIT, ("--set", "lora.dropout=0.2")),  # augmented images, and dropout
    "boft": (VIT, ()),  # made on the CPU even where its parameters are counted alone
    "full": (RESNET, ()),  # batch norms
}
# What the clock, the machine or the kind of process decides.
ELSEWHERE = {"seconds", "started", "finished", "images_per_second", "host_peak_bytes", "process", "sha256", "reused"}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in ELSEWHERE}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def stored(results: Path) -> dict[str, tuple[Any, ...]]:
    """By run the record without times, and the bytes of predictions and model."""
    found = {}
    for path in sorted((results / "runs").glob("*.json")):
        files = [path.with_name(path.stem + ending) for ending in (".predictions.csv", ".model.safetensors")]
        found[path.stem] = (without_times(json.loads(path.read_text())), *(file.read_bytes() for file in files))
    return found


def processes(results: Path) -> dict[int, list[str | None]]:
    """By seed, which process each of its runs had; None where it stored no record itself."""
    found: dict[int, list[str | None]] = {}
    for path in sorted((results / "runs").glob("*.json")):
        record = json.loads(path.read_text())
        found.setdefault(record["run"]["config"]["seed"], []).append(record["environment"].get("process"))
    return found


@pytest.mark.process
@pytest.mark.slow
def test_a_run_gives_in_a_used_process_what_it_gives_in_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process does all of these, two seeds each; it is compared with one process for each second seed."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.manual_seed(7)
    for name in {backbone for backbone, _ in CASES.values()}:
        save_file(dict(create_backbone(name).trunk.state_dict()), f"{name[:3]}.safetensors")

    def run(method: str, seeds: tuple[str, ...], place: str, kind: str | None) -> None:
        backbone, more = CASES[method]
        words = ["--methods", method, "--datasets", "images", "--res", "32", "--batch-size", "4", "--device", "cpu"]
        words += ["--backbone", backbone, "--weights", f"{backbone[:3]}.safetensors", "--epochs", "2", *more]
        options = options_of(*words, "--cache", f"cache-{place}", "--seeds", *seeds, "--keep-models", "all")
        work = Work.make(make_plan(options), Path(place), "only-missing", 5, keep_models="all")
        with (
            mock.patch("benchmarks.suite.suite.process_kind", lambda _: kind),
            mock.patch("benchmarks.suite.suite.describe_code", lambda: {"version": "1", "commit": None, "dirty": None}),
        ):
            run_suite(work)

    shared = Workers()
    with shared, mock.patch.object(Workers, "__exit__", lambda *_: None):
        with mock.patch("benchmarks.suite.suite.Workers", lambda: shared):
            for method in CASES:
                run(method, ("0", "1"), "used", "any")
        assert shared.serving is not None
        shared.serving[0].end()
    for method in CASES:
        run(method, ("1",), "fresh", None)
    used, fresh = stored(tmp_path / "used"), stored(tmp_path / "fresh")
    assert len(fresh) == len(CASES) and len(used) == 2 * len(CASES)
    assert {run_id: used[run_id] for run_id in fresh} == fresh
    num_cases = len(CASES)
    assert processes(tmp_path / "fresh") == {1: ["fresh"] * num_cases}
    used_processes = processes(tmp_path / "used")
    assert (used_processes[0].count("fresh"), used_processes[1]) == (1, ["reused"] * num_cases)


@pytest.mark.process
@pytest.mark.slow
def test_a_run_killed_in_a_used_process_is_done_again_and_the_next_has_a_fresh_one(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    words = ["--methods", "linear", *TINY, "--epochs", "60", "--seeds", "0", "1", "2"]

    def kill(process: "subprocess.Popen[str]") -> None:
        for child in psutil.Process(process.pid).children():
            child.kill()

    broken = watch(tmp_path, "results", *words, on={"seed 1: epoch 2/": kill})
    assert broken.returncode == 1 and "runs: 1 interrupted, 2 ok" in broken.stderr
    assert processes(tmp_path / "results") == {0: ["fresh"], 1: [None], 2: ["fresh"]}
    assert finish(tmp_path, *words).returncode == 0
    assert finish(tmp_path, *words, "--results", "whole").returncode == 0
    assert processes(tmp_path / "whole") == {0: ["fresh"], 1: ["reused"], 2: ["reused"]}
    found, whole = stored(tmp_path / "results"), stored(tmp_path / "whole")
    assert [scores(found[run][0]) for run in found] == [scores(whole[run][0]) for run in whole]
    assert [found[run][1] for run in found] == [whole[run][1] for run in whole]
    assert records(tmp_path / "whole")["linear"]["measurements"]["host_peak_bytes"] is None
    (first, *_) = (tmp_path / "whole/runs").glob("*-s0-*.json")
    assert json.loads(first.read_text())["measurements"]["host_peak_bytes"] > 2**27


def planned(method: str = "linear", **changes: Any) -> PlannedRun:
    places = Places("images", Path("data"), Path(".cache"), "cpu", changes.pop("plugins", ()))
    config = RunConfig(method, "images", "0" * 64, 32, 0, VIT, "file", "1" * 64, 2, 4, 1e-3, 0.0)
    return PlannedRun(replace(config, **changes), places, Weights("x", "file", VIT, VIT))


def kind_of(**changes: Any) -> str | None:
    return process_kind(planned(**changes))


def test_runs_that_differ_in_seed_and_rate_alone_share_a_process() -> None:
    assert kind_of() is not None
    assert kind_of(seed=3) == kind_of(lr=0.1) == kind_of()
    assert kind_of(trial=True, lr=0.1) == kind_of(trial=True) != kind_of()
    others: list[dict[str, Any]] = [
        {"method": "lora"},
        {"resolution": 64},
        {"dataset_digest": "2" * 64},
        {"options": {"rank": 2}},
    ]
    assert len({kind_of(**change) for change in [{}, *others]}) == 5


def test_whatever_measures_memory_has_a_process_of_its_own() -> None:
    assert kind_of(device_type="cuda") is None
    assert kind_of(device_type="cuda", trial=True, seed=1) == kind_of(device_type="cuda", trial=True) is not None
    # whose features each seed computes anew
    random: dict[str, Any] = {"device_type": "cuda", "trial": True, "weights_sha256": None}
    assert kind_of(**random, seed=1) != kind_of(**random)


def test_a_plugin_has_a_fresh_process() -> None:
    assert kind_of(plugins=(Path("mine.py"),)) is None


# Says how each job ended, as the job tells it to, and which process it was.
SCRIPT = """
import json, os, sys, time
events = os.fdopen(os.dup(1), "w", buffering=1)
print("early", file=sys.stderr, flush=True)
for line in sys.stdin:
    deed = json.loads(line)
    if deed == "hang":
        time.sleep(600)
    if deed == "die":
        os._exit(3)
    print(json.dumps({"event": "done", "state": deed, "message": str(os.getpid()), "stored": True}), file=events)
"""


def started() -> Worker:
    early = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by the worker's end
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=early, text=True
    )
    return Worker(process, early)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(Worker, "start", staticmethod(started))
    with Workers() as found:
        yield found


def do(workers: Workers, log: Path, deed: str, kind: str | None = "a", another: bool = False) -> tuple[str, str]:
    """How a job ended, and in which process."""
    job = SimpleNamespace(log=log, hang_seconds=2, kind=kind, as_line=lambda: json.dumps(deed) + "\n")
    progress = SuiteProgress(1)
    progress.start(1, "a run")
    done = workers.follow(cast(Job, job), progress, another=another)
    return done["state"], done["message"]


@pytest.mark.process
def test_a_process_serves_its_kind_until_a_run_ends_badly(workers: Workers, tmp_path: Path) -> None:
    log = tmp_path / "log"
    deeds = ["ok", "diverged", "ok", "oom", "ok", "failed", "ok", "hang", "ok", "die", "ok"]
    ends = [do(workers, log, deed) for deed in deeds]
    assert [state for state, _ in ends] == [
        *("ok", "diverged", "ok", "oom", "ok", "failed", "ok", "failed", "ok", "failed", "ok"),
    ]
    pids = [message for _, message in ends if message.isdigit()]
    assert [pids.index(pid) for pid in pids] == [0, 0, 0, 0, 4, 4, 6, 7, 8]
    assert ends[7][1].startswith("no sign of life for") and "exit status 3" in ends[9][1]
    assert not any(psutil.pid_exists(int(pid)) for pid in set(pids[:-1]))
    assert log.read_text().count("early") == 5  # once a process, in the log of its first run


@pytest.mark.process
def test_another_kind_has_a_fresh_process_that_was_started_ahead(workers: Workers, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _, first = do(workers, log, "ok", "a", another=True)
    assert workers.waiting is not None
    ahead = str(workers.waiting.process.pid)
    assert do(workers, log, "ok", "a") == ("ok", first)
    assert do(workers, log, "ok", "b") == ("ok", ahead)
    assert not psutil.pid_exists(int(first)) and workers.waiting is None
    own = {do(workers, log, "ok", None)[1] for _ in range(2)}
    assert len(own) == 2 and ahead not in own and workers.serving is None


@pytest.mark.process
def test_a_process_that_dies_while_it_waits_is_replaced(workers: Workers, tmp_path: Path) -> None:
    _, pid = do(workers, tmp_path / "log", "ok")
    assert workers.serving is not None
    os.kill(int(pid), signal.SIGKILL)
    workers.serving[0].process.wait()
    state, other = do(workers, tmp_path / "log", "ok")
    assert state == "ok" and other != pid


def test_what_was_known_from_an_earlier_run_draws_nothing() -> None:
    seed_generators(3)
    expected = torch.rand(2)
    seed_generators(3)
    with drawing_nothing():
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


def test_a_note_that_is_said_once_is_said_once_a_run() -> None:
    heard: list[list[str]] = []
    for _ in range(2):
        heard.append([])
        with heard_by(heard[-1].append):
            say("full", once="disk")
            say("full", once="disk")
    assert heard == [["full"], ["full"]]


def test_weights_that_change_between_two_runs_are_refused(tmp_path: Path) -> None:
    from benchmarks.errors import UserError
    from benchmarks.storage.files import file_sha256

    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    weights = Weights("x", "file", VIT, VIT, path=path, sha256=file_sha256(path))
    for _ in range(2):
        loaded = load_weights(weights)
        assert loaded is not None and loaded["weight"].tolist() == [1, 1, 1]
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=re.escape(f"weights must have the SHA-256 {weights.sha256}")):
        load_weights(weights)


def test_features_whose_memory_nobody_measured_leave_their_phase_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that serves trials on a GPU computes them; opening them is not what computing them takes."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    (first,) = make_plan(options_of("--methods", "linear", *TINY)).runs
    found = []
    for _ in ("computed", "opened"):
        run = Run(first.config, first.places, first.weights, Clock(), lambda *_, **__: None)
        run.memory.phases |= {"preload": {"peak_allocated_bytes": 5}, "setup": {"peak_allocated_bytes": 9}}
        run.prepare()
        found.append(sorted(run.memory.phases))
    assert found == [["preload", "setup"], ["setup"]]


def test_a_process_that_has_done_another_run_measures_no_memory() -> None:
    config = planned(device_type="cuda").config
    places = replace(planned().places, device="cuda:0")
    run = Run(config, places, planned().weights, Clock(), lambda *_, **__: None, measures=False)
    with run.memory.phase("setup"):
        assert run.memory.current_peaks() is None
    run.finish()
    assert run.measurements == {"memory": None, "host_peak_bytes": None}
