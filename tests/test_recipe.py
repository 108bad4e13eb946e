"""What a method may ask of training beyond the defaults, each by a small method, through the loop that runs use."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bench_process import TINY, options_of
from tiny_images import make_images
from torch import Tensor, nn

from benchmarks.config import RunConfig
from benchmarks.data.augment import Preprocessing, draw_augmentation
from benchmarks.data.batches import Split
from benchmarks.memory.phases import run_phases
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.build import Parts
from benchmarks.suite.plan import make_plan
from benchmarks.suite.run import Run
from benchmarks.training import loop
from benchmarks.training.bench import Bench
from benchmarks.training.checkpoint import Checkpoints
from benchmarks.training.clock import Clock
from benchmarks.training.loop import train
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.state import TrainingResult
from benchmarks.training.step import make_optimization, training_step
from methods import METHODS
from methods.contract import Batches, Head, Method, ParameterGroups, Recipe, default_recipe, freeze, init_head

SIDE, CLASSES, TRAIN, EPOCHS, BATCH = 8, 2, 12, 4, 4
STEPS = EPOCHS * TRAIN // BATCH


@dataclass(frozen=True)
class Config:
    lr_grid: ClassVar[tuple[float, ...]] = (1e-2,)
    lr: float = 1e-2
    weight_decay: float = 0.1


class Small(nn.Module):
    """Two linear layers on the pixels; the first starts frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3 * SIDE * SIDE, 4)
        self.head = Head(4, CLASSES)
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(3 * SIDE * SIDE))
        freeze(self.body)
        init_head(self.head)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image.flatten(1) - self.mean))


CONFIG = RunConfig(
    "small", "noise", "0" * 64, SIDE, seed=0, backbone="none", weights="none", weights_sha256=None, epochs=EPOCHS,
    batch_size=BATCH, lr=1e-2, weight_decay=0.1,
)  # fmt: skip


def splits() -> tuple[Split, Split]:
    """Training and validation images of two shades."""
    generator = np.random.default_rng(0)
    made = []
    for count in (TRAIN, 6):
        labels = np.arange(count) % CLASSES
        images = generator.integers(0, 120, (count, 3, SIDE, SIDE)) + 60 * labels[:, None, None, None]
        made.append(Split(labels, {"image": images.astype(np.uint8)}))
    return made[0], made[1]


def train_small(
    recipe: Callable[[nn.Module, Any, int], Recipe] = default_recipe,
    checkpoints: Checkpoints | None = None,
    model: Any = None,
) -> tuple[TrainingResult, Any, Bench]:
    """Trains `Small`, as a run does."""
    torch.manual_seed(0)
    model = Small() if model is None else model
    config, device = CONFIG, torch.device("cpu")
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), device)
    made = recipe(model, Config(), config.num_steps(TRAIN))
    bench = Bench(
        config, model, None, made, preprocessing, ("a", "b"), device, Clock(), PhaseMemory(device),
        lambda event, **fields: None,
    )  # fmt: skip
    return train(bench, *splits(), checkpoints=checkpoints), model, bench


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# 1. Optimiser and parameter groups.


def test_groups_have_their_own_rates_and_the_schedule_scales_all() -> None:
    seen: list[tuple[float, ...]] = []

    def recipe(model: Any, config: Config, num_steps: int) -> Recipe:
        assert num_steps == STEPS
        model.body.requires_grad_(True)

        def groups(model: Any) -> ParameterGroups:
            return [
                {"params": list(model.body.parameters()), "lr": config.lr / 10, "weight_decay": 0.0},
                {"params": list(model.head.parameters())},
            ]

        def optimizer(groups: ParameterGroups) -> torch.optim.Optimizer:
            assert [group["weight_decay"] for group in groups] == [0.0, 0.1, 0.0]
            made = torch.optim.SGD(groups, momentum=0.9)
            made.register_step_pre_hook(lambda made, *_: seen.append(tuple(g["lr"] for g in made.param_groups)))
            return made

        return Recipe(groups=groups, optimizer=optimizer)

    train_small(recipe)
    expected = [1e-2 * (1 + np.cos(np.pi * step / STEPS)) / 2 for step in range(STEPS)]
    np.testing.assert_allclose(np.array(seen), np.array([[rate / 10, rate, rate] for rate in expected]), rtol=1e-6)


