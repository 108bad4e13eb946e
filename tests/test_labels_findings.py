"""Fewer labels and unequal findings: what is trained on, nested and by patient, and losses against naive loops."""

import dataclasses
import json
import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from bench_process import TINY
from finding_images import NAMES, make_findings
from inside import finish_inside
from small_backbones import SMALL

from benchmarks.config import LabelBudget
from benchmarks.data.dataset import Dataset, Sample, open_dataset
from benchmarks.data.findings import Findings, Row
from benchmarks.data.training_set import TrainingSet, choose_training_set
from benchmarks.errors import UserError
from benchmarks.records.frame import load_frame
from benchmarks.training.imbalance import make_loss

SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
PRESENT = (0.5, 0.2, 0.08)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset whose training table is made up: 300 patients with one to three images, some unknown."""
    opened = open_dataset(str(make_findings(tmp_path_factory.mktemp("data") / "images")), Path(), Path(".cache"))
    rng, rows = np.random.default_rng(0), []
    for patient in range(300):
        for number in range(int(rng.integers(1, 4))):
            has = [int(rng.random() < share) for share in PRESENT]
            values = tuple(None if rng.random() < 0.1 else -1 if rng.random() < 0.05 else value for value in has)
            rows.append(Row(f"scans/{patient}_{number}.png", "train", f"p{patient}", values))
    rows.sort()
    samples = tuple(Sample(row.path, row.values) for row in rows)
    return dataclasses.replace(
        opened, splits=opened.splits | {"train": samples}, findings=Findings(NAMES, tuple(rows), True)
    )


def chosen(dataset: Dataset, **budget: float) -> TrainingSet:
    found = choose_training_set(dataset, LabelBudget(**budget))  # type: ignore[arg-type]
    assert found is not None
    return found


def patients(dataset: Dataset, rows: np.ndarray) -> list[str]:
    return [dataset.splits["train"][row].path.split("/")[1].split("_")[0] for row in rows]


def test_shares_are_nested_by_patient_and_each_finding_has_its_share(images: Dataset) -> None:
    samples = images.splits["train"]
    before: set[int] = set()
    everyone = patients(images, np.arange(len(samples)))
    targets = images.targets("train")
    for share in SHARES:
        found = chosen(images, train_fraction=share)
        mine = set(found.rows.tolist())
        assert before <= mine and abs(len(mine) - share * len(samples)) <= 3
        inside = set(patients(images, found.rows))
        assert mine == {row for row, patient in enumerate(everyone) if patient in inside}  # whole patients
        assert (found.unit, found.num_units) == ("group", len(inside))
        for place, name in enumerate(NAMES):
            for value in (1, 0):
                whole, own = (targets[:, place] == value).sum(), (targets[found.rows, place] == value).sum()
                assert abs(own - share * whole) <= max(3, 0.15 * share * whole), (share, name, value)
            assert found.counts[name] == (targets[found.rows, place] == 1).sum()
            assert found.known is not None
            assert found.known[name] == np.isfinite(targets[found.rows, place]).sum()
        before = mine
    assert choose_training_set(images, LabelBudget()) is None


def test_shots_are_at_least_so_many_patients_with_and_without_each_finding(images: Dataset) -> None:
    before: set[int] = set()
    targets = images.targets("train")
    for shots in (1, 3, 10, 30):
        found = chosen(images, shots=shots)
        mine = set(found.rows.tolist())
        assert before <= mine
        for place in range(len(NAMES)):
            for value in (1, 0):
                rows = found.rows[targets[found.rows, place] == value]
                assert len(set(patients(images, rows))) >= shots
        assert found.num_units <= 6 * shots
        before = mine


def test_too_few_labels_are_refused_with_what_would_do(images: Dataset) -> None:
    targets = images.targets("train")
    with_rare = len(set(patients(images, np.flatnonzero(targets[:, 2] == 1))))
    with pytest.raises(UserError, match=f"shots must be at most the {with_rare} training groups with rare in images"):
        chosen(images, shots=with_rare + 1)
    assert chosen(images, shots=with_rare).counts["rare"] == (targets[:, 2] == 1).sum()
    with pytest.raises(UserError, match=r"none with \w+ in images; choose at least 0\.0") as refusal:
        chosen(images, train_fraction=0.002)
    least = float(str(refusal.value).rpartition(" ")[2])
    assert min(chosen(images, train_fraction=least).counts.values()) >= 1
    with pytest.raises(UserError, match="train fraction must leave images with and without each finding"):
        chosen(images, train_fraction=least - 0.001)


def batch() -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Logits and targets of a batch, and the targets of the training split that it is of."""
    rng = np.random.default_rng(2)
    train = (rng.random((200, 3)) < [0.5, 0.2, 0.04]).astype(np.float32)
    train[rng.random((200, 3)) < 0.2] = np.nan
    logits = torch.from_numpy(rng.normal(size=(16, 3)).astype(np.float32))
    return logits, train, torch.from_numpy(train[:16])


