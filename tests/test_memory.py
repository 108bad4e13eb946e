"""Measured memory: counters per phase on a fake allocator and a fake driver, and the processes that measure points."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pynvml
import pytest
import torch

from bench import main
from benchmarks.commands import COMMANDS
from benchmarks.commands import memory as command
from benchmarks.commands.command_line import make_parser
from benchmarks.environment import ROOT, driver_version
from benchmarks.errors import MachineError
from benchmarks.memory import measure
from benchmarks.memory.measured import read_measured
from benchmarks.memory.phases import build_point
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import Prediction
from benchmarks.memory.replay import PhasePeak
from benchmarks.memory.table import COLUMNS, compare_frame, measured_rows, points_frame
from benchmarks.training.peak_memory import NvmlDriver, PhaseMemory, check_idle, host_peak_bytes

CUDA = torch.device("cuda:0")
TINY = MemoryPoint("vpt", 32, 2, "vit_tiny_patch16_224")


class FakeDriver:
    """A GPU whose processes and use are set by hand."""

    def __init__(self, used: int = 0, processes: dict[int, int | None] | None = None) -> None:
        self.used, self.listed = used, processes or {}

    def name(self) -> str:
        return "Fake GPU 80GB"

    def used_bytes(self) -> int:
        return self.used

    def processes(self) -> dict[int, int | None]:
        return self.listed

    def joules(self) -> float:
        return 0.0


class FakeAllocator:
    """torch.cuda's counters, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "empty_cache", self._empty)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak_allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: self.peak_reserved)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)

    def _empty(self) -> None:
        self.reserved = self.allocated

    def _reset(self, device: torch.device) -> None:
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def use(self, peak: int, after: int, kept: int) -> None:
        """Allocates up to `peak`, ends with `after` allocated and `kept` reserved."""
        self.peak_allocated = self.peak_reserved = max(self.peak_allocated, peak)
        self.allocated, self.reserved = after, kept


def test_each_phase_has_its_own_peak_and_the_highest_of_its_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator(monkeypatch)
    memory = PhaseMemory(CUDA, FakeDriver(processes={os.getpid(): 1000}))
    with memory.phase("train"):
        allocator.use(peak=500, after=100, kept=400)
    with memory.phase("eval"):
        allocator.use(peak=200, after=100, kept=200)
    with memory.phase("train"):
        allocator.use(peak=600, after=100, kept=600)
    assert memory.phases["train"]["peak_allocated_bytes"] == 600
    assert memory.phases["eval"]["peak_allocated_bytes"] == 200
    assert memory.phases["eval"]["peak_reserved_bytes"] == 200  # not the 400 that training had left


def test_the_driver_counts_the_process_and_what_the_allocator_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator(monkeypatch)
    memory = PhaseMemory(CUDA, FakeDriver(processes={os.getpid(): 1000, 7: 5000}))
    with memory.phase("train"):
        allocator.use(peak=500, after=100, kept=400)
    assert memory.phases["train"]["peak_process_bytes"] == 1000 + (500 - 400)
    assert memory.process_source == "process"


@pytest.mark.parametrize("hidden", [{}, {os.getpid(): None}])
def test_hidden_processes_are_told_by_the_growth_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, hidden: dict[int, int | None]
) -> None:
    allocator, driver = FakeAllocator(monkeypatch), FakeDriver(used=50, processes=hidden)
    memory = PhaseMemory(CUDA, driver)
    with memory.phase("train"):
        allocator.use(peak=500, after=500, kept=500)
        driver.used = 950
    record = memory.record()
    assert record is not None
    assert record["process_source"] == "device delta"
    assert record["phases"]["train"]["peak_process_bytes"] == 900


