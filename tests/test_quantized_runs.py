"""Quantised frozen weights in use: predicted memory, runs, their records, kept models and exports."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from bench_process import TINY
from fixed_records import make_record
from inside import finish_inside
from small_backbones import NARROW, SMALL
from tiny_images import make_images

from benchmarks.analysis.summary import summary
from benchmarks.inference.export import Exportable, export_merged, exported, random_images
from benchmarks.inference.trained import load_run
from benchmarks.memory.phases import build_point
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.memory.savers import SAVERS, why_refused, with_each_saver
from benchmarks.model.build import Parts
from benchmarks.records.frame import runs_frame
from benchmarks.training.quantized import Kind, QuantizedLinear

BACKBONE = f"vit_tiny_patch16_224[{SMALL}]"
KINDS: tuple[Kind, ...] = ("int8", "nf4")
REFUSAL = "quantize must be none for full, which leaves no linear layer of the backbone frozen"


# 1. Memory.


def layers_of(parts: Parts) -> set[QuantizedLinear]:
    modules = [module for part in (parts.model, parts.extractor) if part is not None for module in part.modules()]
    return {module for module in modules if isinstance(module, QuantizedLinear)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "linear", "fpt"])
def test_predicted_parameters_are_those_of_the_quantised_model(method: str, kind: Kind) -> None:
    """And by the closed formula: of each block 12 D^2 weights, a scale for each of 9 D outputs or for 64 of them.

    FPT's backbone keeps its pretrained head: 1000 D.
    """
    options = (("side_reduction", 4),) if method == "fpt" else ()
    point = MemoryPoint(method, 64, 1, "vit_tiny_patch16_224[depth=2]", quantize=kind, preload=False, options=options)
    parts = build_point(point)
    tensors = {tensor for part in (parts.model, parts.extractor) if part is not None for tensor in part.parameters()}
    buffers = {tensor for part in (parts.model, parts.extractor) if part is not None for tensor in part.buffers()}
    predicted = predict_memory(point).phases["setup"].breakdown["parameters"]
    assert 0 <= predicted - sum(tensor.nbytes for tensor in tensors | buffers) < 512 * len(tensors | buffers)
    width, blocks, classes = 192, 2, 1000 if method == "fpt" else 0
    weights = blocks * 12 * width**2 + classes * width
    scales, codes = (blocks * 9 * width + classes, weights) if kind == "int8" else (weights // 64, weights // 2)
    found = sum(layer.codes.nbytes + layer.scales.nbytes for layer in layers_of(parts))
    assert found == codes + 4 * scales


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_training_is_plain_training_without_the_weights(kind: Kind) -> None:
    """Up to the largest weight, which is there for its product alone: four bytes a number in fp32 and two in bf16.

    Plain training in bf16 has a copy in bf16 of every weight that autograd keeps.
    """
    backbone = "vit_tiny_patch16_224[depth=8]"
    plain, saved = (
        predict_memory(MemoryPoint("bitfit", 64, 8, backbone, precision="bf16", attention="sdpa", quantize=quantize))
        for quantize in ("none", kind)
    )
    linear, at_once = 8 * 12 * 192**2, (4 + 2) * 4 * 192**2
    gone = plain.phases["setup"].allocated - saved.phases["setup"].allocated
    lower = plain.phases["train"].allocated - saved.phases["train"].allocated
    assert gone + 2 * linear - at_once - 2**16 <= lower <= gone + 2 * linear + 2**16


def test_what_leaves_nothing_frozen_refuses_quantised_weights_of_each_saver() -> None:
    full, lora = (
        with_each_saver(MemoryPoint(method, 64, 1, BACKBONE, precision="bf16")) for method in ("full", "lora")
    )
    assert lora.keys() == full.keys() == SAVERS.keys()
    assert not any(why_refused(point) for point in lora.values())
    assert {name for name, point in full.items() if why_refused(point)} == {
        name for name in SAVERS if "quantize" in SAVERS[name]
    }
    assert {point.quantize for point in lora.values()} == {"none", "int8", "nf4"}


@pytest.mark.parametrize("command", [["memory", "--predict", "--res", "64"], ["fit", "--res", "64"]])
def test_memory_and_fit_refuse_what_a_run_refuses(tmp_path: Path, command: list[str]) -> None:
    ended = finish_inside(tmp_path, *command, "--methods", "full", "--backbone", BACKBONE, "--quantize", "nf4")
    assert ended.returncode == 2
    assert (
        "quantize must be none for full, which leaves no linear layer of the backbone frozen, got 'nf4'" in ended.stderr
    )


# 2. Runs.


# Of every kind: updates, parts of the backbone, what is merged else, and features of a frozen part.
MORE: dict[str, dict[str, Any]] = {
    **{"dora": {}, "pissa": {}, "shira": {}, "partial": {}, "repadapter": {}, "ssf": {}, "dtl": {}},
    **{"fpt": {"side_resolution": 16}, "synqt": NARROW.get("synqt", {}), "knn": {"num_neighbours": 3}},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with runs of some methods, plain and quantised, and their records."""
    folder = tmp_path_factory.mktemp("quantized")
    make_images(folder / "images")
    for more in ([], ["--quantize", "int8"], ["--quantize", "nf4"]):
        ended = finish_inside(folder, "--methods", "lora", "linear", "simpleshot", *TINY, "--epochs", "1", *more)
        assert ended.returncode == 0, ended.stderr
    settings = [f"{method}.{name}={value}" for method, options in MORE.items() for name, value in options.items()]
    options = [*TINY, "--epochs", "1", "--quantize", "nf4", "--results", "more", "--set", *settings]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        ended = finish_inside(folder, "--methods", *MORE, *options)
    assert ended.returncode == 0, ended.stderr
    return folder, [json.loads(path.read_text()) for path in (folder / "results" / "runs").glob("*.json")]