def terms(logits: torch.Tensor, targets: torch.Tensor) -> list[tuple[int, float, float]]:
    """Finding, target and logit of all that is known."""
    pairs = [(i, c) for i in range(len(logits)) for c in range(logits.shape[1])]
    return [(c, targets[i, c].item(), logits[i, c].item()) for i, c in pairs if not math.isnan(targets[i, c].item())]


def cross_entropy(target: float, logit: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if target == 1 else 1 - probability)


def test_weights_make_both_sides_of_each_finding_weigh_the_same() -> None:
    logits, train, targets = batch()
    sides = {(c, v): int((train[:, c] == v).sum()) for c in range(3) for v in (0, 1)}

    def weight(c: int, target: float) -> float:
        return (sides[c, 0] + sides[c, 1]) / (2 * sides[c, int(target)])

    known = terms(logits, targets)
    expected = sum(weight(c, y) * cross_entropy(y, z) for c, y, z in known) / sum(weight(c, y) for c, y, _ in known)
    loss = make_loss("class_weights", train, 3, CPU, "bce")
    assert loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)
    for c in range(3):  # over the training split, with as much as without
        assert sides[c, 1] * weight(c, 1) == pytest.approx(sides[c, 0] * weight(c, 0))
    nothing = torch.full((2, 3), torch.nan)
    asked = logits[:2].clone().requires_grad_()
    loss(asked, nothing).backward()
    assert loss(asked, nothing).item() == 0 and asked.grad is not None and (asked.grad == 0).all()


def test_adjusted_logits_are_those_of_two_classes() -> None:
    """Equation 10 of Menon et al. with two logits, of which the finding's is the difference."""
    logits, train, targets = batch()
    expected = []
    for c, y, z in terms(logits, targets):
        known = train[:, c][~np.isnan(train[:, c])]
        shares = torch.tensor([(known == 0).mean(), (known == 1).mean()])
        two = torch.tensor([[0.0, z]]) + shares.log()
        expected.append(torch.nn.functional.cross_entropy(two, torch.tensor([int(y)])).item())
    loss = make_loss("logit_adjustment", train, 3, CPU, "bce")
    assert loss(logits, targets).item() == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_findings(root / "images")
    return root


RUN = [*TINY, "--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1", "--methods", "linear"]


def test_runs_say_what_they_were_trained_on_and_differ(folder: Path) -> None:
    labels = [["--train-fraction", "0.5", "1"], ["--shots", "2"]]
    ways = [["--imbalance", way] for way in ("class_weights", "logit_adjustment")]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        for words in (*labels, *ways):
            ended = finish_inside(folder, *RUN, *words, "--batch-size", "4")
            assert ended.returncode == 0, ended.stderr
    frame, problems = load_frame(folder / "results")
    assert not problems and len(frame) == 5
    by_labels = frame[frame["imbalance"] == "none"].set_index("train_labels")
    assert by_labels["num_train"].to_dict() == {"50 %": 20, "all": 40, "2-shot": by_labels["num_train"]["2-shot"]}
    entropies = frame.set_index("imbalance")["class_entropy"]
    assert entropies["class_weights"] == pytest.approx(math.log(2)) and entropies["logit_adjustment"] < math.log(2)
    losses = [
        json.loads(path.read_text())["measurements"]["history"][0]["loss"]
        for path in (folder / "results/runs").glob("[!.]*.json")
    ]
    assert len(set(losses)) == 5


def test_drawing_findings_alike_is_refused(folder: Path) -> None:
    ended = finish_inside(folder, *RUN, "--imbalance", "balanced_sampling", "--dry-run")
    assert ended.returncode == 2
    assert "got balanced_sampling: an image that is drawn brings all of its findings" in ended.stderr
