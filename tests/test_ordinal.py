"""CORN: its loss, the grades that it calls, and runs that train with it."""

import json
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from bench_process import TINY
from inside import finish_inside
from scipy.special import expit, softmax
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, roc_auc_score
from small_backbones import SMALL
from tiny_images import make_images

from benchmarks.analysis.evidence import read_evidence
from benchmarks.analysis.extra_scores import SCORES
from benchmarks.analysis.run_scores import read_scores
from benchmarks.inference.predict import predict
from benchmarks.inference.trained import load_run
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.tasks import TASKS
from benchmarks.training.step import evaluation_step, make_optimization, training_step

CORN = TASKS["corn"]
GRADES = ("none", "mild", "severe")
OUTPUTS = [[0.3, -1.2, 0.7, 2.0], [1.5, 0.4, -0.6, -2.2], [-0.9, 0.1, 0.0, 1.1], [2.4, 1.8, 0.9, -0.3]]


def test_the_loss_is_that_of_the_authors_code() -> None:
    """Numbers of corn_loss of coral-pytorch 1.4.0, which the authors of the paper wrote."""
    outputs = torch.tensor(OUTPUTS)
    for labels, expected in (([0, 2, 1, 4], 0.5427144765853882), ([4, 0, 3, 3], 0.7192708253860474)):
        assert CORN.loss(outputs, torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_the_mean_over_the_terms_of_all_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(9, 5, generator=generator), torch.randint(0, 6, (9,), generator=generator)
    terms = [
        F.binary_cross_entropy_with_logits(outputs[i, k], torch.tensor(float(labels[i] > k)))
        for i in range(9)
        for k in range(5)
        if labels[i] >= k
    ]
    assert CORN.loss(outputs, labels).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-6)


def test_probabilities_are_products_of_the_conditional_ones() -> None:
    logits = CORN.logits(torch.tensor(OUTPUTS, dtype=torch.float64)).numpy()
    for output, row in zip(OUTPUTS, softmax(logits, axis=1), strict=True):
        more = expit(np.array(output))
        expected = [np.prod(more[:k]) * (1 - more[k] if k < 4 else 1) for k in range(5)]
        np.testing.assert_allclose(row, expected, rtol=1e-12)
        assert np.exp(logits).sum(axis=1) == pytest.approx(1)


def test_a_grade_is_called_by_the_cumulated_probabilities_and_not_the_likeliest() -> None:
    outputs = torch.tensor(OUTPUTS)
    expected = (outputs.sigmoid().cumprod(dim=1) > 0.5).sum(dim=1).tolist()  # the authors' corn_label_from_logits
    logits = CORN.logits(outputs).double().numpy()
    assert CORN.called(logits).tolist() == expected
    spread = np.log([[0.4, 0.3, 0.3]])
    assert CORN.called(spread).tolist() == [1] and TASKS["cross_entropy"].called(spread).tolist() == [0]


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_training_with_it_learns_an_order(method: str) -> None:
    torch.manual_seed(0)
    parts = build_parts(method, make_config(method, {}), f"vit_tiny_patch16_224[{SMALL}]", CORN.num_outputs(3), 32)
    assert parts.model.head.out_features == 2  # type: ignore[union-attr]
    images = torch.randn(6, 3, 32, 32) + torch.arange(6).div(2, rounding_mode="floor")[:, None, None, None]
    inputs = {"image": images} if parts.extractor is None else parts.extractor(image=images)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    optimization = make_optimization(parts.model.train(), 1e-2, 0.0, "fp32", "cpu", loss="corn")
    losses = [training_step(parts.model, inputs, labels, optimization).item() for _ in range(25)]
    assert losses[-1] < 0.5 * losses[0]
    logits = evaluation_step(parts.model.eval(), inputs, "fp32", "cpu", "corn")
    assert CORN.called(logits.double().numpy()).tolist() == labels.tolist()


@pytest.mark.parametrize("loss", ["corn", "bce"])
def test_its_memory_is_predicted(loss: Any) -> None:
    """The head has an output less; and the step runs on tensors that hold nothing."""
    point = MemoryPoint("linear", 32, 4, "vit_tiny_patch16_224[depth=1]", 5, loss=loss)
    found, plain = (predict_memory(each).phases["train"] for each in (point, MemoryPoint(*_settings(point))))
    head = found.breakdown["parameters"] - plain.breakdown["parameters"]
    assert (head < 0) == (loss == "corn")
    assert loss in point.name and "corn" not in MemoryPoint(*_settings(point)).name


