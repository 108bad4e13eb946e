"""What using a model costs: computation by a closed formula, memory beside what a GPU measured, bytes, the command."""

import dataclasses
import io
import json
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from fixed_records import make_record
from small_backbones import SMALL

import bench
from benchmarks.environment import ROOT
from benchmarks.inference import cost
from benchmarks.inference.cost import Deployment, build_deployed, cost_of, deployments, predict_cost, time_deployed
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import PredictionError
from benchmarks.memory.stored_costs import read_costs
from benchmarks.model.build import count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.records.record import store_run

BACKBONE = f"vit_tiny_patch16_224[{SMALL}]"
DEPTH, WIDTH = 2, 48


def point(method: str, resolution: int = 64, batch_size: int = 2) -> MemoryPoint:
    return MemoryPoint(method, resolution, batch_size, BACKBONE, 3, "fp32", "sdpa", preload=False)


def vit_flops(side: int) -> int:
    """Two for each weight and token, and for each pair of tokens and channel twice: scores and their sum of values."""
    patches = (side // 16) ** 2
    tokens = patches + 1
    block = 2 * tokens * 12 * WIDTH**2 + 2 * 2 * tokens**2 * WIDTH
    return 2 * patches * 3 * 16**2 * WIDTH + DEPTH * block + 2 * WIDTH * 3


@pytest.mark.parametrize("side", [64, 96])
def test_computation_of_a_vit_is_the_closed_formula(side: int) -> None:
    for deployment in (*deployments(point("full", side)), *deployments(point("linear", side))):
        assert predict_cost(deployment)["flops"] == vit_flops(side)
    apart, merged = deployments(point("lora", side))
    rank, tokens = make_config("lora", {}).rank, (side // 16) ** 2 + 1
    added = predict_cost(apart)["flops"] - vit_flops(side)
    assert predict_cost(merged)["flops"] == vit_flops(side)
    assert added % (2 * DEPTH * tokens * rank * WIDTH) == 0 and added > 0  # a pair of narrow products in each block


@pytest.mark.parametrize("side", [96, 512])
def test_fpt_runs_two_networks(side: int) -> None:
    """The backbone on the large image, but for what of its last block nobody reads, and the side network."""
    (found,) = deployments(dataclasses.replace(point("fpt", side), options=(("side_resolution", 32),)))
    model = build_deployed(found, torch.device("cpu"))
    assert model.sides == {"image": side, "image_low": 32} and model.extractor is not None
    tokens = (side // 16) ** 2 + 1
    last_block = 2 * tokens * 12 * WIDTH**2 + 4 * tokens**2 * WIDTH
    assert vit_flops(side) - last_block < predict_cost(found)["flops"] < 1.5 * vit_flops(side)


WORKSPACE = 32 * 2**20  # that cuBLAS keeps in the thread of the backward pass on this card


def measured_evaluation(method: str, precision: str) -> tuple[MemoryPoint, int]:
    """A point that was measured on an H100, and the peak of its evaluation without what its training had left there:

    two states of the optimiser a parameter, and the backward pass's workspace.
    """
    (path,) = (ROOT / "results/measured/nvidia-h100-80gb-hbm3").glob(
        f"{method}_vit_base_patch16_384_512px_b16_{precision}_sdpa_c5.json"
    )
    record = json.loads(path.read_text())
    measured = MemoryPoint.from_dict(record["point"])
    trained = count_parameters(method, make_config(method, {}), measured.backbone, measured.num_classes)
    peak = record["memory"]["phases"]["eval"]["peak_allocated_bytes"]
    return measured, peak - 2 * 4 * int(trained["trainable_total"]) - WORKSPACE


@pytest.mark.parametrize(("method", "precision"), [("full", "fp32"), ("lora", "fp32"), ("vpt", "bf16")])
def test_predicted_memory_is_near_what_a_gpu_measured(method: str, precision: str) -> None:
    measured, found = measured_evaluation(method, precision)
    deployment, *_ = deployments(dataclasses.replace(measured, preload=False))
    assert predict_cost(deployment)["memory_bytes"] == pytest.approx(found, rel=0.01)


def test_merged_a_task_has_a_network_of_its_own() -> None:
    apart, merged = map(predict_cost, deployments(point("lora")))
    (whole,) = map(predict_cost, deployments(point("full")))
    assert merged["task_bytes"] == whole["task_bytes"] and merged["shared_bytes"] == whole["shared_bytes"] == 0
    assert apart["task_bytes"] + apart["shared_bytes"] > merged["task_bytes"] > 10 * apart["task_bytes"]


def test_it_is_predicted_once(tmp_path: Path) -> None:
    found = Deployment(point("linear"), merge=False)
    before = cost_of(found, tmp_path)
    with patch.object(cost, "predict_cost", side_effect=AssertionError):
        assert cost_of(found, tmp_path) == before
        with pytest.raises(PredictionError):
            cost_of(Deployment(point("linear", 96), merge=False), tmp_path)


def test_what_is_timed_is_the_model_on_the_batch() -> None:
    """As many images as asked for, in views of the model's sides, on pixels as they are stored."""
    (found,) = deployments(point("fpt"))
    model, seen = build_deployed(found, torch.device("cpu")), []
    model.register_forward_pre_hook(lambda _, args: seen.append({name: view.shape for name, view in args[0].items()}))
    assert time_deployed(model, 2) > 0
    assert seen[0] == {name: (2, 3, side, side) for name, side in model.sides.items()} and len(seen) > 1


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert bench.main(["cost", "--backbone", BACKBONE, "--res", "64", *arguments]) == 0
    said = capsys.readouterr()
    return said.out, said.err


def test_a_row_a_method_merged_or_not_and_batch_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--methods", "lora", "fpt", "--set", "fpt.side_resolution=32", "--format", "csv", "--cache", str(tmp_path)]
    with patch.object(cost, "TIMED_SECONDS", 0.01):
        out, err = printed(capsys, *given, "--batch-size", "1", "2", "--device", "cpu")
    table = pd.read_csv(io.StringIO(out))
    assert list(zip(table["method"], table["batch_size"], table["merged"], strict=True)) == [
        *(("lora", size, merged) for size in (1, 2) for merged in ("no", "yes")),
        *(("fpt:side_resolution=32", size, "no") for size in (1, 2)),
    ]
    assert set(table["views"]) == {"64", "64 + 32"} and (table["seconds_per_image"] > 0).all()
    product = table["seconds_per_image"] * table["images_per_second"]
    assert product.to_list() == pytest.approx([1] * 6, rel=0.02)
    assert "threads: from pixels in memory to logits, reading files not included" in err
    assert "lora at 64 px, batch 2, merged" in err


def test_without_time_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(cost, "build_deployed", side_effect=AssertionError):
        out, err = printed(capsys, "--methods", "linear", "knn", "--no-time", "--cache", str(tmp_path))
    assert "seconds" not in out and "| linear" in out and "predicted_mib" in out
    assert "knn" not in out and "it keeps the features of all its training images" in err


def test_tables_show_the_cost_of_each_row_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `load_run` uses it, merged, and as it is stored, apart; what is not known here has none, and is said."""
    counts = {"counts": {"test": {"a": 5, "b": 5, "c": 5}}}
    small = {"backbone": BACKBONE, "precision": "fp32"}
    for method in ("full", "lora"):
        options = {"options": {"rank": 2} if method == "lora" else {}}
        store_run(tmp_path, make_record(method, 64, weights=small, config=small | options, dataset=counts), None)
    store_run(tmp_path, make_record("adapter", 64, weights=small, config=small), None)
    assert bench.main(["tables", "--results", str(tmp_path)]) == 0
    assert "A task (MiB)" not in (tmp_path / "tables/results.md").read_text()
    assert bench.main(["tables", "--results", str(tmp_path), "--inference", "--cache", str(tmp_path / "cache")]) == 0
    table = pd.read_csv(tmp_path / "tables/results.csv").set_index("method")
    apart, merged = deployments(dataclasses.replace(point("lora", batch_size=16), options=(("rank", 2),)))
    stored, used = predict_cost(apart), predict_cost(merged)
    assert table.loc["lora", "task_bytes"] == stored["task_bytes"]
    assert table.loc["lora", "shared_bytes"] == stored["shared_bytes"]
    assert table.loc["lora", "use_16_bytes"] == used["memory_bytes"] and table.loc["lora", "use_flops"] == used["flops"]
    assert table["shared_bytes"].to_dict()["full"] == 0 and pd.isna(table["task_bytes"].to_dict()["adapter"])
    text = (tmp_path / "tables/results.md").read_text()
    assert "A task (MiB)" in text and "what is stored once for all tasks" in text


@pytest.mark.parametrize("other", [["--layout", "paper"], ["--compare", "."]])
def test_costs_have_no_place_in_other_tables(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["tables", "--inference", *other]) == 2
    assert "inference must be used without --compare and --layout paper" in capsys.readouterr().err


def test_what_is_stored_is_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--methods", "lora", "--format", "csv", "--cache", str(tmp_path), "--batch-size", "2", "--device", "cpu"]
    with patch.object(cost, "TIMED_SECONDS", 0.01):
        out, _ = printed(capsys, *given, "--store", "--results", str(tmp_path / "results"))
    table, (stored, problems) = pd.read_csv(io.StringIO(out)), read_costs(tmp_path / "results")
    assert problems == [] and [found["merged"] for found in stored] == [False, True]
    for (_, row), found in zip(table.iterrows(), stored, strict=True):
        assert found["point"]["method"] == row["method"] and found["views"] == [64]
        assert 2 / found["seconds"] == pytest.approx(row["images_per_second"], rel=0.01)
        assert "threads" in found["timed_on"] and "measured_bytes" not in found
        for name in ("predicted_bytes", "task_bytes", "shared_bytes"):
            assert found[name] == row[name]
