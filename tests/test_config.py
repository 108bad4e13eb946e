"""The identity of a run: readable, stable, and another one as soon as any setting differs."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.config import RunConfig, identity

ROOT = Path(__file__).resolve().parent.parent
CONFIG = RunConfig(
    method="lora",
    dataset="demo",
    dataset_digest="d1" * 32,
    resolution=512,
    seed=0,
    backbone="vit_base_patch16_384",
    weights="hub",
    weights_sha256="ab" * 32,
    epochs=20,
    batch_size=16,
    lr=1e-3,
    weight_decay=1e-4,
    options={"rank": 16, "alpha": 16, "dropout": 0.0},
)
OTHERS: dict[str, Any] = {
    "method": "vpt",
    "dataset": "covid",
    "dataset_digest": "d2" * 32,
    "resolution": 448,
    "seed": 1,
    "backbone": "vit_tiny_patch16_224",
    "weights": "none",
    "weights_sha256": None,
    "epochs": 5,
    "batch_size": 8,
    "lr": 2e-3,
    "weight_decay": 0.0,
    "options": {"rank": 8, "alpha": 16, "dropout": 0.0},
    "precision": "bf16",
    "attention": "eager",
    "grad_checkpointing": True,
    "preload": True,
    "device_type": "cuda",
    "lr_grid": (1e-3, 2e-3),
    "decay_all": True,
    "warmup_epochs": 2,
    "trial": True,
    "stop_hopeless": True,
    "plugins": (("mine.py", "ef" * 32),),
    "normalization": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    "resample_patch_embed": True,
    "offload": "activations",
    "recompute": "cheap",
    "optimizer": "sgd",
    "frozen_weights": "bf16",
    "quantize": "nf4",
    "compile": "default",
    "train_fraction": 0.25,
    "shots": 5,
    "keep_steps": True,
    "training_set": "ab" * 32,
    "imbalance": "class_weights",
    "loss": "corn",
    "uncertain": "one",
}


def test_the_run_id_is_the_same_everywhere_and_for_ever() -> None:
    # A stored record is found by this name: if it changes, everybody's finished runs count as missing.
    assert CONFIG.run_id == "demo-512-lora-s0-637960562e"


def test_the_order_of_options_does_not_matter() -> None:
    reordered = dict(reversed(CONFIG.options.items()))
    assert dataclasses.replace(CONFIG, options=reordered).run_id == CONFIG.run_id


def test_every_setting_changes_the_run_id() -> None:
    assert set(OTHERS) == {field.name for field in dataclasses.fields(RunConfig)}
    ids = {dataclasses.replace(CONFIG, **{name: value}).run_id for name, value in OTHERS.items()}
    assert len(ids | {CONFIG.run_id}) == len(OTHERS) + 1


@pytest.mark.parametrize("name", ["Fundus photos (left)", "données", "眼底", "a.b", "x/y"])
def test_any_folder_name_makes_a_file_name(name: str) -> None:
    run_id = dataclasses.replace(CONFIG, dataset=name).run_id
    assert re.fullmatch(r"[A-Za-z0-9_-]+", run_id)


def test_the_method_settings_are_the_options_with_the_budget() -> None:
    assert CONFIG.method_settings() == {"lr": 1e-3, "weight_decay": 1e-4, "rank": 16, "alpha": 16, "dropout": 0.0}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results" / "demo" / "runs").glob("*.json")), ids=lambda path: path.stem
)
def test_a_stored_run_has_the_id_that_its_settings_give(path: Path) -> None:
    config = json.loads(path.read_text())["run"]["config"]
    assert RunConfig(**config).run_id == path.stem


@dataclasses.dataclass(frozen=True)
class NewRunConfig(RunConfig):
    """Settings as a later version has them."""

    layer_decay: float = dataclasses.field(default=1.0, metadata={"later": True})


def test_a_setting_that_came_later_counts_where_it_is_used() -> None:
    settings = dataclasses.asdict(CONFIG)
    assert identity(settings | {"layer_decay": 1.0}, NewRunConfig) == identity(settings, RunConfig)
    assert identity(settings | {"layer_decay": 0.7}, NewRunConfig)["layer_decay"] == 0.7
    stored = json.loads(json.dumps(settings))
    assert identity(stored, RunConfig) == json.loads(json.dumps(identity(settings, RunConfig)))
    assert "lr_grid" not in identity(stored, RunConfig)