class BrokenDriver(FakeDriver):
    """A driver that fails from some question on."""

    def __init__(self, answers: int) -> None:
        super().__init__(used=50, processes={os.getpid(): 1000})
        self.answers = answers

    def used_bytes(self) -> int:
        self._count()
        return super().used_bytes()

    def processes(self) -> dict[int, int | None]:
        self._count()
        return super().processes()

    def _count(self) -> None:
        self.answers -= 1
        if self.answers < 0:
            raise MachineError("driver must answer nvmlDeviceGetMemoryInfo, got GPU is lost")


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_driver_that_fails_ends_nothing_and_is_noted_once(monkeypatch: pytest.MonkeyPatch, answers: int) -> None:
    allocator, notes = FakeAllocator(monkeypatch), list[str]()
    memory = PhaseMemory(CUDA, BrokenDriver(answers), notes.append)
    for _ in range(3):
        with memory.phase("train"):
            allocator.use(peak=500, after=100, kept=500)
    measured = None if answers < 2 else 1000
    assert memory.phases["train"] == {
        "peak_allocated_bytes": 500,
        "peak_reserved_bytes": 500,
        "peak_process_bytes": measured,
    }
    said = "driver must answer nvmlDeviceGetMemoryInfo, got GPU is lost"
    assert notes == [f"memory of the process is not measured from here on: {said}"]


def test_what_nvml_does_not_support_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    unsupported.__name__ = "nvmlDeviceGetMemoryInfo"
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", unsupported)
    driver = NvmlDriver.__new__(NvmlDriver)
    driver._handle = None
    with pytest.raises(MachineError, match="driver must answer nvmlDeviceGetMemoryInfo, got Not Supported"):
        driver.used_bytes()
    monkeypatch.setattr(pynvml, "nvmlInit", unsupported)
    assert driver_version() is None


def test_a_system_that_hides_the_hosts_peak_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "Name:\tpython\n")
    assert host_peak_bytes() > 2**20


def test_a_cpu_measures_nothing_but_knows_the_phase_that_failed() -> None:
    memory = PhaseMemory(torch.device("cpu"))
    with memory.phase("setup"):
        pass
    with pytest.raises(ZeroDivisionError), memory.phase("train"):
        _ = 1 / 0
    assert (memory.current, memory.phases, memory.record()) == ("train", {}, None)


def test_a_busy_gpu_is_refused() -> None:
    check_idle(FakeDriver(used=10 * 2**20, processes={os.getpid(): 5}))
    with pytest.raises(RuntimeError, match=r"GPU must be free of other processes, got 3,000 MiB in use by process 7"):
        check_idle(FakeDriver(used=3000 * 2**20, processes={7: None}))
    with pytest.raises(RuntimeError, match="processes that NVML hides: end them, or measure all the same"):
        check_idle(FakeDriver(used=3000 * 2**20))


def test_host_peak_is_that_of_this_process() -> None:
    before = host_peak_bytes()
    block = bytearray(300 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert host_peak_bytes() - before > 100 * 2**20 or before > 300 * 2**20


def test_measuring_out_of_memory_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(point: Any, build: Any, device: Any, watch: Any, after: Any, **_: Any) -> None:
        with watch("setup"):
            pass
        with watch("train"):
            raise torch.OutOfMemoryError("tried to allocate\n12 GiB")

    monkeypatch.setattr(measure, "run_phases", run_out)
    record = measure.measure(TINY, torch.device("cpu"), lambda: build_point(TINY))
    assert record["status"] == {
        "state": "oom",
        "message": "OutOfMemoryError: tried to allocate 12 GiB",
        "phase": "train",
    }
    rows = measured_rows(record)
    assert [(row["phase"], row["status"], row["peak_allocated_bytes"]) for row in rows] == [
        ("train", "oom", None),
        ("whole run", "oom", None),
    ]


@pytest.mark.process
@pytest.mark.slow
def test_points_are_measured_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "NvmlDriver", lambda device: FakeDriver())
    folder = measure.gpu_folder(tmp_path, CUDA)
    assert folder == tmp_path / "measured" / "fake-gpu-80gb"
    broken = MemoryPoint("vpt", 32, 2, "vit_tiny_patch16_224", options=(("dropout", 3.0),))
    records = list(measure.measure_points([TINY, broken], folder, torch.device("cpu"), tmp_path))
    assert [record["status"]["state"] for record in records] == ["ok", "failed"]
    assert "dropout of vpt must be a number, at least 0 and below 1" in records[1]["status"]["message"]
    assert set(records[0]["seconds_per_step"]) == {"train", "eval"}
    assert records[0]["environment"]["device"] == "CPU" and records[0]["host_peak_bytes"] > 2**26
    assert [record["point"] for record in read_measured(tmp_path)] == [
        record["point"] for record in sorted(records, key=lambda record: MemoryPoint.from_dict(record["point"]).name)
    ]


