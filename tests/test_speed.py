"""The benchmarks of speed run; what they measure is not judged here."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from fixed_records import make_record
from tiny_images import make_images

from benchmarks.analysis.evidence import load_evidence
from benchmarks.config import Places, RunConfig
from benchmarks.data.dataset import open_dataset
from benchmarks.model.weights import Weights
from benchmarks.records.frame import load_frame
from benchmarks.speed import images, ranks, scale
from benchmarks.suite.plan import PlannedRun


def test_the_image_benchmark_prints_a_line_for_each_thing(capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main(["--images", "2", "--side", "64", "--seconds", "0", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["part"] for row in rows] == ["loader"] * 9 + ["store"] * 3 + ["augmentation"] * 6
    assert all(float(row["images_per_second"]) > 0 and float(row["ratio"]) > 0 for row in rows)
    assert [rows[index]["ratio"] for index in (0, 3, 6, 9, 12, 14, 16)] == ["1.0"] * 7
    assert "2 JPEGs of 2240 x 1488 px" in err


def test_the_records_of_the_scale_benchmark_are_as_runs_store_them(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", scale.CLASSES)
    dataset = open_dataset(str(root), tmp_path, tmp_path / "cache")
    config = RunConfig(
        "lora", "images", dataset.digest, 32, 0, "vit_tiny_patch16_224", "none", None, 20, 16, 1e-3, 0.1
    )  # fmt: skip
    places = Places(str(root), tmp_path, tmp_path / "cache", "cpu")
    for seed in range(3):
        run = PlannedRun(replace(config, seed=seed), places, Weights("none", "none", config.backbone, config.backbone))
        scale.store_like(make_record("lora"), run, dataset, tmp_path)
    frame, problems = load_frame(tmp_path)
    evidence, unreadable = load_evidence(tmp_path, frame)
    assert problems == unreadable == [] and len(evidence) == 3
    assert frame["auc"].nunique() > 1 and set(frame["num_classes"]) == {3}
    assert frame["run_id"].to_list() == sorted(replace(config, seed=seed).run_id for seed in range(3))


def test_the_benchmark_of_ranks_prints_a_line_for_each_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert ranks.main(["--draws", "2"]) == 0
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert (len(first.splitlines()), len(second.splitlines())) == (2 + 3 * 5, 2 + 3 * 5)
    assert second.count("no interval") == 3
