"""Fewer labels and classes of unequal sizes: what is trained on, how, and what is refused before any work."""

import dataclasses
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.utils
import torch
from bench_process import TINY, options_of
from test_check import write_manifest
from test_recipe import CONFIG, Config, Small, weights
from tiny_images import make_images

import bench
from benchmarks.config import LABEL_WORDS, LabelBudget, LossName, RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.data.batches import Split, iterate, training_order
from benchmarks.data.dataset import Dataset, Sample, open_dataset
from benchmarks.data.training_set import TrainingSet, choose_training_set
from benchmarks.errors import UserError
from benchmarks.records.frame import load_frame
from benchmarks.suite.plan import make_plan
from benchmarks.tasks import TASKS
from benchmarks.training import loop
from benchmarks.training.bench import Bench
from benchmarks.training.checkpoint import Checkpoints
from benchmarks.training.clock import Clock
from benchmarks.training.imbalance import drawing_weights, make_loss
from benchmarks.training.loop import train
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.state import TrainingResult
from methods.contract import default_recipe

SHARES = (0.05, 0.1, 0.25, 0.5, 0.9)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset of which the sizes of classes are made up: 40 images of one, 200 of another, 7 of a third."""
    opened = open_dataset(str(make_images(tmp_path_factory.mktemp("data") / "images")), Path(), Path(".cache"))
    sizes = {0: 40, 1: 200, 2: 7}
    samples = tuple(Sample(f"train/{label}/{i}.png", label) for label, size in sizes.items() for i in range(size))
    return dataclasses.replace(opened, classes=("a", "b", "c"), splits=opened.splits | {"train": samples})


def chosen(dataset: Dataset, **budget: Any) -> TrainingSet:
    found = choose_training_set(dataset, LabelBudget(**budget))
    assert found is not None
    return found


# 1. What is trained on.


def test_smaller_sets_lie_within_larger_ones_and_keep_the_share_of_each_class(images: Dataset) -> None:
    sets = [chosen(images, train_fraction=share) for share in SHARES[1:]]
    for smaller, larger in itertools.pairwise(sets):
        assert set(smaller.rows) < set(larger.rows)
    for share, found in zip(SHARES[1:], sets, strict=True):
        # Round half up, as by hand.
        assert found.counts == {
            name: math.floor(share * size + 0.5) for name, size in (("a", 40), ("b", 200), ("c", 7))
        }
        assert sorted(found.rows) == list(found.rows) and found.unit == "image" and found.num_units == len(found.rows)
    shots = [chosen(images, shots=number) for number in (1, 3, 7)]
    assert [found.counts for found in shots] == [dict.fromkeys("abc", number) for number in (1, 3, 7)]
    assert set(shots[0].rows) < set(shots[1].rows) < set(shots[2].rows)
    assert choose_training_set(images, LabelBudget()) is None


def test_the_content_of_the_dataset_alone_says_which(images: Dataset) -> None:
    first, again = (chosen(images, train_fraction=0.5) for _ in range(2))
    assert first.digest == again.digest and np.array_equal(first.rows, again.rows)
    backwards = tuple(reversed(images.splits["train"]))
    turned = dataclasses.replace(images, splits=images.splits | {"train": backwards})
    there = {images.splits["train"][row] for row in first.rows}
    assert {backwards[row] for row in chosen(turned, train_fraction=0.5).rows} == there
    other = dataclasses.replace(images, digest="0" * 64)
    assert chosen(other, train_fraction=0.5).digest != first.digest
    # Not the first files, nor every second: of 40 images, runs of neighbours have other lengths than those.
    assert np.diff(first.rows[:20]).max() > 2


def test_a_patient_is_in_or_out_whole(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    # Patients p0 to p4 have a bright image each, p0 to p2 a dark one; p3 has two dark ones.
    dark = {f"train/dark/{i}.png": f"p{min(i, 3)}" for i in range(5)}
    groups = {f"train/bright/{i}.png": f"p{i}" for i in range(5)} | dark
    write_manifest(root, groups)
    dataset = open_dataset(str(root), tmp_path, tmp_path / "cache")
    samples = dataset.splits["train"]
    before: set[int] = set()
    for shots in (1, 2, 3, 4):
        found = chosen(dataset, shots=shots)
        patients = {groups[samples[row].path] for row in found.rows}
        assert set(found.rows) == {i for i, sample in enumerate(samples) if groups[sample.path] in patients}
        by_class = [{groups[sample.path] for sample in samples if sample.label == label} for label in (0, 1)]
        assert all(len(patients & those) >= shots for those in by_class) and found.num_units == len(patients)
        assert before <= set(found.rows) and found.unit != "image"
        before = set(found.rows)
    assert len(before) >= 9  # all dark ones, and four of five bright ones


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--shots 6", "shots must be at most the 5 training images of class bright in images, got 6; choose fewer"),
        ("--shots 2 9", "shots must be at most the 5 training images of class bright in images, got 9; choose fewer"),
        (
            "--train-fraction 0.09",
            "train fraction must leave every class an image, got 0.09 of the 5 training images of class bright in "
            "images; choose at least 0.1",
        ),
        (
            "--shots 1",
            "batch size must be at most the 2 that are trained on (1-shot of the 10 training images of images), got "
            "4; choose a smaller --batch-size",
        ),
        ("--train-fraction 0", "train_fraction must be above 0, got '0'"),
        ("--train-fraction 1.5", "train_fraction must be at most 1, got '1.5'"),
        ("--keep-steps", "keep_steps must be used with fewer labels (--train-fraction or --shots), got all of them"),
        (
            "--shots 2 3 --until-decided --seeds 0 1",
            "until_decided must be used with one number of labels, got 2; name one of --train-fraction and --shots, "
            "once for each",
        ),
        (
            "--methods simpleshot --imbalance class_weights",
            "imbalance class_weights must be of a method that trains by gradients, and simpleshot has no "
            "loss; leave out --imbalance, or the method",
        ),
        (
            "--imbalance class_weight",
            "imbalance must be one of none, class_weights, balanced_sampling, logit_adjustment, got 'class_weight'; "
            "did you mean class_weights?",
        ),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(
    arguments: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        make_plan(options_of("--methods", "linear", *TINY, *arguments.split()))
    assert str(error.value) == said


# 2. What it is in a plan.


def configs(arguments: str) -> list[RunConfig]:
    return [run.config for run in make_plan(options_of("--methods", "linear", *TINY, *arguments.split())).runs]


def test_labels_are_an_axis_of_the_grid_and_all_of_them_are_the_run_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    plain = configs("--seeds 0 1")
    found = configs("--seeds 0 1 --train-fraction 0.4 1 --shots 4 --keep-steps")
    assert [config.train_labels for config in found] == ["40 %"] * 2 + ["all"] * 2 + ["4-shot"] * 2
    assert [config.run_id for config in found[2:4]] == [config.run_id for config in plain]
    assert [config.keep_steps for config in found] == [True, True, False, False, True, True]
    assert len({config.run_id for config in found}) == 6
    assert found[0].training_set == found[1].training_set  # the same for all seeds
    assert found[0].training_set == configs("--train-fraction 0.4 --res 48")[0].training_set
    (one,) = configs("--train-fraction 0.4")
    assert one.run_id != found[0].run_id and not one.keep_steps  # other steps


def test_imbalance_is_left_out_of_what_has_no_loss_where_a_group_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    plan = make_plan(options_of("--methods", "probes", *TINY, "--imbalance", "class_weights"))
    assert {run.config.imbalance for run in plan.runs} == {"class_weights"}
    assert not {"knn", "simpleshot"} & {run.config.method for run in plan.runs}
    assert any("simpleshot has no loss: it is left out" in note for note in plan.notes)


# 3. How it is trained.

UNEQUAL = np.repeat(np.arange(3), (40, 10, 2))


def small_run(
    labels: np.ndarray, checkpoints: Checkpoints | None = None, rows: np.ndarray | None = None, **changes: Any
) -> tuple[TrainingResult, Any, Bench]:
    """Trains `test_recipe.Small` on noise with some labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (len(labels), 3, 8, 8)).astype(np.uint8)
    whole = Split(labels, {"image": images})
    config = dataclasses.replace(CONFIG, **changes)
    split = whole if rows is None else whole.only(rows, config.keep_steps)
    torch.manual_seed(0)
    model: Any = Small()
    bench = Bench(
        config, model, None, default_recipe(model, Config(), config.num_steps(split.epoch_images)),
        Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), CPU), ("a", "b"), CPU, Clock(), PhaseMemory(CPU),
        lambda event, **fields: None,
    )  # fmt: skip
    return train(bench, split, Split(labels[-6:], {"image": images[-6:]}), checkpoints=checkpoints), model, bench


