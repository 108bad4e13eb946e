"""The training loop: AdamW, cosine decay to 0, the best validation AUC picks the epoch."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.data.batches import Split, iterate, sequential_order, training_order
from benchmarks.tasks import TASKS
from benchmarks.training.bench import Bench
from benchmarks.training.checkpoint import Checkpoints
from benchmarks.training.compiled import compile_steps
from benchmarks.training.imbalance import drawing_weights, make_loss
from benchmarks.training.metrics import metrics_of
from benchmarks.training.state import Training, TrainingResult, restore
from benchmarks.training.step import evaluation_step, training_step

REPORT_EVERY = 10  # batches between signs of life; the loss is read once an epoch, as reading waits for the device


class Diverged(RuntimeError):
    """The loss is no longer finite."""


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
    _prepare(bench, train_split)
    training, epochs = Training(bench, train_split), bench.config.epochs
    assert epochs is not None
    if checkpoints is not None and (state := checkpoints.load()) is not None:
        training.load_state_dict(state)
        bench.emit("note", text=f"goes on after epoch {len(training.result.history)}")
    if bench.config.compile != "none":
        compile_steps(bench, training.optimization, train_split)
    result = training.result
    for epoch in range(len(result.history) + 1, epochs + 1):
        train_and_validate(training, train_split, val_split, epoch)
        if is_hopeless([entry["val_auc"] for entry in result.history], epochs, rivals):
            result.stopped_after = epoch
            break
        if checkpoints is not None and epoch < epochs:
            with bench.clock("checkpoint"):
                checkpoints.store(epoch, training.state_dict())
    restore(bench.model, training.best)
    return result


def prepare_alone(bench: Bench, train_split: Split, val_split: Split) -> TrainingResult:
    """What stands in the place of training where nothing trains by gradients: a pass over the training split.

    Args:
        bench: With the model to prepare.
        train_split: What it is made from.
        val_split: Read once; it picks nothing.

    Raises:
        Diverged: A prediction is not finite.
    """
    _prepare(bench, train_split)
    metrics, logits = evaluate(bench, val_split, "validate")
    return TrainingResult(validation=metrics, logits=logits)


def _prepare(bench: Bench, split: Split) -> None:
    if bench.recipe.prepare is not None:
        with bench.clock("prepare"), bench.memory.phase("prepare"):
            bench.recipe.prepare(bench.model, PreparationBatches(bench, split))


def train_and_validate(training: Training, train: Split, val: Split, epoch: int) -> None:
    """One epoch, from its first step until its weights are kept or not."""
    bench, config, result = training.bench, training.bench.config, training.result
    weights = drawing_weights(config.imbalance, train.labels, len(bench.classes))
    order = training_order(len(train), config.batch_size, training.generator, train.epoch_images, weights)
    joules_before = sum(bench.clock.joules.values())
    seconds, loss = _train_epoch(training, train, order, epoch)
    metrics, logits = evaluate(bench, val, "validate")
    entry = {
        **{"epoch": epoch, "loss": loss, "lr": training.schedule.get_last_lr()[0]},
        **{"val_auc": metrics["auc"], "val_loss": metrics["loss"]},
    }
    joules = sum(bench.clock.joules.values()) - joules_before
    result.history.append(entry | {"seconds": seconds} | ({"joules": joules} if bench.clock.joules else {}))
    training.keep_best(epoch, metrics, logits)
    speed = len(order) * config.batch_size / seconds
    bench.emit("epoch", epochs=config.epochs, images_per_second=speed, **entry)


@dataclass(frozen=True)
class PreparationBatches:
    """As `methods.contract.TrainingBatches`; the same whenever it is iterated."""

    bench: Bench
    split: Split

    def loss(self, outputs: Tensor, labels: Tensor, /) -> Tensor:
        """That of the run, with what it does about imbalance."""
        bench, config = self.bench, self.bench.config
        own = make_loss(config.imbalance, self.split.labels, len(bench.classes), bench.device, config.loss)
        return own(outputs, labels)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        bench, generator = self.bench, torch.Generator().manual_seed(self.bench.config.seed)
        batch_size, num_images = bench.config.batch_size, len(self.split)
        shuffled = torch.randperm(num_images, generator=generator).numpy()
        order = [shuffled[start : start + batch_size] for start in range(0, num_images, batch_size)]
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
            step += 1
            if step % REPORT_EVERY == 0 or step == len(order):
                bench.emit("step", epoch=epoch, epochs=bench.config.epochs, step=step, steps=len(order))
        loss = total.item() / step
        if not math.isfinite(loss):
            raise Diverged(f"loss must stay finite, got {loss} in epoch {epoch}; try a smaller --lr")
    return time.perf_counter() - started, loss


def evaluate(bench: Bench, split: Split, part: str) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Metrics and per-image logits `(n, C)` of a split, what the head computed in fp32 as float64.

    Args:
        bench: With the model to evaluate.
        split: What to predict.
        part: Name for the clock: `validate` or `test`.

    Raises:
        Diverged: A prediction is not finite.
    """
    bench.model.eval()
    logits: list[Tensor] = []
    with bench.clock(part), bench.memory.phase("eval"):
        order = sequential_order(len(split), bench.config.batch_size)
        for views, _ in iterate(split, order, bench.preprocessing, bench.device, augment=False):
            inputs = bench.inputs(views)
            config = bench.config
            logits.append(evaluation_step(bench.model, inputs, config.precision, bench.device.type, config.loss))
            del views, inputs
            if len(logits) % REPORT_EVERY == 0:
                bench.emit("stage", stage=part, done=len(logits), total=len(order))
        found = torch.cat(logits).cpu().double().numpy()  # the one time that the host waits
        if not np.isfinite(found).all():
            raise Diverged("predictions must stay finite; try a smaller --lr")
        metrics = metrics_of(split.labels, found, bench.classes, bench.ordered, TASKS[bench.config.loss])
    return metrics, found
