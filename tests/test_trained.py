"""A kept model computes what its run did: of every method, on several families, merged or not, wherever it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from inside import finish_inside
from PIL import Image
from safetensors.torch import save, save_file
from small_backbones import NARROW, OTHERS, ROTARY, SMALL, WITH_SIDE_VIT
from tiny_images import make_images

from benchmarks.errors import UserError
from benchmarks.inference.card import packed, unpacked
from benchmarks.inference.cost import Deployment, storage_bytes
from benchmarks.inference.trained import TrainedModel, load_model, load_run
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import PredictionError
from benchmarks.model.backbone import create_backbone
from benchmarks.model.method_config import make_config
from benchmarks.records.record import model_path
from benchmarks.storage.files import file_sha256
from methods import METHODS

BACKBONE = f"vit_tiny_patch16_224[{SMALL}]"
RUN = ["--datasets", "images", "--res", "64", "--batch-size", "4", "--device", "cpu", "--epochs", "2"]
SETTINGS = NARROW | {
    **{method: {"side_resolution": 32, "side_reduction": 2} for method in WITH_SIDE_VIT},
    "knn": {"num_neighbours": 3},
}


def run_quickly(folder: Path, *arguments: str) -> None:
    """Runs a suite; what it predicts of memory, and its tables, are no matter here."""
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        ended = finish_inside(folder, *arguments)
    assert ended.returncode == 0, ended.stderr


def records(results: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted((results / "runs").glob("*.json"))]
    return {record["run"]["config"]["method"]: record for record in found}


def settings_of(*methods: str) -> list[str]:
    """What methods need on small networks and few images."""
    found = [f"{m}.{name}={value}" for m in methods for name, value in SETTINGS.get(m, {}).items()]
    return ["--set", *found] if found else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every method, on weights of a file."""
    root = tmp_path_factory.mktemp("trained")
    make_images(root / "images")
    torch.manual_seed(7)
    save_file(create_backbone(BACKBONE).trunk.state_dict(), root / "weights.safetensors")
    weights = ["--weights", "weights.safetensors", "--backbone", BACKBONE]
    run_quickly(root, "--methods", "all", *RUN, *weights, *settings_of(*METHODS))
    return root


def load(root: Path, method: str, **options: Any) -> tuple[TrainedModel, pd.DataFrame]:
    """A method's model, and what its run has stored of its predictions."""
    run_id = records(root / "results")[method]["run_id"]
    model = load_run(root / "results", run_id, **{"weights": str(root / "weights.safetensors")} | options)
    return model, pd.read_csv(root / "results" / "runs" / f"{run_id}.predictions.csv")