def seen_labels(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[list[int]]:
    """The labels of each batch in a training."""
    seen: list[list[int]] = []

    def step(model: Any, inputs: Any, labels: torch.Tensor, optimization: Any) -> torch.Tensor:
        seen.append(labels.tolist())
        optimization.optimizer.step()
        return torch.ones(())

    monkeypatch.setattr(loop, "training_step", step)
    small_run(np.arange(12) % 2, **changes)
    return seen


def test_an_epoch_is_a_pass_or_as_many_steps_as_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array([0, 1, 2, 3, 5])
    assert len(seen_labels(monkeypatch)) == 4 * 3
    assert len(seen_labels(monkeypatch, rows=rows)) == 4 * 1
    kept = seen_labels(monkeypatch, rows=rows, keep_steps=True)
    assert len(kept) == 4 * 3
    passes = np.concatenate(training_order(5, 4, torch.Generator().manual_seed(0), num_drawn=12))
    assert sorted(passes[:5]) == sorted(passes[5:10]) == [0, 1, 2, 3, 4] and len(set(passes[10:])) == 2


def test_a_part_of_a_split_is_that_part() -> None:
    images = np.arange(6, dtype=np.uint8).repeat(3 * 4).reshape(6, 3, 2, 2)

    class Rows:
        sample_bytes = 8

        def read(self, indices: Any, pin: bool, for_each: Any) -> dict[str, torch.Tensor]:
            return {"keys": torch.from_numpy(10 * indices)}

    whole = Split(np.array([0, 1, 0, 1, 1, 0]), {"image": images}, Rows())  # type: ignore[arg-type]
    part = whole.only(np.array([1, 4, 5]), keep_steps=False)
    plain = Preprocessing((0.0,) * 3, (1 / 255,) * 3, CPU)
    ((inputs, labels),) = iterate(part, [np.array([2, 0])], plain, CPU, augment=False)
    assert labels.tolist() == [0, 1] and inputs["keys"].tolist() == [50, 10]
    assert inputs["image"][:, 0, 0, 0].round().tolist() == [5, 1] and len(part) == 3


def test_class_weights_are_sklearns_and_the_mean_is_weighted() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 3), torch.tensor([0, 0, 0, 1, 1, 2, 0, 2, 1])
    by_class = sklearn.utils.compute_class_weight("balanced", classes=np.arange(3), y=UNEQUAL)
    terms = [
        -by_class[y] * math.log(math.exp(row[y]) / sum(map(math.exp, row)))
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    expected = sum(terms) / sum(by_class[labels])
    found = make_loss("class_weights", UNEQUAL, 3, CPU, "cross_entropy")(logits, labels)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_logit_adjustment_is_the_papers_formula() -> None:
    """Menon et al., equation 10: log(1 + the sum over other classes of their share over its own, times e^(f' - f))."""
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0])
    share = np.bincount(UNEQUAL) / len(UNEQUAL)
    terms = [
        math.log(1 + sum(share[z] / share[y] * math.exp(row[z] - row[y]) for z in range(3) if z != y))
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert make_loss("logit_adjustment", UNEQUAL, 3, CPU, "cross_entropy")(logits, labels).item() == pytest.approx(
        np.mean(terms), rel=1e-5
    )
    assert make_loss("none", UNEQUAL, 3, CPU, "cross_entropy") is TASKS["cross_entropy"].loss
    assert make_loss("balanced_sampling", UNEQUAL, 3, CPU, "cross_entropy") is TASKS["cross_entropy"].loss


def test_balanced_sampling_draws_every_class_alike() -> None:
    drawing = drawing_weights("balanced_sampling", UNEQUAL, 3)
    assert drawing is not None and drawing_weights("class_weights", UNEQUAL, 3) is None
    assert drawing.sum().item() == pytest.approx(1)
    generator = torch.Generator().manual_seed(0)
    orders = [np.concatenate(training_order(52, 4, generator, weights=drawing)) for _ in range(300)]
    counts = np.bincount(UNEQUAL[np.concatenate(orders)])
    total = 300 * 52
    assert counts.sum() == total
    assert np.abs(counts - total / 3).max() < 4 * math.sqrt(total * 2 / 9)  # four standard deviations
    assert max(Counter(orders[0].tolist()).values()) > 1  # with replacement


@pytest.mark.parametrize("imbalance", ["none", *LABEL_WORDS["imbalance"]])
def test_a_training_that_was_stopped_goes_on_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imbalance: str
) -> None:
    labels, rows = np.repeat([0, 1, 0, 1], (9, 3, 3, 1)), np.array([0, 1, 2, 9, 10, 12])
    settings: dict[str, Any] = {"imbalance": imbalance, "rows": rows, "keep_steps": True}
    _, whole, _ = small_run(labels, **settings)
    once = loop.train_and_validate

    def stop(*arguments: Any) -> None:
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        once(*arguments)

    checkpoints = Checkpoints(tmp_path, "run", lambda line: None)
    monkeypatch.setattr(loop, "train_and_validate", stop)
    with pytest.raises(KeyboardInterrupt):
        small_run(labels, checkpoints, **settings)
    monkeypatch.setattr(loop, "train_and_validate", once)
    result, model, _ = small_run(labels, checkpoints, **settings)
    assert result.resumed_after == [2]
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(model)[name], value, rtol=0, atol=0)
    plain = small_run(labels, **settings | {"imbalance": "none"})[1]
    assert torch.equal(plain.head.weight, whole.head.weight) == (imbalance == "none")


# 4. A whole suite.


def test_all_numbers_of_labels_share_a_cache_and_stand_in_their_own_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    arguments = ["--methods", "linear", *TINY, "--epochs", "2", "--keep-models", "none"]
    assert bench.main([*arguments, "--shots", "2", "--train-fraction", "1", "--imbalance", "logit_adjustment"]) == 0
    frame, problems = load_frame(tmp_path / "results")
    assert not problems and sorted(frame["train_labels"]) == ["2-shot", "all"]
    assert sorted(frame["num_train"]) == [4, 10] and set(frame["imbalance"]) == {"logit_adjustment"}
    assert len(list((tmp_path / ".cache" / "features").glob("*-*"))) == 1
    table = (tmp_path / "results" / "tables" / "results.md").read_text()
    assert "trained 2-shot (4 images), the same for all" in table
    assert "Linear probe (2-shot, logit adjustment)" in table and "Linear probe (logit adjustment)" in table
    assert table.count("\n## images") == 2
    capsys.readouterr()


@pytest.mark.parametrize("name", ["corn", "bce"])
def test_another_loss_is_left_as_it_is(name: LossName) -> None:
    assert make_loss("balanced_sampling", UNEQUAL, 3, CPU, name) is TASKS[name].loss