def test_a_damaged_measured_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "measured" / "gpu" / "x.json"
    path.parent.mkdir(parents=True)
    whole: dict[str, Any] = {"schema": 1, "point": MemoryPoint("full", 224).as_dict(), "status": {"state": "ok"}}
    path.write_text(json.dumps(whole | {"more": 1}))
    assert read_measured(tmp_path)[0]["more"] == 1
    for content, reason in (
        ("{", "EOF while parsing"),
        (json.dumps(whole | {"schema": 2}), "schema must be 1, got 2"),
        (json.dumps(whole | {"point": {"method": "full", "resolution": True}}), "point.resolution must be a valid int"),
        (json.dumps(whole | {"point": {**whole["point"], "more": 1}}), "point.more must be a known name, got 1"),
        (
            json.dumps(whole | {"point": {"method": "full", "resolution": 224}}),
            "point.options must be given, got nothing",
        ),
        (json.dumps(whole | {"memory": {}}), "memory.phases must be given, got nothing"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"record must be a measured point, got '.*x\.json' \({reason}"):
            read_measured(tmp_path)


def test_a_point_survives_json_and_names_all_it_is() -> None:
    point = MemoryPoint(
        "fpt", 512, 8, precision="bf16", attention="sdpa", preload=False, options=(("keep_ratio", 0.5),)
    )
    assert MemoryPoint.from_dict(json.loads(json.dumps(point.as_dict()))) == point
    assert point.name == "fpt_vit_base_patch16_384_512px_b8_bf16_sdpa_c5_live_keep_ratio=0.5"
    hub, args = (MemoryPoint("fpt", 512, 8, name).name for name in ("hf-hub:some/vit", "vit_tiny[depths=[1,2]]"))
    assert (hub.split("_")[1], "/" in hub, args.split("_")[2]) == ("hf-hub%3Asome%2Fvit", False, "tiny[depths=[1,2]]")


def test_stored_records_have_the_columns_of_the_issue() -> None:
    frame = points_frame(row for record in read_measured(ROOT / "results") for row in measured_rows(record))
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) > 200 and set(frame["source"]) == {"measured"} and set(frame["status"]) == {"ok", "oom"}
    assert frame[frame["status"] == "ok"]["peak_allocated_bytes"].notna().all()
    assert command.COMMAND.name == "memory"


def test_comparison_gives_the_error_of_each_counter() -> None:
    peaks = PhasePeak(103, 210, 500, {"parameters": 103})
    prediction = Prediction(TINY, {"setup": peaks, "train": peaks})
    measured = {"peak_allocated_bytes": 100, "peak_reserved_bytes": 200, "peak_process_bytes": None}
    record = {
        "point": TINY.as_dict(),
        "status": {"state": "oom", "message": "", "phase": "train"},
        "memory": {"phases": {"setup": measured}},
    }
    setup, train = compare_frame([(record, prediction)]).to_dict("records")
    assert (setup["allocated_error_percent"], setup["reserved_error_percent"]) == (3.0, 5.0)
    assert pd.isna(setup["process_error_percent"]) and setup["process_predicted_bytes"] == 500
    assert train["status"] == "oom" and pd.isna(train["allocated_error_percent"])
    assert train["allocated_predicted_bytes"] == 103


def test_the_command_compares_stored_records_in_all_counters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["memory", "--compare", "--methods", "vpt_shallow", "--res", "224", "--format", "csv"]
    assert main([*arguments, "--results", str(ROOT / "results"), "--cache", str(tmp_path)]) == 0
    said = capsys.readouterr()
    frame = pd.read_csv(io.StringIO(said.out))
    assert list(frame["phase"]) == ["setup", "train", "eval"] * 2
    within = frame[frame["phase"] != "setup"]
    for name in ("allocated", "reserved", "process"):
        assert (within[f"{name}_error_percent"].abs() < 2).all()
        assert re.search(rf"{name}: \d of 6 phases within 3 %, median \d\.\d\d %, worst \d\.\d\d %", said.err)
    with pytest.raises(ValueError, match=r"results must hold measured records to compare, got none in"):
        COMMANDS["memory"].run(make_parser(COMMANDS["memory"]).parse_args(["--compare", "--results", str(tmp_path)]))
