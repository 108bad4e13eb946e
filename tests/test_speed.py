"""The benchmarks of speed run; what they measure is not judged here."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fixed_records import make_record
from tiny_images import make_images

from benchmarks.analysis.evidence import load_evidence
from benchmarks.config import Places, RunConfig
from benchmarks.data.dataset import open_dataset
from benchmarks.memory.phases import build_point
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory, trace_run
from benchmarks.model.resolved_weights import Weights
from benchmarks.records.frame import load_frame
from benchmarks.speed import images, inference, loading, memory, ranks, scale, short_runs
from benchmarks.suite.planned import PlannedRun


def test_the_image_benchmark_prints_a_line_for_each_thing(capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main(["--images", "2", "--side", "64", "--seconds", "0", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["part"] for row in rows] == ["loader"] * 9 + ["store"] * 3 + ["augmentation"] * 6
    assert all(float(row["images_per_second"]) > 0 and float(row["ratio"]) > 0 for row in rows)
    assert [rows[index]["ratio"] for index in (0, 3, 6, 9, 12, 14, 16)] == ["1.0"] * 7
    assert "2 JPEGs of 2240 x 1488 px" in err


@pytest.mark.process
@pytest.mark.slow
def test_what_one_more_short_run_takes_is_divided_into_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    words = [
        "--runs",
        "2",
        "--repeats",
        "1",
        "--datasets",
        "images",
        "--res",
        "32",
        "--epochs",
        "1",
        "--batch-size",
        "4",
    ]
    assert short_runs.main([*words, "--backbone", "vit_tiny_patch16_224", "--weights", "none"]) == 0
    setting, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert "waiting policy" in setting and "allocator" in setting
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[1:3] for row in cells] == [
        [process, clock] for process in ("fresh", "reused") for clock in ("wall", "processor")
    ]
    for *_, training, evaluating, storing, rest, within, together in cells:
        parts = [float(cell) for cell in (training, evaluating, storing, rest)]
        assert sum(parts) == pytest.approx(float(together), abs=0.03) and float(within) >= 0


def test_a_model_built_on_the_gpu_holds_what_one_moved_there_does() -> None:
    point = MemoryPoint("lora", 64, 2, "vit_tiny_patch16_224")
    events, order = memory.build_events(point)
    live: dict[int, int] = {}
    for number, size in events:
        live.pop(number) if size < 0 else live.__setitem__(number, size)
    model = build_point(point).model
    assert set(order) <= live.keys()
    assert sum(live[number] for number in order) == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    traced = trace_run(point)
    moved = predict_memory(point).phases
    built = memory.built_on_gpu(traced, (events, order))
    assert built.keys() == moved.keys()
    assert built["setup"].allocated >= moved["setup"].allocated  # what initialising took comes on top
    assert all(abs(built[phase].allocated / moved[phase].allocated - 1) < 0.03 for phase in ("train", "eval"))


def test_errors_of_predictions_are_counted_by_way_and_counter() -> None:
    same: dict[str, Any] = {"model": "moved", "phase": "eval"}
    rows = [
        same | {"counter": counter, "point": str(i), "error": error}
        for counter, found in (("allocated", [0, 1, -2, None]), ("reserved", [0.001, 3.0, -50, 3.1]))
        for i, error in enumerate(found)
    ]
    allocated, reserved = memory.summarised(pd.DataFrame(rows)).to_dict("records")
    assert (allocated["phases"], allocated["exact"], allocated["within 3 %"]) == (3, 1, 3)
    assert (reserved["phases"], reserved["exact"], reserved["within 3 %"]) == (4, 1, 2)
    assert (reserved["worst %"], reserved["worst phase"]) == ("−50.00", "eval of 2")


def test_the_records_of_the_scale_benchmark_are_as_runs_store_them(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", scale.CLASSES)
    dataset = open_dataset(str(root), tmp_path, tmp_path / "cache")
    config = RunConfig(
        "lora", "images", dataset.digest, 32, 0, "vit_tiny_patch16_224", "none", None, 20, 16, 1e-3, 0.1
    )  # fmt: skip
    places = Places(str(root), tmp_path, tmp_path / "cache", "cpu")
    looks = make_record("lora")
    epoch = {"epoch": 1, "loss": 0.5, "lr": 1e-3, "val_auc": 0.8, "val_loss": 0.4, "seconds": 2.0}
    looks["measurements"] |= {"history": [epoch], "images_per_second": {"train": 9.0, "eval": 20.0, "preload": None}}
    for seed in range(3):
        run = PlannedRun(replace(config, seed=seed), places, Weights("none", "none", config.backbone, config.backbone))
        scale.store_like(looks, run, dataset, tmp_path)
    frame, problems = load_frame(tmp_path)
    evidence, unreadable = load_evidence(tmp_path, frame)
    assert problems == unreadable == [] and len(evidence) == 3
    assert frame["auc"].nunique() > 1 and set(frame["num_classes"]) == {3}
    assert frame["run_id"].to_list() == sorted(replace(config, seed=seed).run_id for seed in range(3))


def test_a_command_is_charged_with_its_own_memory_and_time_alone() -> None:
    held = bytearray(b"x" * 600_000_000)
    taken = scale.taken_by(["-c", "n = 200_000_000; held = b'x' * n; print('thrown away')"], scale.ROOT)
    assert 200 < taken["MB"] < 300 and len(held) == 600_000_000
    assert 0 < taken["processor seconds"] < 60 and taken["seconds"] > 0


def test_a_command_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match=r"^-c .* ended with status 3: why\n$"):
        scale.taken_by(["-c", "import sys; sys.stderr.write('why\\n'); sys.exit(3)"], scale.ROOT)


def test_the_benchmark_of_ranks_prints_a_line_for_each_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert ranks.main(["--draws", "2"]) == 0
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert (len(first.splitlines()), len(second.splitlines())) == (2 + 3 * 5, 2 + 3 * 5)
    assert second.count("no interval") == 3


def test_the_benchmark_of_inference_prints_a_row_a_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Full fine-tuning is what the others are beside, and stores no part once for all tasks."""
    small = ["--res", "224", "--repeats", "1", "--cache", str(tmp_path)]
    assert inference.main([*small, "--backbone", "vit_tiny_patch16_224[depth=2,embed_dim=48,num_heads=3]"]) == 0
    header, _, *rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert len(rows) == len(inference.METHODS) + 1 and len(header) == 10
    assert [cell.strip() for cell in rows[0]][-3:-2] == ["1.00"] and rows[0][-1].strip() == "0"
    assert "LoRA, merged" in {row[1].strip() for row in rows}


def test_the_benchmark_of_loading_prints_its_shares(capsys: pytest.CaptureFixture[str]) -> None:
    assert loading.main(["--methods", "linear", "--steps", "4", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "OMP_WAIT_POLICY" in printed
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    head, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], lines[2]))
    found = dict(zip(head, row, strict=True))
    assert (found["method"], found["steps"]) == ("linear", "4") and float(found["wall ms"]) > 0
    ways = [f"{kind}: {way}" for kind in ("wall", "processor") for way in ("before", "now", "first")]
    assert all(found[way].endswith("%") for way in ways)