def test_no_decay_on_biases_leaves_a_bias_without_gradient_where_it_is() -> None:
    """Against AdamW's rule by hand: what has no gradient shrinks by lr x decay a step, or not at all."""

    def groups(model: Any) -> ParameterGroups:
        return [{"params": [model.head.weight]}, {"params": [model.head.bias], "weight_decay": 0.0}]

    model: Any = Small()
    model.head.weight.data.fill_(1.0)
    model.head.bias.data.fill_(1.0)
    optimization = make_optimization(model, 1e-2, 0.1, "fp32", "cpu", Recipe(groups=groups))
    for parameter in model.head.parameters():
        parameter.register_hook(torch.zeros_like)
    training_step(model, {"image": torch.ones(4, 3, SIDE, SIDE)}, torch.tensor([0, 1, 0, 1]), optimization)
    torch.testing.assert_close(model.head.weight, torch.full_like(model.head.weight, 1 - 1e-2 * 0.1))
    torch.testing.assert_close(model.head.bias, torch.ones_like(model.head.bias), rtol=0, atol=0)


# 2. A start from data.


def prepare_mean(model: Any, config: Config, num_steps: int) -> Recipe:
    def prepare(model: Any, batches: Batches) -> None:
        rows = torch.cat([inputs["image"].flatten(1) for inputs, _ in batches])
        again = torch.cat([inputs["image"].flatten(1) for inputs, _ in batches])
        torch.testing.assert_close(rows, again, rtol=0, atol=0)
        model.mean.copy_(rows.mean(0))
        model.body.requires_grad_(True)

    return Recipe(prepare=prepare)


def test_preparation_sees_all_training_images_once_unaugmented_and_may_choose_what_trains() -> None:
    _, model, bench = train_small(prepare_mean)
    images = splits()[0].views["image"][np.arange(TRAIN)].reshape(TRAIN, -1)
    torch.testing.assert_close(model.mean, torch.tensor((images.mean(0) / 255 - 0.5) / 0.2).float(), rtol=0, atol=1e-5)
    torch.manual_seed(0)
    assert not torch.equal(model.body.weight, Small().body.weight)
    assert bench.clock.seconds["prepare"] > 0


# 3. A further loss.


def test_a_further_loss_is_added_to_the_cross_entropy() -> None:
    model = Small()
    recipe = Recipe(extra_loss=lambda model, logits, labels: 3 * logits.square().mean() + labels.sum())
    inputs, labels = {"image": torch.randn(4, 3, SIDE, SIDE)}, torch.tensor([0, 1, 1, 1])
    logits = model(**inputs)
    expected = F.cross_entropy(logits, labels) + 3 * logits.square().mean() + 3
    (gradient,) = torch.autograd.grad(expected, [model.head.weight])
    seen: list[Tensor] = []
    model.head.weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    loss = training_step(model, inputs, labels, make_optimization(model, 0.0, 0.0, "fp32", "cpu", recipe))
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(seen[0], gradient)


# 4. Something to do after a step, and stages of training.

UNFREEZE_AFTER = 4  # in the second epoch of three steps each


def stages(model: Any, config: Config, num_steps: int) -> Recipe:
    """First the head alone; then body and head; in the last third the body alone."""

    def after_step(model: Any, step: int) -> bool:
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        if step == UNFREEZE_AFTER:
            model.body.requires_grad_(True)
        if step == 7:
            model.head.requires_grad_(False)
        return step in (UNFREEZE_AFTER, 7)

    return Recipe(after_step=after_step)


def naive_stages(model: Any) -> Iterator[dict[str, Tensor]]:
    """The same by hand: AdamW by its formula, a state for each tensor that begins with its first gradient."""
    train_split, _ = splits()
    generator = torch.Generator().manual_seed(0)
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), torch.device("cpu"))
    state: dict[str, tuple[int, Tensor, Tensor]] = {}
    step = 0
    for _ in range(EPOCHS):
        order = torch.randperm(TRAIN, generator=generator).numpy()
        for start in range(0, TRAIN, BATCH):
            indices = order[start : start + BATCH]
            view = torch.from_numpy(train_split.views["image"][indices])
            image = preprocessing(view, draw_augmentation(len(view), view.shape[-1]))
            labels = torch.from_numpy(train_split.labels[indices])
            parts = ["body"] * (step > UNFREEZE_AFTER) + ["head"] * (step <= 7)
            names = [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]
            parameters = [model.get_parameter(name).requires_grad_(True) for name in names]
            gradients = torch.autograd.grad(F.cross_entropy(model(image), labels), parameters)
            norm = torch.stack([g.norm() for g in gradients]).norm()
            rate = 1e-2 * (1 + np.cos(np.pi * step / STEPS)) / 2
            with torch.no_grad():
                for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
                    gradient = gradient * (1 / (norm + 1e-6)).clamp(max=1)
                    zero = torch.zeros_like(parameter)
                    count, first, second = state.get(name, (0, zero, zero))
                    count, first = count + 1, 0.9 * first + 0.1 * gradient
                    second = 0.999 * second + 0.001 * gradient**2
                    state[name] = (count, first, second)
                    if parameter.ndim > 1:  # decay spares the biases
                        parameter *= 1 - rate * 0.1
                    parameter -= rate * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
            step += 1
        yield weights(model)


