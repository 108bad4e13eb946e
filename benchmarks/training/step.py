"""One step of each kind: training, evaluation, extraction. Training, measuring and predicting all run these."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.config import NO_SAVERS, LossName, Precision, Savers
from benchmarks.errors import UserError
from benchmarks.tasks import TASKS, cross_entropy
from benchmarks.training.offload import ActivationsOnHost, OnHost
from benchmarks.training.optimizers import make_optimizer
from benchmarks.training.recompute import keeping_what_is_dear
from methods.contract import Recipe

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_GRAD_NORM = 1.0  # as the FPT papers
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (B, C) in fp32 and labels (B,), a scalar


@dataclass(frozen=True)
class GivenBatches:
    """Batches that are there, as `methods.contract.TrainingBatches`."""

    pairs: Sequence[tuple[dict[str, Tensor], Tensor]]
    loss: Loss = cross_entropy

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        return iter(self.pairs)


def forbid_tf32() -> None:
    """Makes fp32 mean fp32 on a GPU: no TF32 in matrix products or convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def autocast(device_type: str, precision: Precision) -> torch.autocast:
    """Mixed precision on a device; with fp32 it changes nothing."""
    dtype = AUTOCAST_DTYPES[precision]
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of `model` that train."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@dataclass
class Optimization:
    """All that a training step needs besides model and batch.

    Attributes:
        recipe: How the method trains.
        optimizer: Over the trainable parameters.
        scaler: Scales the loss in fp16; passes everything through otherwise.
        precision: Of the forward pass.
        device_type: `cpu` or `cuda`.
        lr, weight_decay: Of parameter groups that have none of their own.
        decay_all: Whether `weight_decay` is of all parameters, also of those that it usually spares.
        savers: What of it saves memory.
        on_host: Entered where activations are copied to the host.
        compiled: The model's forward pass as torch.compile makes it, where it does.
        step: Number of steps done.
        schedule: Of the learning rates, once `start_schedule` was called.
        loss: To which the recipe may add.
    """

    recipe: Recipe
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    device_type: str
    lr: float
    weight_decay: float
    decay_all: bool = False
    savers: Savers = NO_SAVERS
    on_host: OnHost = nullcontext
    compiled: Callable[..., Tensor] | None = None
    step: int = 0
    schedule: LambdaLR | None = None
    loss: Loss = cross_entropy

    def start_schedule(self, num_steps: int, warmup_steps: int = 0) -> LambdaLR:
        """From here on all rates follow `rate_factor`; call the schedule's `step` behind each step."""
        self.schedule = LambdaLR(self.optimizer, lambda step: rate_factor(step, num_steps, warmup_steps))
        return self.schedule

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def regroup(self, model: nn.Module) -> None:
        """Goes on with what trains in `model` now: what stays keeps its state, what is new begins without."""
        state = self.optimizer.state
        groups = _make_optimizer(
            model, self.recipe, self.lr, self.weight_decay, self.decay_all, self.savers
        ).param_groups
        if self.schedule is not None:
            factor = self.schedule.lr_lambdas[0]
            self.schedule.base_lrs = [group["lr"] for group in groups]
            self.schedule.lr_lambdas = [factor] * len(groups)
            for group in groups:
                group["initial_lr"], group["lr"] = group["lr"], group["lr"] * factor(self.schedule.last_epoch)
        self.optimizer.param_groups[:] = groups  # in place, as the schedule holds the optimiser
        for parameter in set(state) - set(self.parameters):
            del state[parameter]

    def saving(self, model: nn.Module, inputs: dict[str, Tensor]) -> AbstractContextManager[object]:
        """What a forward pass is run in, for what it leaves to the backward pass."""
        if self.savers.recompute == "cheap":
            return keeping_what_is_dear()
        if self.savers.offload == "none":
            return nullcontext()
        return ActivationsOnHost((*model.parameters(), *model.buffers(), *inputs.values()), self.on_host)


def rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """What the learning rates of a step are multiplied by: linear to 1, then a cosine to 0.

    Args:
        step: From 0; from 0 to 1 before the first step, exactly 1 in step `warmup_steps`, 0 behind the last.
        num_steps: Of the whole training.
        warmup_steps: Steps below the peak.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return (1 + math.cos(math.pi * (step - warmup_steps) / (num_steps - warmup_steps))) / 2


def make_optimization(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    precision: Precision,
    device_type: str,
    recipe: Recipe = Recipe(),  # noqa: B008 - frozen
    decay_all: bool = False,
    savers: Savers = NO_SAVERS,
    on_host: OnHost = nullcontext,
    loss: LossName = "cross_entropy",
) -> Optimization:
    """The optimiser of whatever trains in `model`, and the loss scaler.

    Args:
        model: With the parameters to train.
        lr: Peak learning rate.
        weight_decay: Spares what `undecayed` names, unless `decay_all`.
        precision: Of the forward pass.
        device_type: `cpu` or `cuda`.
        recipe: How the method trains.
        decay_all: Whether every parameter decays, as in the FPT papers.
        savers: The optimiser, and where activations wait.
        on_host: Entered where activations are copied to the host.
        loss: What a step makes smaller.

    Raises:
        UserError: The recipe has an optimiser of its own and another is asked for, or one that is not installed.
    """
    optimizer = _make_optimizer(model, recipe, lr, weight_decay, decay_all, savers)
    scaler = torch.amp.GradScaler(device_type, enabled=precision == "fp16")
    return Optimization(
        recipe,
        optimizer,
        scaler,
        precision,
        device_type,
        lr,
        weight_decay,
        decay_all,
        savers,
        on_host,
        loss=TASKS[loss].loss,
    )


def undecayed(model: nn.Module) -> set[nn.Parameter]:
    """What weight decay spares: vectors (biases, norms, scales), and what a module of `model` names as such.

    A module names parameters of its own by a method `no_weight_decay() -> set[str]`, as timm's models do (a ViT its
    class token and position embedding).
    """
    spared = {parameter for parameter in model.parameters() if parameter.ndim <= 1}
    for module in model.modules():
        if callable(names := getattr(module, "no_weight_decay", None)):
            own = dict(module.named_parameters())
            spared |= {own[name] for name in names() if name in own}
    return spared


def _make_optimizer(
    model: nn.Module, recipe: Recipe, lr: float, weight_decay: float, decay_all: bool, savers: Savers
) -> torch.optim.Optimizer:
    """The recipe's, else the one asked for."""
    groups = [{"params": trainable_parameters(model)}] if recipe.groups is None else recipe.groups(model)
    if not decay_all:
        spared = undecayed(model)
        groups = [part for group in groups for part in _split(group, spared)]
    groups = [{"lr": lr, "weight_decay": weight_decay} | group for group in groups]
    _check_types(groups)
    if recipe.optimizer is None:
        return make_optimizer(savers.optimizer, groups, lr, weight_decay)
    if savers.optimizer != "adamw":
        raise UserError(
            f"optimizer must be left out with a method that brings its own, got {savers.optimizer!r}; leave out "
            "--optimizer, or the method"
        )
    return recipe.optimizer(groups)


def _check_types(groups: Iterable[Mapping[str, Any]]) -> None:
    """What was frozen when it was cast may train only later."""
    types = {parameter.dtype for group in groups for parameter in group["params"]}
    if types - {torch.float32}:
        raise UserError(
            "frozen weights must lie in fp32 with a method that trains some of them later, got bf16; leave out "
            "--frozen-weights, or the method"
        )


def _split(group: dict[str, Any], spared: set[nn.Parameter]) -> Iterator[dict[str, Any]]:
    """A group that states no weight decay, as what decays and what is spared; another as it is."""
    if "weight_decay" in group:
        yield group
        return
    parameters = list(group["params"])
    decayed = [parameter for parameter in parameters if parameter not in spared]
    if decayed:
        yield group | {"params": decayed}
    if len(decayed) < len(parameters):
        yield group | {"params": [p for p in parameters if p in spared], "weight_decay": 0.0}


def batch_loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, optimization: Optimization) -> Tensor:
    """The loss of a batch and what the recipe adds to it, a scalar with a graph."""
    recipe = optimization.recipe
    forward: Callable[..., Tensor] = model if optimization.compiled is None else optimization.compiled
    if optimization.compiled is not None:
        torch.compiler.cudagraph_mark_step_begin()  # what the last step left in a graph's memory is done with
    with optimization.saving(model, inputs), autocast(optimization.device_type, optimization.precision):
        logits: Tensor = forward(**inputs)
        loss = optimization.loss(logits.float(), labels)
        return loss if recipe.extra_loss is None else loss + recipe.extra_loss(model, logits, labels)


def training_step(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, optimization: Optimization) -> Tensor:
    """One optimiser step on a batch: the loss and what the recipe adds to it, gradient norm clipped at 1.

    Args:
        model: In training mode.
        inputs: The model's inputs by name.
        labels: Targets as the loss takes them, see `tasks.Task`.
        optimization: Optimiser, loss, loss scaler, precision and recipe.

    Returns:
        The batch's mean loss, detached, a scalar on the model's device.
    """
    recipe, optimizer, scaler = optimization.recipe, optimization.optimizer, optimization.scaler
    loss = batch_loss(model, inputs, labels, optimization)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(optimization.parameters, MAX_GRAD_NORM)
    scaler.step(optimizer)
    scaler.update()
    changed = recipe.after_step is not None and recipe.after_step(model, optimization.step)
    optimizer.zero_grad(set_to_none=True)
    if changed:
        optimization.regroup(model)
    optimization.step += 1
    return loss.detach()


@torch.no_grad()
def evaluation_step(
    model: nn.Module,
    inputs: dict[str, Tensor],
    precision: Precision,
    device_type: str,
    loss: LossName = "cross_entropy",
) -> Tensor:
    """Logits of classes `(B, C)` of a batch in fp32, of a model that was trained with `loss` and is in eval mode."""
    with autocast(device_type, precision):
        return TASKS[loss].logits(model(**inputs).float())


@torch.no_grad()
def extraction_step(extractor: nn.Module, image: Tensor, precision: Precision, device_type: str) -> dict[str, Tensor]:
    """The frozen part's features of a batch `(B, 3, H, W)`, by name."""
    with autocast(device_type, precision):
        return extractor(image=image)
