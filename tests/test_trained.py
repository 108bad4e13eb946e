"""A kept model computes what its run did: for every method, on several families, merged or not, wherever it is taken."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from inside import finish_inside
from PIL import Image
from safetensors.torch import save_file
from small_backbones import NARROW, SMALL
from tiny_images import make_images

from benchmarks.errors import UserError
from benchmarks.inference.trained import TrainedModel, load_model, load_run
from benchmarks.model.backbone import create_backbone
from benchmarks.records.record import model_path
from methods import METHODS

BACKBONE = f"vit_tiny_patch16_224[{SMALL}]"
RUN = ["--datasets", "images", "--res", "64", "--batch-size", "4", "--device", "cpu", "--epochs", "2"]
SETTINGS = NARROW | {
    **dict.fromkeys(("fpt", "fpt_plus", "side_tuning"), {"side_resolution": 32, "side_reduction": 2}),
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every method, on weights of a file."""
    root = tmp_path_factory.mktemp("trained")
    make_images(root / "images")
    torch.manual_seed(7)
    save_file(create_backbone(BACKBONE).trunk.state_dict(), root / "weights.safetensors")
    settings = [f"{m}.{name}={value}" for m, options in SETTINGS.items() for name, value in options.items()]
    run_quickly(
        root, "--methods", "all", *RUN, "--weights", "weights.safetensors", "--backbone", BACKBONE, "--set", *settings
    )  # fmt: skip
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
    """To the last bit where the computation is the same: the test split merged, as tested, and validation unmerged."""
    tested, stored = load(folder, method)
    validated, _ = load(folder, method, merge=False)
    for model, split in ((tested, "test"), (validated, "val")):
        now, before = logits_of(model, folder, stored, split)
        np.testing.assert_array_equal(now, before)
    other, _ = logits_of(validated, folder, stored, "test")
    np.testing.assert_allclose(other, logits_of(tested, folder, stored, "test")[0], atol=1e-4)