def logits_of(model: TrainedModel, root: Path, stored: pd.DataFrame, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The logits of a split now, and as they were stored."""
    rows = stored[stored["split"] == split]
    paths = [root / "images" / path for path in rows["path"]]
    batches = [paths[start : start + model.batch_size] for start in range(0, len(paths), model.batch_size)]
    now = torch.cat([model(model.read(batch)) for batch in batches]).double().numpy()
    return now, rows[[f"logit_{name}" for name in model.classes]].to_numpy()


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_kept_model_gives_the_logits_of_its_run(folder: Path, method: str) -> None:
    """To the last bit, as the computation is the same: the test split merged, as it was tested, validation unmerged.

    Not so with features in 16 bits: how MKL rounds a token depends on its place among so few, and they lie elsewhere
    among those that are extracted at once.
    """
    model, stored = load(folder, method)
    tested, before = logits_of(model, folder, stored, "test")
    tolerance = 1e-6 if METHODS[method].has_extractor else 0
    np.testing.assert_allclose(tested, before, rtol=0, atol=tolerance)
    recipe = METHODS[method].recipe(model.model, make_config(method, model.config.method_settings()), 1)
    if recipe.before_inference is not None:
        model, _ = load(folder, method, merge=False)
        apart, _ = logits_of(model, folder, stored, "test")
        np.testing.assert_allclose(apart, tested, atol=1e-4)
    np.testing.assert_allclose(*logits_of(model, folder, stored, "val"), rtol=0, atol=tolerance)


def test_bytes_of_a_task_are_those_of_the_file(folder: Path, method: str) -> None:
    """Found on no run: what it keeps, beside the card."""
    config = records(folder / "results")[method]["run"]["config"]
    options = tuple(config["options"].items())
    point = MemoryPoint(method, 64, 4, BACKBONE, 2, preload=False, options=options)
    _, kept = unpacked(
        Path(), model_path(folder / "results", records(folder / "results")[method]["run_id"]).read_bytes()
    )
    try:
        task, _ = storage_bytes(Deployment(point, merge=False))
    except PredictionError as error:
        assert method == "knn" and "it keeps the features of all its training images" in str(error)
        return
    # Not known without a run: LoRA-GA changes the frozen weights that it adapts, and DeLoRA's norms stay as built.
    found = sum(tensor.nbytes for name, tensor in kept.tensors.items() if not name.endswith("base_layer.weight"))
    unchanged = {"delora": 2 * 48 * 4}
    assert task == found + unchanged.get(method, 0)
    assert method == "lora_ga" or not any(name.endswith("base_layer.weight") for name in kept.tensors)


FAMILIES = {
    "resnet50": ("resnet50[layers=[1,1,1,1]]", ["full", "linear", "bitfit"]),  # with statistics of batch norm
    "swinv2": (OTHERS["swinv2"], ["adapter", "lora"]),
    "dinov3": (ROTARY["dinov3"], ["vpt", "fpt", "lst"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_random_weights_come_back_from_the_seed(family: str, tmp_path: Path) -> None:
    backbone, methods = FAMILIES[family]
    make_images(tmp_path / "images")
    given = ["--weights", "none", "--backbone", backbone, "--seeds", "3", *settings_of(*methods)]
    run_quickly(tmp_path, "--methods", *methods, *RUN, *given)
    for method in methods:
        model, stored = load(tmp_path, method, weights=None)
        np.testing.assert_array_equal(*logits_of(model, tmp_path, stored, "test"))


def test_a_card_says_what_the_model_is_and_names_no_place(folder: Path) -> None:
    model, _ = load(folder, "fpt")
    card, record = model.card, records(folder / "results")["fpt"]
    assert card["run_id"] == record["run_id"] and card["config"] == record["run"]["config"]
    assert card["dataset"]["classes"] == ["bright", "dark"] == list(model.classes)
    assert card["dataset"]["normalization"] == record["run"]["dataset"]["normalization"]
    assert card["weights"]["sha256"] == file_sha256(folder / "weights.safetensors")
    assert card["input"]["views"] == {"image": 64, "image_low": 32} == model.sides
    assert card["backbone"]["pool"] == "native" and card["backbone"]["licence"] is None
    low, high = card["scores"]["test_auc_interval"]
    assert low <= card["scores"]["test"]["auc"] <= high
    assert "not for clinical use" in card["notice"]
    assert str(folder) not in json.dumps(card) and "finished" not in json.dumps(card)


def test_a_file_taken_elsewhere_is_enough(folder: Path, tmp_path: Path) -> None:
    """With the backbone's weights, or without where all of it was trained."""
    kept = records(folder / "results")
    for method, weights in (("linear", str(folder / "weights.safetensors")), ("full", None)):
        path = Path(shutil.copy(model_path(folder / "results", kept[method]["run_id"]), tmp_path / "mine.safetensors"))
        _, stored = load(folder, method)
        model = load_model(path, weights=weights, cache=tmp_path / "cache")
        np.testing.assert_array_equal(*logits_of(model, folder, stored, "test"))


def test_whole_images_are_resized_as_those_of_the_training(folder: Path) -> None:
    """FPT's low-resolution view too is made of the whole image."""
    model, _ = load(folder, "fpt")
    path = folder / "images/test/dark/0.png"
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
        made = model.views([image, pixels])
    read = model.read([path, path])
    assert all(torch.equal(made[name], read[name]) for name in ("image", "image_low"))
    assert torch.equal(model(torch.stack([pixels] * 2)), model(read))
    torch.testing.assert_close(model(pixels), model(read)[:1], atol=1e-5, rtol=0)  # a smaller batch adds up otherwise
    with pytest.raises(UserError, match=r"image must be uint8 of \(3, H, W\) or \(H, W\), got torch.float32 of \(2,\)"):
        model.views([torch.zeros(2)])


def change_card(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    card, kept = unpacked(path, path.read_bytes())
    change(card)
    path.write_bytes(packed(kept.tensors, card))
    return path


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "built": (  # as a version of torch that draws other numbers would have it
        lambda card: card["frozen"].update(extractor=[0.0, card["frozen"]["extractor"][1]]),
        "must have what it does not hold built as in its training",
    ),
    "pixels": (lambda card: card["input"].update(pixel_format=1), "trained on pixels of format 2, .* got 1"),
    "format": (lambda card: card.update(format=7), "its format must be 1, got 7"),
    "method": (lambda card: card["config"].update(method="mine"), "method must be one that is known here, got 'mine'"),
    "classes": (lambda card: card["dataset"].pop("classes"), "dataset.classes must be given"),
    "weights": (lambda card: card["config"].update(weights_sha256="00"), "that the model was trained on, with .* 00"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_is_another_here_is_refused(folder: Path, tmp_path: Path, change: str) -> None:
    kept = records(folder / "results")
    path = Path(shutil.copy(model_path(folder / "results", kept["fpt"]["run_id"]), tmp_path / "mine.safetensors"))
    apply, message = CHANGES[change]
    with pytest.raises(UserError, match=message):
        load_model(change_card(path, apply), weights=str(folder / "weights.safetensors"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "content", [b"", b"x" * 40, b"\xff" * 7, save({"a": torch.zeros(1)}), (2**40).to_bytes(8, "little")]
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model must be a file that a run of this program has kept, got '.*other"):
        load_model(path)
    with pytest.raises(UserError, match=r"model must be a file that can be read, got .*gone.*\(No such file"):
        load_model(tmp_path / "gone.safetensors")


def test_weights_of_a_file_have_to_be_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"pass weights.safetensors \(SHA-256 [0-9a-f]{64}\) with --weights FILE"):
        load(folder, "linear", weights=None)


def test_runs_that_are_missing_or_damaged_are_named(folder: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(folder / "results", tmp_path / "results"))
    run_id = records(results)["linear"]["run_id"]
    with pytest.raises(UserError, match=f"run must be one of those under .*; nearest: .*{run_id}"):
        load_run(results, run_id[:-1])
    with pytest.raises(UserError, match="run must be one of those"):
        load_run(results, "../secret")
    path = model_path(results, run_id)
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(UserError, match=r"model must be what was stored, got '.*', whose content has changed"):
        load_run(results, run_id)
    path.unlink()
    with pytest.raises(UserError, match=r"model of a run must be there, got none of .* \(it was removed, or gave way"):
        load_run(results, run_id)