def of(records: list[dict[str, Any]], method: str, quantize: str) -> dict[str, Any]:
    (found,) = (
        record
        for record in records
        if record["run"]["config"]["method"] == method and record["run"]["config"]["quantize"] == quantize
    )
    return found


def test_a_run_says_so_in_record_and_label(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    table = summary(runs_frame(stored[1]))
    assert len(stored[1]) == 9  # what trains nothing has quantised features too
    assert {"LoRA", "LoRA (int8 weights)", "LoRA (NF4 weights)"} <= set(table["label"])
    assert len(set(table["block"])) == 3  # what changes numbers makes a protocol of its own
    of_nf4 = of(stored[1], "lora", "nf4")["measurements"]["predicted_memory"]["phases"]["setup"]
    assert (
        of_nf4["peak_allocated_bytes"]
        < 0.5
        * (of(stored[1], "lora", "none")["measurements"]["predicted_memory"]["phases"]["setup"]["peak_allocated_bytes"])
    )


def test_features_of_other_weights_are_of_another_cache(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    preloads = {kind: of(stored[1], "linear", kind)["measurements"]["preload"] for kind in ("none", *KINDS)}
    assert len({preload["cache"] for preload in preloads.values()}) == 3
    assert [preload["weights_dtype"] for preload in preloads.values()] == ["float32", "int8", "nf4"]
    listed = finish_inside(stored[0], "list", "caches", "--format", "csv")
    assert listed.returncode == 0 and {"none", "int8", "nf4"} <= set(listed.stdout.replace("\n", ",").split(","))


@pytest.mark.parametrize("method", ["lora", "linear", "simpleshot"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_model_gives_the_logits_of_its_run(
    stored: tuple[Path, list[dict[str, Any]]], method: str, kind: str
) -> None:
    folder, records = stored
    assert_same_logits(folder, folder / "results", of(records, method, kind)["run_id"])


@pytest.mark.parametrize("method", MORE)
def test_so_do_kept_models_of_other_methods(stored: tuple[Path, list[dict[str, Any]]], method: str) -> None:
    (path,) = stored[0].glob(f"more/runs/images-32-{method}-*.json")
    assert_same_logits(stored[0], stored[0] / "more", path.stem)


def assert_same_logits(folder: Path, results: Path, run_id: str) -> None:
    model = load_run(results, run_id, cache=folder / ".cache")
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())
    before = pd.read_csv(results / "runs" / f"{run_id}.predictions.csv")
    for split in ("val", "test"):  # neither is of merged weights
        rows = before[before["split"] == split]
        logits = model(model.read([folder / "images" / path for path in rows["path"]]))
        expected = torch.tensor(rows[[f"logit_{name}" for name in model.classes]].to_numpy())
        torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "linear"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_export_has_plain_weights_and_the_same_logits(
    stored: tuple[Path, list[dict[str, Any]]], tmp_path: Path, method: str, kind: str
) -> None:
    folder, records = stored
    model = load_run(folder / "results", of(records, method, kind)["run_id"], cache=folder / ".cache")
    images = random_images(model.sides, 2, torch.device("cpu"))
    with torch.no_grad():
        before = Exportable(model)(*images)
        assert export_merged(model, tmp_path / "merged.safetensors") < 1e-4  # of timm's network, by the code itself
        program: Any = exported(model).module()
        torch.testing.assert_close(program(*images), before, rtol=1e-4, atol=1e-4)
        assert torch.equal(Exportable(model)(*images), before)


def test_a_run_stored_before_is_one_without() -> None:
    pd.testing.assert_frame_equal(
        runs_frame([make_record("lora", config={})]), runs_frame([make_record("lora", config={"quantize": "none"})])
    )


def test_a_run_refuses_it_before_any_work(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    ended = finish_inside(tmp_path, "--methods", "full", "lora", *TINY, "--quantize", "int8")
    assert ended.returncode == 2
    assert (
        "quantize must be none for full, which leaves no linear layer of the backbone frozen, got 'int8'"
        in ended.stderr
    )
    assert not list(tmp_path.glob("results/runs/*.json"))
