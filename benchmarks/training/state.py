"""The state of a training under way, as checkpoints hold it, and what a training yields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.data.batches import Split
from benchmarks.scores import preference
from benchmarks.training.bench import Bench
from benchmarks.training.imbalance import make_loss
from benchmarks.training.step import make_optimization


@dataclass
class TrainingResult:
    """What training yields.

    Attributes:
        history: One entry an epoch: epoch (from 1), loss, lr (at its end), val_auc, val_loss, seconds.
        best_epoch: The epoch with the best validation AUC; of equals the lowest validation loss, then the first; 0
            without epochs.
        validation: Metrics of that epoch.
        logits: What it gives the images of the validation split `(n, C)`.
        stopped_after: The epoch after which a hopeless trial was stopped; None where all epochs ran.
        resumed_after: The epochs after which it went on from a checkpoint.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    validation: dict[str, Any] = field(default_factory=dict)
    logits: NDArray[np.float64] | None = None
    stopped_after: int | None = None
    resumed_after: list[int] = field(default_factory=list)


class Training:
    """A training under way: all that changes from epoch to epoch, so all that a checkpoint holds.

    Args:
        bench: With the model to train.
        train: What it is trained on.

    Attributes:
        result: What it yields so far.
        trained: Names of the parameters that train, or did at an earlier stage.
    """

    def __init__(self, bench: Bench, train: Split) -> None:
        config = bench.config
        assert config.lr is not None and config.weight_decay is not None
        self.bench, self.result = bench, TrainingResult()
        self.optimization = make_optimization(
            bench.model, config.lr, config.weight_decay, config.precision, bench.device.type, bench.recipe,
            config.decay_all, config, loss=config.loss,
        )  # fmt: skip
        self.optimization.loss = make_loss(
            config.imbalance, train.labels, len(bench.classes), bench.device, config.loss
        )
        num_steps, warmup_steps = config.num_steps(train.epoch_images), config.num_warmup_steps(train.epoch_images)
        self.schedule = self.optimization.start_schedule(num_steps, warmup_steps)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.trained = trainable_names(bench.model)
        self.best: dict[str, Tensor] = {}

    def keep_best(self, epoch: int, metrics: dict[str, Any], logits: NDArray[np.float64]) -> None:
        """Keeps an epoch's weights where validation prefers them to any before."""
        best = self.result.validation
        if not self.best or preference(metrics["auc"], metrics["loss"]) > preference(best["auc"], best["loss"]):
            self.best = self._copied(self.changing())
            self.result.best_epoch, self.result.validation, self.result.logits = epoch, metrics, logits

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
        """Copies on the host, from a GPU into pinned memory, and waited for once."""
        copies = {name: value.to("cpu", copy=True, non_blocking=True) for name, value in values.items()}
        self.bench.synchronize()
        return copies

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, texts, and lists and dicts of them."""
        result, device = self.result, self.bench.device
        assert result.logits is not None
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
            "result": vars(result) | {"logits": torch.from_numpy(result.logits)},
            "seconds": dict(self.bench.clock.seconds),
            "total_seconds": self.bench.clock.total(),
            "joules": dict(self.bench.clock.joules),
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
        self.result = TrainingResult(**state["result"] | {"logits": state["result"]["logits"].numpy()})
        self.result.resumed_after.append(len(self.result.history))
        self.bench.clock.add(state["seconds"], state["total_seconds"], state["joules"])
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
