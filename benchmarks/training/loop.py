"""The training loop: AdamW, cosine decay to 0, the best validation AUC picks the epoch."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.config import RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.data.batches import Split, iterate, sequential_order, training_order
from benchmarks.training.checkpoint import Checkpoints
from benchmarks.training.clock import Clock
from benchmarks.training.metrics import classification_metrics
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.step import evaluation_step, extraction_step, make_optimization, training_step
from methods.contract import IMAGE, Recipe

Emit = Callable[..., None]

CHECK_EVERY = 10  # steps between looks at the loss, each of which waits for the device


class Diverged(RuntimeError):
    """The loss is no longer finite."""


@dataclass
class Bench:
    """What the loop works with.

    Attributes:
        config: The run's settings.
        model: The trainable part, on the device.
        extractor: The frozen part, on the device, where it runs in every step; else None.
        recipe: How the model trains.
        preprocessing: Augments and normalises views.
        classes: Names of the classes.
        device: Where all of it lies.
        clock: Takes the seconds of each part.
        memory: Measures memory phases.
        emit: Receives progress events.
    """

    config: RunConfig
    model: nn.Module
    extractor: nn.Module | None
    recipe: Recipe
    preprocessing: Preprocessing
    classes: Sequence[str]
    device: torch.device
    clock: Clock
    memory: PhaseMemory
    emit: Emit

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch's views as the model's inputs: a live extractor turns its image into features."""
        if self.extractor is None:
            return batch
        image = batch.pop(IMAGE)
        return batch | extraction_step(self.extractor, image, self.config.precision, self.device.type)

    def synchronize(self) -> None:
        """Waits for the device, so that host clocks tell the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class TrainingResult:
    """What training yields.

    Attributes:
        history: One entry an epoch: epoch (from 1), loss, lr (at its end), val_auc, seconds.
        best_epoch: The epoch with the best validation AUC, the first of equals.
        validation: Metrics of that epoch.
        probabilities: Its predictions of the validation split `(n, C)`.
        stopped_after: The epoch after which a hopeless trial was stopped; None where all epochs ran.
        resumed_after: The epochs after which it went on from a checkpoint.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    validation: dict[str, Any] = field(default_factory=dict)
    probabilities: NDArray[np.float64] | None = None
    stopped_after: int | None = None
    resumed_after: list[int] = field(default_factory=list)