def test_stages_equal_adamw_by_hand() -> None:
    by_epoch: list[dict[str, Tensor]] = []

    def recipe(model: Any, config: Config, num_steps: int) -> Recipe:
        inner: Any = stages(model, config, num_steps).after_step

        def after_step(model: Any, step: int) -> bool:
            if (step + 1) % (TRAIN // BATCH) == 0:
                by_epoch.append(weights(model))
            return bool(inner(model, step))

        return Recipe(after_step=after_step)

    train_small(recipe)
    torch.manual_seed(0)
    for found, expected in zip(by_epoch, naive_stages(Small()), strict=True):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("best", [1, 2, 3, 4])
def test_weights_of_the_best_epoch_come_back_whatever_trained_then(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    by_epoch: list[dict[str, Tensor]] = []
    evaluate = loop.evaluate

    def fake(bench: Bench, split: Split, part: str) -> Any:
        metrics, probabilities = evaluate(bench, split, part)
        by_epoch.append(weights(bench.model))
        return metrics | {"auc": 1.0 if len(by_epoch) == best else 0.5 - len(by_epoch) / 100}, probabilities

    monkeypatch.setattr(loop, "evaluate", fake)
    result, model, _ = train_small(stages)
    assert result.best_epoch == best
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, by_epoch[best - 1][name], rtol=0, atol=0)


def test_of_epochs_with_equal_auc_the_lowest_loss_is_kept_then_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = iter([(0.9, 0.3), (1.0, 0.4), (1.0, 0.2), (1.0, 0.2)])
    evaluate = loop.evaluate

    def fake(bench: Bench, split: Split, part: str) -> Any:
        metrics, logits = evaluate(bench, split, part)
        return metrics | dict(zip(("auc", "loss"), next(shown), strict=True)), logits

    monkeypatch.setattr(loop, "evaluate", fake)
    result, _, _ = train_small(stages)
    assert result.best_epoch == 3 and result.validation["loss"] == 0.2
    assert [entry["val_loss"] for entry in result.history] == [0.3, 0.4, 0.2, 0.2]


class Killed(Exception):
    """In place of a signal."""


class DeadlyCheckpoints(Checkpoints):
    """Ends the training once the state after an epoch is stored."""

    def __init__(self, results: Path, run_id: str, note: Callable[[str], None], last: int) -> None:
        super().__init__(results, run_id, note)
        self.last = last

    def store(self, epoch: int, training: dict[str, Any]) -> None:
        super().store(epoch, training)
        if epoch == self.last:
            raise Killed


@pytest.mark.parametrize("recipe", [stages, prepare_mean])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_training_that_was_stopped_at_any_stage_goes_on_bit_by_bit(
    recipe: Callable[[nn.Module, Any, int], Recipe], after: int, tmp_path: Path
) -> None:
    _, undisturbed, _ = train_small(recipe)
    notes: list[str] = []
    with pytest.raises(Killed):
        train_small(recipe, DeadlyCheckpoints(tmp_path, "run", notes.append, after))
    result, resumed, _ = train_small(recipe, Checkpoints(tmp_path, "run", notes.append))
    assert result.resumed_after == [after] and notes == []
    for name, value in undisturbed.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


# 5. Merging for use.


class LowRank(nn.Module):
    """A frozen linear layer and an update of rank 1 that may be merged into it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(3 * SIDE * SIDE, 4)
        freeze(self.base)
        self.down, self.up = nn.Parameter(torch.randn(3 * SIDE * SIDE) / 10), nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(4, CLASSES)
        self.merged = False

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        update = 0 if self.merged else (x @ self.down).unsqueeze(1) * self.up
        return self.head(self.base(x) + update)


def merge(model: nn.Module) -> nn.Module:
    assert isinstance(model, LowRank)
    model.base.weight.data += torch.outer(model.up, model.down)
    model.merged = True
    return model


def test_a_merged_copy_computes_the_same_and_leaves_the_model_as_it_is() -> None:
    torch.manual_seed(0)
    _, model, bench = train_small(lambda *_: Recipe(before_inference=merge), model=LowRank())
    before = weights(model)
    assert bench.recipe.before_inference is not None and model.up.abs().max() > 0
    used: Any = bench.recipe.before_inference(copy.deepcopy(model))
    image = torch.randn(5, 3, SIDE, SIDE)
    torch.testing.assert_close(used(image=image), model(image=image), rtol=1e-5, atol=1e-5)
    assert not torch.equal(used.base.weight, model.base.weight)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


# The recipe where memory is measured and predicted.


def whole_recipe(model: Any, config: Any, num_steps: int) -> Recipe:
    def prepare(model: Any, batches: Batches) -> None:
        for inputs, _ in batches:
            calls.append(("prepare", len(inputs["image"])))

    def after_step(model: Any, step: int) -> bool:
        calls.append(("after_step", step))
        return False

    return Recipe(
        groups=lambda model: [{"params": [p for p in model.parameters() if p.requires_grad]}],
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        prepare=prepare,
        extra_loss=lambda model, logits, labels: logits.square().mean(),
        after_step=after_step,
    )


calls: list[tuple[str, int]] = []


@pytest.fixture
def with_recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Method]:
    method = dataclasses.replace(METHODS["adapter"], name="with_recipe", recipe=whole_recipe)
    monkeypatch.setitem(METHODS, "with_recipe", method)
    calls.clear()
    yield method


def test_a_prediction_prepares_and_trains_by_the_recipe(with_recipe: Method) -> None:
    point = MemoryPoint("with_recipe", 64, batch_size=2, backbone="vit_tiny_patch16_224", num_classes=2)
    phases = predict_memory(point).phases
    assert list(phases) == ["setup", "prepare", "train", "eval"]
    state = phases["train"].breakdown["optimizer_state"]
    plain = predict_memory(dataclasses.replace(point, method="adapter")).phases["train"].breakdown["optimizer_state"]
    assert calls == [("prepare", 2), ("after_step", 0)]
    assert state < 0.6 * plain  # momentum alone, where AdamW has two moments


def test_a_preparation_that_reads_values_is_left_out_of_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(model: Any, batches: Batches) -> None:
        for inputs, _ in batches:
            calls.append(("prepare", int(inputs["image"].sum().item())))

    recipe = Recipe(prepare=read)
    method = dataclasses.replace(METHODS["adapter"], name="reads", recipe=lambda *_: recipe)
    monkeypatch.setitem(METHODS, "reads", method)
    point = MemoryPoint("reads", 64, batch_size=2, backbone="vit_tiny_patch16_224", num_classes=2)
    plain = predict_memory(dataclasses.replace(point, method="adapter"))
    assert predict_memory(point).phases == plain.phases


def test_measuring_prepares_in_a_phase_of_its_own(with_recipe: Method) -> None:
    phases: list[str] = []

    @contextmanager
    def watch(phase: str) -> Iterator[None]:
        phases.append(phase)
        yield

    def build() -> Parts:
        return Parts(OneLayer(2), None)

    point = MemoryPoint("with_recipe", SIDE, batch_size=2, backbone="vit_tiny_patch16_224", num_classes=2)
    point = dataclasses.replace(point, resolution=16)
    run_phases(point, build, torch.device("cpu"), watch, lambda phase, step: None, steps=2)
    assert phases == ["setup", "prepare", "train", "eval"]
    assert calls == [("prepare", 2), ("after_step", 0), ("after_step", 1)]


class OneLayer(nn.Module):
    """One linear layer on 16 px images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16 * 16, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.flatten(1))


@pytest.mark.parametrize(
    ("augment_live", "preload", "fixed"), [(True, "off", set()), (False, "off", {"image"}), (True, "on", {"image"})]
)
@pytest.mark.parametrize("method", ["linear", "fpt"])
def test_a_live_extractor_says_whether_its_image_is_augmented(
    method: str, augment_live: bool, preload: str, fixed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extractor(backbone: Any, config: Any) -> Any:
        made: Any = METHODS[method].extractor(backbone, config)
        made.augment_live = augment_live
        return made

    monkeypatch.setitem(METHODS, "mine", dataclasses.replace(METHODS[method], name="mine", extractor=extractor))
    make_images(tmp_path / "images")
    words = [word if word != "images" else str(tmp_path / "images") for word in TINY]
    run = make_plan(options_of("--methods", "mine", *words, "--preload", preload, "--cache", str(tmp_path))).runs[0]
    _, _, made, _ = Run(run.config, run.places, run.weights, Clock(), lambda *_, **__: None).prepare()
    assert made["train"].fixed_views == fixed
