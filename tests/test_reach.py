"""What reaching a validation AUC took: against sums by hand; energy against a counter that is known."""

import io
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bench_process import TINY
from inside import finish_inside
from test_memory import CUDA, FakeAllocator, FakeDriver
from tiny_images import make_images

from benchmarks.analysis.reach import reach_table, reached
from benchmarks.errors import MachineError
from benchmarks.training.peak_memory import PhaseMemory


def record(aucs: list[float], run_id: str = "a", **measured: Any) -> Any:
    """A run whose epochs take 10 s, and 4 s of validation between them."""
    history = [{"epoch": at, "val_auc": auc, "seconds": 10.0} for at, auc in enumerate(aucs, start=1)]
    seconds = {"import": 100.0, "setup": 1.0, "prepare": 2.0, "train": 10.0 * len(aucs), "validate": 4.0, "test": 50.0}
    return {"run_id": run_id, "measurements": {"history": history, "seconds": seconds} | measured}


def test_seconds_are_those_before_training_and_of_epochs_until_it_is_reached() -> None:
    found = reached(record([0.7, 0.95, 0.8, 0.99], preload={"seconds": 30.0, "reused": True}), 0.9)
    assert found is not None and found.epoch == 2
    assert found.seconds == pytest.approx(1 + 2 + 30 + 2 * 10 + 2 * 4 / 4)
    never = reached(record([0.7, 0.95, 0.8, 0.99]), 0.999)
    assert never is not None and never.epoch is None and never.seconds == pytest.approx(1 + 2 + 4 * 10 + 4)
    assert reached(record([]), 0.5) is None


@pytest.mark.parametrize(
    ("preload", "known"),
    [({}, True), ({"seconds": 5.0, "reused": False}, True), ({"seconds": 5.0, "reused": True}, False)],
)
def test_joules_of_features_that_were_found_computed_are_unknown(preload: dict[str, Any], known: bool) -> None:
    joules = {"setup": 3.0, "train": 40.0, "validate": 8.0, "test": 7.0} | ({"preload": 20.0} if preload else {})
    run = record([0.7, 0.95, 0.8], joules=joules, preload=preload)
    for entry in run["measurements"]["history"]:
        entry["joules"] = 16.0
    found = reached(run, 0.9)
    assert found is not None
    assert found.joules == ((3 + 2 * 16 + (20 if preload else 0)) if known else None)


def test_a_seed_that_never_gets_there_is_later_than_any() -> None:
    records = {str(at): record(aucs) for at, aucs in enumerate([[0.95], [0.7, 0.95], [0.5, 0.6], [0.4, 0.5]])}
    place = {"dataset_label": "d", "block": "b", "resolution": 64}
    cells = [
        place | {"label": f"{few} of four", "run_ids": ids} for few, ids in (("most", "0 1 2"), ("half", "0 1 2 3"))
    ]
    table = reach_table(pd.DataFrame(cells), records, 0.9, price=7.2)
    most, half = table.to_dict("records")
    assert (most["reached"], most["seeds"], most["epoch"]) == (2, 3, 2)
    assert most["seconds"] == 3 + 20 + 4 and most["cost"] == pytest.approx(27 / 3600 * 7.2)
    assert (most["least_seconds"], most["most_seconds"]) == (17, 27)
    assert half["reached"] == 2 and pd.isna(half["seconds"]) and pd.isna(half["cost"])


def test_a_run_counts_energy_where_the_driver_does_and_the_command_sums_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = itertools.count(0, 5)
    monkeypatch.setattr(PhaseMemory, "joules", lambda _: float(next(counter)))  # 5 J between two questions
    make_images(tmp_path / "images")
    ended = finish_inside(tmp_path, "--methods", "lora", *TINY, "--epochs", "2")
    assert ended.returncode == 0, ended.stderr
    (stored,) = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*.json")]
    measured = stored["measurements"]
    assert measured["joules"]["train"] == measured["joules"]["validate"] == 10  # two epochs, each a part of 5 J
    assert [entry["joules"] for entry in measured["history"]] == [10, 10]
    said = finish_inside(tmp_path, "reach", "0.01", "--price", "3.6", "--format", "csv")
    assert said.returncode == 0, said.stderr
    (row,) = pd.read_csv(io.StringIO(said.stdout)).to_dict("records")
    assert row["reached"] == 1 and row["epoch"] == 1 and row["joules"] == measured["joules"]["setup"] + 10
    assert row["cost"] == pytest.approx(row["seconds"] / 1000)
    text = finish_inside(tmp_path, "reach", "0.01").stdout
    assert "kJ" in text and "LoRA" in text and max(map(len, text.splitlines())) <= 80


def test_a_run_on_a_cpu_has_no_energy(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    assert finish_inside(tmp_path, "--methods", "simpleshot", *TINY).returncode == 0
    (stored,) = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*.json")]
    assert "joules" not in stored["measurements"]
    said = finish_inside(tmp_path, "reach", "0.9")
    assert said.returncode == 2 and "no stored run has a history of epochs" in said.stderr


class Counting(FakeDriver):
    """A driver that counts energy, or says that it cannot."""

    def __init__(self, counts: bool) -> None:
        super().__init__(processes={os.getpid(): 1000})
        self.counts = counts

    def joules(self) -> float:
        if not self.counts:
            raise MachineError("driver must answer nvmlDeviceGetTotalEnergyConsumption, got Not Supported")
        return 12.5


def test_a_gpu_that_counts_no_energy_is_noted_once_and_its_memory_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeAllocator(monkeypatch)
    notes: list[str] = []
    assert PhaseMemory(CUDA, Counting(True), notes.append).joules() == 12.5 and not notes
    memory = PhaseMemory(CUDA, Counting(False), notes.append)
    assert memory.joules() is None and memory.joules() is None and len(notes) == 1
    with memory.phase("train"):
        pass
    assert memory.phases["train"]["peak_process_bytes"] is not None
    assert PhaseMemory(torch.device("cpu")).joules() is None
