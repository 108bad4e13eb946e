"""Methods that train nothing by gradients: against scikit-learn and by hand, and as runs beside others."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bench_process import TINY, options_of, records
from fixed_records import make_record
from inside import finish_inside
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize
from tiny_images import make_images
from torch import Tensor

from benchmarks.analysis.summary import summary
from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.memory.table import point_rows
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.records.frame import runs_frame
from benchmarks.suite.plan import make_plan
from benchmarks.training.step import autocast
from methods import METHODS
from methods.probes.knn import NearestNeighbours, remember
from methods.probes.simpleshot import NearestMean, average

WIDTH, CLASSES = 6, 4


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features that lie far from 0 and overlap, and labels; the last class has no image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES - 1, (count,), generator=generator)
    return 3 + torch.randn(count, WIDTH, generator=generator) + labels[:, None] * torch.eye(CLASSES, WIDTH)[
        labels
    ], labels


def batches(features: Tensor, labels: Tensor, size: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    pairs = zip(features.split(size), labels.split(size), strict=True)
    return [({"feature": part}, own) for part, own in pairs]


TRAIN, TEST = data(50, 0), data(30, 1)


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("neighbours", [1, 5, 50])
def test_shares_of_the_votes_are_scikit_learns(neighbours: int, size: int) -> None:
    model = NearestNeighbours(CLASSES, neighbours, 0.07)
    remember(model, batches(*TRAIN, size))
    found = model(feature=TEST[0]).softmax(1).numpy()
    reference = KNeighborsClassifier(
        neighbours, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
    ).fit(*(part.numpy() for part in TRAIN))
    expected = reference.predict_proba(TEST[0].numpy())
    np.testing.assert_allclose(found[:, : CLASSES - 1], expected, rtol=0, atol=1e-5)
    assert (found[:, CLASSES - 1] < 2e-6).all()


def test_votes_by_hand() -> None:
    """Three images at cosines 1, 0.8 and 0 of the asked one; two vote."""
    model = NearestNeighbours(3, 2, 0.5)
    remember(model, batches(torch.tensor([[2.0, 0], [4, 3], [0, 1]]), torch.tensor([1, 0, 2]), 2))
    votes = [math.exp(0.8 / 0.5), math.exp(1 / 0.5), 0]
    expected = torch.tensor([[math.log(vote / sum(votes) + 1e-6) for vote in votes]])
    torch.testing.assert_close(model(feature=torch.tensor([[7.0, 0]])), expected)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_the_nearest_mean_is_scikit_learns(size: int) -> None:
    model = NearestMean(WIDTH, CLASSES)
    average(model, batches(*TRAIN, size))
    centre = TRAIN[0].double().mean(0)
    train, test = (normalize((part[0].double() - centre).numpy()) for part in (TRAIN, TEST))
    reference = NearestCentroid().fit(train, TRAIN[1].numpy())
    logits = model(feature=TEST[0])
    np.testing.assert_array_equal(logits.argmax(1), reference.predict(test))
    squared = ((test[:, None] - reference.centroids_[None]) ** 2).sum(2)
    np.testing.assert_allclose(logits[:, : CLASSES - 1], -squared, rtol=0, atol=1e-5)
    assert (logits[:, CLASSES - 1] == -4).all()


def test_means_by_hand() -> None:
    """The centre is (1, 1); one class has images at (2, 1) and (1, 2) from there, the other at (0, 0)."""
    model = NearestMean(2, 2)
    features = torch.tensor([[3.0, 1], [1, 2], [-1, 0]])
    average(model, batches(features, torch.tensor([0, 0, 1]), 2))
    torch.testing.assert_close(model.centre, torch.tensor([1.0, 1]))
    half = 0.5**0.5
    torch.testing.assert_close(model.means, torch.tensor([[0.5, 0.5], [-2 / 5**0.5, -1 / 5**0.5]]))
    asked = torch.tensor([[2.0, 2]])  # (half, half) from the centre
    far = (half + 2 / 5**0.5) ** 2 + (half + 1 / 5**0.5) ** 2
    torch.testing.assert_close(model(feature=asked), torch.tensor([[-2 * (half - 0.5) ** 2, -far]]))


def findings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features, and three findings that overlap, of which a fifth is unknown; the last is rare."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, 3, generator=generator) < torch.tensor([0.5, 0.3, 0.1])).float()
    features = 3 + torch.randn(count, WIDTH, generator=generator) + 2 * targets @ torch.eye(3, WIDTH)
    targets[torch.rand(count, 3, generator=generator) < 0.2] = torch.nan
    return features, targets


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("neighbours", [1, 5, 60])
def test_each_finding_has_the_votes_of_what_is_known_of_it(neighbours: int, size: int) -> None:
    """scikit-learn's, of each finding on its own images; with more neighbours than these, all of them vote."""
    features, targets = findings(60, 2)
    model = NearestNeighbours(3, neighbours, 0.07)
    remember(model, batches(features, targets, size))
    logits = model(feature=TEST[0])
    for place in range(3):
        known = ~targets[:, place].isnan()
        reference = KNeighborsClassifier(
            min(neighbours, int(known.sum())), metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07)
        ).fit(features[known].numpy(), targets[known, place].numpy())
        expected = reference.predict_proba(TEST[0].numpy())[:, 1]
        np.testing.assert_allclose(logits[:, place].sigmoid().numpy(), expected, rtol=0, atol=1e-5)
        two = NearestNeighbours(2, min(neighbours, int(known.sum())), 0.07)  # as a dataset of two classes
        remember(two, batches(features[known], targets[known, place].long(), size))
        apart = two(feature=TEST[0])
        np.testing.assert_allclose(logits[:, place], apart[:, 1] - apart[:, 0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_each_finding_has_two_means(size: int) -> None:
    """By a loop over images, each finding on those of which it is known; the centre is that of all."""
    features, targets = findings(60, 2)
    targets[targets[:, 2] == 1, 2] = torch.nan  # nobody is known to have the last
    model = NearestMean(WIDTH, 3)
    average(model, batches(features, targets, size))
    centre = features.double().numpy().mean(0)
    train, test = (normalize(part.double().numpy() - centre) for part in (features, TEST[0]))
    logits = model(feature=TEST[0])
    for place in range(3):
        for i, z in enumerate(test):
            distances = []
            for value in (0, 1):
                mine = [train[j] for j in range(60) if targets[j, place] == value]
                distances.append(sum((z - np.mean(mine, axis=0)) ** 2) if mine else 4.0)
            assert float(logits[i, place]) == pytest.approx(distances[0] - distances[1], abs=1e-5)


@pytest.mark.parametrize("name", ["knn", "simpleshot"])
def test_nothing_is_rounded_in_mixed_precision(name: str) -> None:
    config = make_config(name, {})
    model: Any = build_parts(name, config, "vit_tiny_patch16_224", 2, 32).model
    features, labels = torch.randn(40, 192), torch.arange(40) % 2
    prepare: Any = METHODS[name].recipe(model, config, 0).prepare
    prepare(model, batches(features, labels, 8))
    with autocast("cpu", "bf16"):
        low = model(feature=features)
    assert torch.equal(low, model(feature=features))


# As runs.

BOTH = ("knn", "simpleshot")
SMALL = [f"{word}[depth=2]" if word.startswith("vit_") else word for word in TINY]
FEW = ("--set", "knn.num_neighbours=5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("neighbours")
    make_images(root / "images")
    words = ["--methods", "linear", *BOTH, *SMALL, *FEW, "--epochs", "2", "--warmup-epochs", "1", "--decay-all"]
    words += ["--grad-checkpointing", "--track", "tensorboard", "--seeds", "0", "1", "--lr", "1e-3", "1e-2"]
    ended = finish_inside(root, *words)
    assert ended.returncode == 0, ended.stderr
    assert "2 trials and 6 runs in 3 cells, 0 to do" in finish_inside(root, *words, "--dry-run").stderr
    return root


def table_of(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if line[:1] == "|"]


def rows(markdown: str) -> dict[str, list[str]]:
    lines = [[re.sub("<.*?>|[*†]", "", cell).strip() for cell in line.split("|")[1:-1]] for line in table_of(markdown)]
    titled = {line[1]: line for line in lines}
    return {name: titled[METHODS[name].title] for name in BOTH}


def test_a_record_has_what_there_is_and_nothing_of_training(folder: Path) -> None:
    for record in map(json.loads, (path.read_text() for path in sorted((folder / "results" / "runs").glob("*.json")))):
        config, measured = record["run"]["config"], record["measurements"]
        assert record["status"]["state"] == "ok"
        if config["method"] == "linear":
            continue
        assert config["epochs"] is config["lr"] is config["weight_decay"] is None
        assert not config["trial"] and config["lr_grid"] == [] and config["warmup_epochs"] == 0
        assert not config["grad_checkpointing"] and not config["decay_all"]
        assert "history" not in measured and "selection" not in record["run"] and record["run"]["tuning"] is None
        assert "train" not in measured["seconds"] and measured["seconds"]["prepare"] > 0
        assert measured["images_per_second"]["train"] is None and measured["images_per_second"]["eval"] > 0
        assert set(measured["predicted_memory"]["phases"]) == {"setup", "preload", "prepare", "eval"}
        assert measured["parameters"]["trainable_total"] == 0 and measured["parameters"]["frozen"] > 0
        assert record["run"]["input"]["augmented"] == []
        assert measured["val"]["auc"] >= 0 and measured["test"]["auc"] >= 0 and measured["cache_bytes"] > 0


def test_a_tracker_gets_what_there_is(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((folder / "results" / "tensorboard").glob("*-knn-s0-*")))).Reload()
    assert "test_auc" in events.Tags()["scalars"] and "loss" not in events.Tags()["scalars"]


def test_the_cache_is_the_linear_probes(folder: Path) -> None:
    for record in records(folder / "results").values():
        assert record["measurements"]["preload"]["reused"] == (record["run"]["config"]["method"] != "linear")
    caches = list((folder / ".cache" / "features").glob("*-*"))
    assert len(caches) == 2  # random weights come from the seed


def test_tables_put_them_beside_what_trained_and_show_no_zero_for_what_is_absent(folder: Path) -> None:
    text = (folder / "results" / "tables" / "results.md").read_text()
    assert text.count("\n## images\n") == 1
    header = next(line for line in text.splitlines() if line.startswith("| Resolution"))
    names = [cell.strip(" ↓↑") for cell in header.split("|")[1:-1]]
    found = rows(text)
    for name in BOTH:
        row = dict(zip(names, found[name], strict=True))
        assert (row["Training (MiB)"], row["Train (s)"]) == ("–", "–")
        assert row["Trainable (%)"] == "0.00" and float(row["Memory (MiB)"]) > 0
        assert row["Seeds"] == "2"
    assert "the best of 2 trials on validation. Protocol" in text


def test_the_page_is_made_and_plots_are_drawn(folder: Path) -> None:
    assert finish_inside(folder, "report").returncode == 0
    page = (folder / "results" / "report.html").read_text()
    assert METHODS["knn"].title in page
    assert {path.name.partition("_")[0] for path in (folder / "results" / "plots").glob("*.png")} == {
        "memory", "auc-over-memory", "auc-over-resolution",
    }  # fmt: skip


def test_a_dry_run_shows_neither_epochs_nor_rate(folder: Path) -> None:
    ended = finish_inside(folder, "--methods", *BOTH, *SMALL, *FEW, "--lr", "1e-2", "1e-3", "--dry-run", "--verbose")
    header, _, *lines = (line for line in ended.stdout.splitlines() if line[:1] == "|")
    names = [cell.strip() for cell in header.split("|")[1:-1]]
    for line in lines:
        row = dict(zip(names, (cell.strip() for cell in line.split("|")[1:-1]), strict=True))
        assert row["epochs"] == row["lr"] == row["training MiB"] == "–"
        assert (row["trials"], row["runs"], row["stored"]) == ("", "1", "1 ok")
        assert float(row["minutes a run"]) >= 0


def test_more_neighbours_than_images_are_refused_before_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = "knn must have at least 20 training images, got the 10 training images of images"
    with pytest.raises(UserError, match=f"{said}; choose other options of it"):
        make_plan(options_of("--methods", "knn", "linear", *SMALL))
    plan = make_plan(options_of("--methods", "probes", *SMALL))
    methods = {run.config.method for run in plan.runs}
    assert {"linear", "simpleshot"} < methods and "knn" not in methods and f"{said}: it is left out" in plan.notes


def test_a_batch_without_a_norm_is_refused_before_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = "ep must have at least 2 images a step, got a batch size of 1 on images"
    with pytest.raises(UserError, match=f"^{said}; choose a larger --batch-size, or leave it out$"):
        make_plan(options_of("--methods", "ep", "linear", *SMALL, "--batch-size", "1"))
    plan = make_plan(options_of("--methods", "probes", *SMALL, "--batch-size", "1"))
    methods = {run.config.method for run in plan.runs}
    assert {"linear", "simpleshot"} < methods and "ep" not in methods and f"{said}: it is left out" in plan.notes


UNTRAINED = {"method": "knn", "epochs": None, "lr": None, "weight_decay": None}


def frame_of(*settings: Mapping[str, Any]) -> pd.DataFrame:
    made = [make_record("lora") | {"run_id": f"run-{i}"} for i in range(len(settings))]
    for record, own in zip(made, settings, strict=True):
        record["run"]["config"] |= own
    return runs_frame(made)


def test_labels_are_those_beside_others_whether_or_not_these_have_a_budget() -> None:
    everything = frame_of({}, {"epochs": 50}, UNTRAINED)
    for own in (everything, everything.iloc[[2]], everything.iloc[[0, 2]]):
        table = summary(own, among=everything)
        assert set(table.loc[table["method"] == "knn", "label"]) == {METHODS["knn"].title}


def test_they_stand_beside_runs_of_every_budget_and_of_no_other_protocol() -> None:
    table = summary(frame_of({}, {"epochs": 50}, {"precision": "fp16"}, UNTRAINED))
    places = {
        method: {(row["epochs"], row["precision"]) for _, row in rows.iterrows()}
        for method, rows in table.groupby("method")
    }
    assert places["knn"] == {place for place in places["lora"] if place[1] != "fp16"} and len(places["knn"]) == 2
    assert sorted(table.groupby("block").size()) == [1, 2, 2]
    alone = summary(frame_of(UNTRAINED))
    assert len(alone) == 1 and pd.isna(alone["epochs"].iloc[0])


@pytest.mark.parametrize("name", [*BOTH, "ep", "attentive_probe"])
def test_memory_is_predicted_in_every_phase(name: str) -> None:
    prediction = predict_memory(MemoryPoint(name, 64, 4, "vit_tiny_patch16_224"))
    phases = {"setup", "preload", "prepare", "eval"} if name in BOTH else {"setup", "preload", "train", "eval"}
    assert set(prediction.phases) == phases
    shown = point_rows(prediction.point, prediction.as_record(), {"state": "ok", "phase": None}, "predicted")
    assert shown[-1]["peak_allocated_bytes"] == prediction.highest.allocated > 0