class Training:
    """A training under way: all that changes from epoch to epoch, so all that a checkpoint holds.

    Args:
        bench: With the model to train.
        num_train: Number of training samples.

    Attributes:
        result: What it yields so far.
        trained: Names of the parameters that train, or did at an earlier stage.
    """

    def __init__(self, bench: Bench, num_train: int) -> None:
        config = bench.config
        self.bench, self.result = bench, TrainingResult()
        self.optimization = make_optimization(
            bench.model, config.lr, config.weight_decay, config.precision, bench.device.type, bench.recipe
        )
        self.schedule = self.optimization.start_schedule(bench.config.num_steps(num_train))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.trained = trainable_names(bench.model)
        self.best: dict[str, Tensor] = {}

    def keep_best(self, epoch: int, metrics: dict[str, Any], probabilities: NDArray[np.float64]) -> None:
        """Keeps an epoch's weights where its validation AUC is better than any before."""
        if not self.best or metrics["auc"] > self.result.validation["auc"]:
            self.best = self._copied(self.changing())
            self.result.best_epoch, self.result.validation, self.result.probabilities = epoch, metrics, probabilities

    def changing(self) -> dict[str, Tensor]:
        """What training has changed in the model, by name: parameters that train or did, and stored buffers."""
        model = self.bench.model
        fixed = {name for name, _ in model.named_parameters()} - self.trained
        return {name: value for name, value in model.state_dict().items() if name not in fixed}

    def note_stage(self) -> None:
        """Takes in what has begun to train; until now it is as it was in the best epoch."""
        new = trainable_names(self.bench.model) - self.trained
        if new:
            self.trained |= new
            if self.best:
                self.best |= self._copied({name: value for name, value in self.changing().items() if name in new})

    def _copied(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to("cpu", copy=True) for name, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, texts, and lists and dicts of them."""
        result, device = self.result, self.bench.device
        assert result.probabilities is not None
        return {
            "model": self.changing(),
            "best": self.best,
            "stage": {
                "step": self.optimization.step,
                "trainable": sorted(trainable_names(self.bench.model)),
                "trained": sorted(self.trained),
            },
            "optimizer": self.optimization.optimizer.state_dict(),
            "scaler": self.optimization.scaler.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order_generator": self.generator.get_state(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "result": vars(result) | {"probabilities": torch.from_numpy(result.probabilities)},
            "seconds": dict(self.bench.clock.seconds),
            "total_seconds": self.bench.clock.total(),
            "memory": self.bench.memory.phases,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        stage = state["stage"]
        for name, parameter in self.bench.model.named_parameters():
            parameter.requires_grad_(name in stage["trainable"])
        self.trained = set(stage["trained"])
        self.optimization.regroup(self.bench.model)
        self.optimization.step = stage["step"]
        restore(self.bench.model, state["model"])
        self.best = state["best"]
        self.optimization.optimizer.load_state_dict(state["optimizer"])
        self.optimization.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["order_generator"])
        torch.set_rng_state(state["cpu_generator"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.bench.device)
        self.result = TrainingResult(**state["result"] | {"probabilities": state["result"]["probabilities"].numpy()})
        self.result.resumed_after.append(len(self.result.history))
        self.bench.clock.add(state["seconds"], state["total_seconds"])
        self.bench.memory.add(state["memory"])


def trainable_names(model: nn.Module) -> set[str]:
    """Names of the parameters that train."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Writes values back into a model, by name."""
    state = model.state_dict()
    for name, value in values.items():
        state[name].copy_(value)


def train(
    bench: Bench,
    train_split: Split,
    val_split: Split,
    rivals: Sequence[Sequence[float]] = (),
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Trains the model and leaves it with the weights of its best epoch.

    Args:
        bench: With the model to train.
        train_split: What to train on.
        val_split: What picks the epoch.
        rivals: Of a trial that may be stopped: validation AUC by epoch of those before it; see `is_hopeless`.
        checkpoints: Where the state after each epoch goes, and from where the training goes on, if it was stopped.

    Raises:
        Diverged: The loss is not finite.
    """
    if bench.recipe.prepare is not None:
        with bench.clock("prepare"), bench.memory.phase("prepare"):
            bench.recipe.prepare(bench.model, PreparationBatches(bench, train_split))
    training, epochs = Training(bench, len(train_split)), bench.config.epochs
    if checkpoints is not None and (state := checkpoints.load()) is not None:
        training.load_state_dict(state)
        bench.emit("note", text=f"goes on after epoch {len(training.result.history)}")
    result = training.result
    for epoch in range(len(result.history) + 1, epochs + 1):
        _train_and_validate(training, train_split, val_split, epoch)
        if is_hopeless([entry["val_auc"] for entry in result.history], epochs, rivals):
            result.stopped_after = epoch
            break
        if checkpoints is not None and epoch < epochs:
            with bench.clock("checkpoint"):
                checkpoints.store(epoch, training.state_dict())
    restore(bench.model, training.best)
    return result


def _train_and_validate(training: Training, train: Split, val: Split, epoch: int) -> None:
    bench, config, result = training.bench, training.bench.config, training.result
    order = training_order(len(train), config.batch_size, training.generator)
    seconds, loss = _train_epoch(training, train, order, epoch)
    metrics, probabilities = evaluate(bench, val, "validate")
    entry = {"epoch": epoch, "loss": loss, "lr": training.schedule.get_last_lr()[0], "val_auc": metrics["auc"]}
    result.history.append(entry | {"seconds": seconds})
    training.keep_best(epoch, metrics, probabilities)
    speed = len(order) * config.batch_size / seconds
    bench.emit("epoch", epochs=config.epochs, images_per_second=speed, **entry)


@dataclass(frozen=True)
class PreparationBatches:
    """Inputs by name and labels of the training split, shuffled, not augmented; the same whenever it is iterated."""

    bench: Bench
    split: Split

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        bench, generator = self.bench, torch.Generator().manual_seed(self.bench.config.seed)
        order = training_order(len(self.split), bench.config.batch_size, generator)
        for views, labels in iterate(self.split, order, bench.preprocessing, bench.device, augment=False):
            yield bench.inputs(views), labels


def is_hopeless(val_aucs: Sequence[float], epochs: int, rivals: Sequence[Sequence[float]]) -> bool:
    """Whether a trial should end here: from half its epochs on, its best so far is below its rivals' median best.

    Args:
        val_aucs: Its validation AUC by epoch, so far.
        epochs: How many it may have.
        rivals: The same of the trials before it; with fewer than two there is no median to speak of.
    """
    done = len(val_aucs)
    comparable = [max(rival[:done]) for rival in rivals if rival]
    if 2 * done < epochs or done == epochs or len(comparable) < 2:
        return False
    return max(val_aucs) < statistics.median(comparable)


def _train_epoch(
    training: Training, split: Split, order: Sequence[NDArray[np.int64]], epoch: int
) -> tuple[float, float]:
    """Trains one epoch; returns its seconds and its mean loss."""
    bench = training.bench
    bench.model.train()
    total = torch.zeros((), device=bench.device)
    started = time.perf_counter()
    with bench.clock("train"), bench.memory.phase("train"):
        step = 0
        for views, labels in iterate(split, order, bench.preprocessing, bench.device, augment=True):
            total += training_step(bench.model, bench.inputs(views), labels, training.optimization)
            if bench.recipe.after_step is not None:
                training.note_stage()
            del views  # two batches of features would not be the method's memory
            training.schedule.step()
            step += 1  # noqa: SIM113 - enumerate would hold on to the batch
            if step % CHECK_EVERY == 0 or step == len(order):
                loss = total.item() / step
                if not math.isfinite(loss):
                    raise Diverged(f"loss must stay finite, got {loss} in epoch {epoch}; try a smaller --lr")
                bench.emit("step", epoch=epoch, epochs=bench.config.epochs, step=step, steps=len(order), loss=loss)
        bench.synchronize()
    return time.perf_counter() - started, loss


def evaluate(bench: Bench, split: Split, part: str) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Metrics and per-image probabilities `(n, C)` of a split.

    Args:
        bench: With the model to evaluate.
        split: What to predict.
        part: Name for the clock: `validate` or `test`.

    Raises:
        Diverged: A prediction is not finite.
    """
    bench.model.eval()
    logits = []
    with bench.clock(part), bench.memory.phase("eval"):
        order = sequential_order(len(split), bench.config.batch_size)
        for views, _ in iterate(split, order, bench.preprocessing, bench.device, augment=False):
            inputs = bench.inputs(views)
            logits.append(evaluation_step(bench.model, inputs, bench.config.precision, bench.device.type).cpu())
            del views, inputs
            if len(logits) % CHECK_EVERY == 0:
                bench.emit("stage", stage=part, done=len(logits), total=len(order))
        probabilities = torch.cat(logits).double().softmax(dim=1).numpy()
        if not np.isfinite(probabilities).all():
            raise Diverged("predictions must stay finite; try a smaller --lr")
        metrics = classification_metrics(split.labels, probabilities, bench.classes)
    return metrics, probabilities
