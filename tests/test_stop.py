"""SIGTERM ends bench.py within seconds, whatever stage it is at, even one that nothing can interrupt."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_process import ROOT, TINY
from fixed_records import fixed_records
from tiny_images import make_images

from benchmarks.records.record import write_record
from benchmarks.suite.signals import GRACE_SECONDS

pytestmark = [pytest.mark.process, pytest.mark.slow]

SECONDS = 5.0  # promised
BUSY_SECONDS = 30.0  # what it may take where other tests run at the same time
# bench.py with one function made to do what no signal interrupts: a call of a library that does not come back.
DRIVER = """
import ctypes, importlib, sys
import bench
from benchmarks.suite.signals import leave, stop_on_signals
module, _, name = sys.argv[1].rpartition(".")
def stuck(*_, **__):
    print("stuck", file=sys.stderr, flush=True)
    mutex = ctypes.create_string_buffer(256)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
place = importlib.import_module(module)
setattr(place, name, stuck)
stop_on_signals()
leave(bench.main(sys.argv[2:]))
"""
RUN = ["--methods", "linear", *TINY]
STAGES = {
    "hashing": ("hashlib.file_digest", RUN),  # in threads
    "decoding": ("benchmarks.check.survey.read_inspected", ["check", "images"]),  # in threads
    "prediction": ("benchmarks.memory.predict.trace_run", ["fit", "--methods", "linear"]),
    "statistics": ("benchmarks.report.tables.add_significance", ["tables"]),
    "plots": ("benchmarks.report.plots.draw_memory", ["plots"]),
}


def started(folder: Path, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def seconds_to_end(process: "subprocess.Popen[str]", said: str, signum: int = signal.SIGTERM) -> tuple[float, str]:
    """Sends a signal once a line says that the stage is reached; how long the end took, and what it said last."""
    assert process.stderr is not None
    with process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if said in line:
                    break
            else:
                raise AssertionError("".join(lines))
            process.send_signal(signum)
            sent = time.monotonic()
            rest = process.stderr.read()
            process.wait(60)
            return time.monotonic() - sent, rest
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stop")
    make_images(root / "images")
    for record in fixed_records(resolutions=(224, 448), seeds=2):
        write_record(root / "results", record)
    return root


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_nothing_interrupts_ends_within_five_seconds(folder: Path, stage: str) -> None:
    name, command = STAGES[stage]
    process = started(folder, "-c", DRIVER, name, *command)
    seconds, said = seconds_to_end(process, "stuck")
    assert seconds < BUSY_SECONDS and GRACE_SECONDS < SECONDS
    assert process.returncode == 128 + signal.SIGTERM
    # what another process computes is left to it, and this one says so itself
    assert re.search(r"^stopped", said, re.MULTILINE) and "Traceback" not in said


@pytest.mark.parametrize(("said", "state"), [("resizing images", "interrupted"), ("epoch 1/400", "interrupted")])
def test_a_run_ends_at_once_and_is_recorded(folder: Path, said: str, state: str) -> None:
    results = f"results-{len(said)}"
    command = [*RUN, "--methods", "full", "--epochs", "400", "--results", results, "--cache", f"cache-{len(said)}"]
    process = started(folder, str(ROOT / "bench.py"), *command)
    seconds, rest = seconds_to_end(process, said)
    assert seconds < BUSY_SECONDS and process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; what is finished is kept, and the same command goes on from there" in rest
    (path,) = (folder / results / "runs").glob("*.json")
    assert f'"state": "{state}"' in path.read_text()


def test_waiting_for_a_lock_ends_too(folder: Path) -> None:
    code = """
import sys, bench
from pathlib import Path
from benchmarks.storage.locks import held_lock
from benchmarks.suite.signals import stop_on_signals
stop_on_signals()
def wait():
    print("waiting", file=sys.stderr, flush=True)
with held_lock(Path("a.lease"), lambda: None):
    with held_lock(Path("a.lease"), wait):
        pass
"""
    process = started(folder, "-c", code)
    seconds, _ = seconds_to_end(process, "waiting")
    assert seconds < BUSY_SECONDS
