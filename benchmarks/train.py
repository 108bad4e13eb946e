"""The training loop: AdamW, cosine decay to 0, the best validation AUC picks the epoch."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.augment import Preprocessing
from benchmarks.batches import Split, iterate, sequential_order, training_order
from benchmarks.config import RunConfig
from benchmarks.metrics import classification_metrics
from benchmarks.step import (
    evaluation_step,
    extraction_step,
    make_optimization,
    trainable_parameters,
    training_step,
)

Emit = Callable[..., None]
Phase = Callable[[str], AbstractContextManager[None]]

CHECK_EVERY = 10  # steps between looks at the loss, each of which waits for the device


class Diverged(RuntimeError):
    """The loss is no longer finite."""


class Clock:
    """Seconds spent in each named part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started


@dataclass
class Bench:
    """What the loop works with.

    Attributes:
        config: The run's settings.
        model: The trainable part, on the device.
        extractor: The frozen part, on the device, where it runs in every step; else None.
        preprocessing: Augments and normalises views.
        classes: Names of the classes.
        device: Where all of it lies.
        clock: Takes the seconds of each part.
        phase: Context that measures a memory phase by its name.
        emit: Receives progress events.
    """

    config: RunConfig
    model: nn.Module
    extractor: nn.Module | None
    preprocessing: Preprocessing
    classes: Sequence[str]
    device: torch.device
    clock: Clock
    phase: Phase
    emit: Emit

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch's views as the model's inputs: a live extractor turns its image into features."""
        if self.extractor is None:
            return batch
        image = batch.pop("image")
        return batch | extraction_step(self.extractor, image, self.config.precision, self.device.type)

    def synchronize(self) -> None:
        """Waits for the device, so that host clocks tell the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Fit:
    """What training yields.

    Attributes:
        history: One entry an epoch: epoch (from 1), loss, lr (at its end), val_auc, seconds.
        best_epoch: The epoch with the best validation AUC, the first of equals.
        validation: Metrics of that epoch.
        probabilities: Its predictions of the validation split `(n, C)`.
        stopped_after: The epoch after which a hopeless trial was stopped; None where all epochs ran.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    validation: dict[str, Any] = field(default_factory=dict)
    probabilities: NDArray[np.float64] | None = None
    stopped_after: int | None = None


def fit(bench: Bench, train: Split, val: Split, rivals: Sequence[Sequence[float]] = ()) -> Fit:
    """Trains the model and leaves it with the weights of its best epoch.

    Args:
        bench: With the model to train.
        train: What to train on.
        val: What picks the epoch.
        rivals: Of a trial that may be stopped: validation AUC by epoch of those before it; see `is_hopeless`.

    Raises:
        Diverged: The loss is not finite.
    """
    config, result = bench.config, Fit()
    parameters = trainable_parameters(bench.model)
    best: list[Tensor] = []
    optimization = make_optimization(bench.model, config.lr, config.weight_decay, config.precision, bench.device.type)
    num_steps = config.epochs * (len(train) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimization.optimizer, T_max=num_steps)
    generator = torch.Generator().manual_seed(config.seed)
    for epoch in range(1, config.epochs + 1):
        order = training_order(len(train), config.batch_size, generator)
        seconds, loss = _train_epoch(bench, train, order, optimization, schedule, epoch)
        metrics, probabilities = evaluate(bench, val, "validate")
        entry = {"epoch": epoch, "loss": loss, "lr": schedule.get_last_lr()[0], "val_auc": metrics["auc"]}
        result.history.append(entry | {"seconds": seconds})
        if not best or metrics["auc"] > result.validation["auc"]:
            best = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
            result.best_epoch, result.validation, result.probabilities = epoch, metrics, probabilities
        images = len(order) * config.batch_size
        bench.emit(
            "epoch",
            epoch=epoch,
            epochs=config.epochs,
            loss=loss,
            val_auc=metrics["auc"],
            images_per_second=images / seconds,
        )
        if is_hopeless([entry["val_auc"] for entry in result.history], config.epochs, rivals):
            result.stopped_after = epoch
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)
    return result


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
    bench: Bench,
    split: Split,
    order: Sequence[NDArray[np.int64]],
    optimization: Any,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
) -> tuple[float, float]:
    """Trains one epoch; returns its seconds and its mean loss."""
    bench.model.train()
    total = torch.zeros((), device=bench.device)
    started = time.perf_counter()
    with bench.clock("train"), bench.phase("train"):
        step = 0
        for views, labels in iterate(split, order, bench.preprocessing, bench.device, augment=True):
            total += training_step(bench.model, bench.inputs(views), labels, optimization)
            del views  # two batches of features would not be the method's memory
            schedule.step()
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
    with bench.clock(part), bench.phase("eval"):
        order = sequential_order(len(split), bench.config.batch_size)
        for views, _ in iterate(split, order, bench.preprocessing, bench.device, augment=False):
            inputs = bench.inputs(views)
            logits.append(evaluation_step(bench.model, inputs, bench.config.precision, bench.device.type).cpu())
            del views, inputs
        probabilities = torch.cat(logits).double().softmax(dim=1).numpy()
        if not np.isfinite(probabilities).all():
            raise Diverged("predictions must stay finite; try a smaller --lr")
        metrics = classification_metrics(split.labels, probabilities, bench.classes)
    return metrics, probabilities