def _settings(point: MemoryPoint) -> tuple[Any, ...]:
    return point.method, point.resolution, point.batch_size, point.backbone, point.num_classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ordinal")
    make_images(root / "images", GRADES)
    (root / "images" / "classes.txt").write_text("# ordered\n" + "\n".join(GRADES) + "\n")
    make_images(root / "kinds")
    ended = run(root, "--methods", "linear", "knn", "--set", "knn.num_neighbours=3", "--loss", "corn")
    assert ended.returncode == 0, ended.stderr
    assert run(root, "--methods", "linear").returncode == 0
    return root


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        return finish_inside(folder, *TINY, "--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1", *words)


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in sorted((folder / "results" / "runs").glob("[!.]*.json"))]
    names = {"corn": "corn"}
    return {
        f"{record['run']['config']['method']} {names.get(record['run']['config']['loss'], '')}".strip(): record
        for record in records
    }


def test_runs_are_recorded_and_scored_as_their_predictions_say(folder: Path) -> None:
    records = stored(folder)
    assert set(records) == {"linear corn", "linear", "knn"}  # what nothing trains has no loss
    record = records["linear corn"]
    data = (folder / "results" / "runs" / f"{record['run_id']}.predictions.csv").read_bytes()
    frame = pd.read_csv(folder / "results" / "runs" / f"{record['run_id']}.predictions.csv").query("split == 'test'")
    probabilities = frame[[f"prob_{name}" for name in GRADES]].to_numpy()
    labels, called = ([GRADES.index(name) for name in frame[column]] for column in ("label", "called"))
    assert probabilities.sum(axis=1) == pytest.approx(1)
    test = record["measurements"]["test"]
    assert called == CORN.called(np.log(probabilities)).tolist()
    assert test["mae"] == pytest.approx(mean_absolute_error(labels, called))
    assert test["kappa"] == pytest.approx(cohen_kappa_score(labels, called, weights="quadratic", labels=[0, 1, 2]))
    assert test["auc"] == pytest.approx(roc_auc_score(np.eye(3)[labels], probabilities))
    assert read_evidence(data).auc == pytest.approx(test["auc"])
    scores = dict(zip(SCORES, read_scores(data).values, strict=True))
    assert (scores["mae"], scores["accuracy"]) == pytest.approx((test["mae"], test["accuracy"]))
    assert (
        record["measurements"]["parameters"]["trainable_head"]
        < records["linear"]["measurements"]["parameters"]["trainable_head"]
    )


def test_tables_tell_it_apart_and_show_the_error_in_grades(folder: Path) -> None:
    ended = finish_inside(folder, "tables", "--metrics", "mae", "kappa")
    assert ended.returncode == 0, ended.stderr
    text = (folder / "results" / "tables" / "results.md").read_text()
    assert "Linear probe (CORN" in text and "Mean absolute error ↓" in text and "Kappa, quadratic ↑" in text
    table = pd.read_csv(folder / "results" / "tables" / "results.csv")
    linear = table[table["label"].str.startswith("Linear probe (CORN")].iloc[0]
    assert 0 <= linear["mae_low"] <= linear["mae_mean"] <= linear["mae_high"] <= 2


def test_the_kept_model_gives_the_same_probabilities(folder: Path) -> None:
    record = stored(folder)["linear corn"]
    runs = folder / "results" / "runs"
    frame = pd.read_csv(runs / f"{record['run_id']}.predictions.csv").query("split == 'test'")
    model = load_run(folder / "results", record["run_id"], cache=folder / ".cache")
    found, problems = predict(model, [folder / "images" / path for path in frame["path"]])
    columns = [*(f"prob_{name}" for name in GRADES), *(f"logit_{name}" for name in GRADES)]
    np.testing.assert_allclose(found[columns], frame[columns], atol=1e-6)
    assert found["called"].tolist() == frame["called"].tolist() and not problems


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--datasets", "kinds", "--loss", "corn"], "loss corn must be of classes that are grades, got kinds"),
        (["--loss", "bce"], "loss must be one for images of one class each, as images has, got 'bce'"),
        (["--loss", "hinge"], "loss must be one of cross_entropy, bce, corn, got 'hinge'"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, words: list[str], said: str) -> None:
    ended = run(folder, "--methods", "linear", "--dry-run", *words)
    assert ended.returncode == 2 and said in ended.stderr


def test_methods_that_look_at_a_gradient_first_take_that_of_the_loss(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(folder / "images")
    words = ["--set", "lora_ga.rank=4", "lora_ga.num_batches=2", "head2toe.selection_epochs=2", "--loss", "corn"]
    ended = run(tmp_path, "--methods", "head2toe", "lora_ga", *words)
    assert ended.returncode == 0, ended.stderr
    assert {record["status"]["state"] for record in stored(tmp_path).values()} == {"ok"}
    assert set(stored(tmp_path)) == {"head2toe corn", "lora_ga corn"}
