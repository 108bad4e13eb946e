"""From a command's options to the list of runs: every default is resolved here, before the first run starts."""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.config import Attention, Places, Precision, RunConfig, identity
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.model.backbone import check_backbone, check_needs, effective_resolution, patch_size
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.model.weights import Weights, resolve_weights
from datasets import DATASETS
from methods import METHODS


@dataclass(frozen=True)
class SuiteOptions:
    """What a user asked for; None leaves the choice to the plan.

    Attributes:
        methods, datasets, resolutions, seeds: The grid. Datasets are names or folders.
        backbone, weights: The pretrained ViT.
        epochs, batch_size: Budget; default to the dataset's.
        lr: Learning rates: none for each method's default, one for all, several to choose among on validation, or
            `grid` for each method's own.
        trial_seeds: `first` or `all`: the seeds that choose among rates.
        stop_hopeless: Whether trials may end at half their epochs.
        method_options: Changed fields of methods' Configs, by method.
        precision, attention, grad_checkpointing, preload: Factors; precision defaults to bf16 on a GPU, fp32 else.
        device: `cpu` or `cuda:<n>`.
        data_root, cache: Folders.
    """

    methods: list[str]
    datasets: list[str] | None
    resolutions: list[int]
    seeds: list[int]
    backbone: str
    weights: str
    epochs: int | None
    batch_size: int | None
    lr: tuple[float, ...] | Literal["grid"]
    trial_seeds: str
    stop_hopeless: bool
    method_options: dict[str, dict[str, Any]]
    precision: Precision | None
    attention: Attention
    grad_checkpointing: bool
    preload: str
    device: str
    data_root: Path
    cache: Path


@dataclass(frozen=True)
class PlannedRun:
    """A run that is ready to start.

    Attributes:
        config, places, weights: What it is.
        tuning: How its learning rate was chosen, for its record; None where it was given.
    """

    config: RunConfig
    places: Places
    weights: Weights
    tuning: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """What it is, for people."""
        config = self.config
        trial = f" trial lr {config.lr:g}" if config.trial else ""
        return f"{config.method} {config.dataset} {config.resolution} px seed {config.seed}{trial}"


@dataclass(frozen=True)
class Cell:
    """The runs of a method on a dataset at a resolution.

    Attributes:
        trials: A run for each rate of the grid and each seed that chooses; none where the rate is given.
        runs: A run a seed. With trials their rate is the middle of the grid until `benchmarks.suite.tuning` has chosen.
    """

    trials: list[PlannedRun]
    runs: list[PlannedRun]


@dataclass(frozen=True)
class Plan:
    """All runs of a suite, in order, and what the user should know about them, a line each."""

    cells: list[Cell]
    notes: list[str]

    @property
    def trials(self) -> list[PlannedRun]:
        """The trials of all cells."""
        return [run for cell in self.cells for run in cell.trials]

    @property
    def runs(self) -> list[PlannedRun]:
        """The runs of all cells, without the trials."""
        return [run for cell in self.cells for run in cell.runs]


def make_plan(options: SuiteOptions) -> Plan:
    """Resolves datasets, weights and defaults, and checks what can be checked before a run.

    Raises:
        ValueError: Something asked for does not exist or does not fit; the message says what to do.
        FileNotFoundError: A dataset is not prepared.
        RuntimeError: Weights cannot be had.
    """
    notes: list[str] = []
    check_backbone(options.backbone)
    sources = options.datasets or _default_datasets(options.data_root, notes)
    sources = [
        str(Path(source).resolve()) if source not in DATASETS and Path(source).is_dir() else source
        for source in sources
    ]
    datasets = {source: open_dataset(source, options.data_root, options.cache) for source in sources}
    for dataset in datasets.values():
        _check_batch_size(dataset, options.batch_size or dataset.batch_size)
    weights = resolve_weights(options.weights, options.backbone, options.cache)
    if weights.note:
        notes.append(weights.note)
    _check_resolutions(options.resolutions, weights.backbone, notes)
    for method in options.methods:
        check_needs(weights.backbone, METHODS[method])
    _check_method_options(options.method_options, weights.backbone)
    cells = [
        _plan_cell(options, method, source, dataset, resolution, weights)
        for source, dataset in datasets.items()
        for resolution in options.resolutions
        for method in sorted(options.methods, key=list(METHODS).index)  # what FPT extracts serves FPT+ as well
    ]
    return Plan(cells, notes)


def _default_datasets(data_root: Path, notes: list[str]) -> list[str]:
    prepared = [name for name, info in DATASETS.items() if not info.synthetic and (data_root / name).is_dir()]
    if prepared:
        return prepared
    notes.append(f"no prepared dataset under {data_root}: using demo, synthetic images that are not clinical data")
    return ["demo"]


def _check_batch_size(dataset: Dataset, batch_size: int) -> None:
    smallest = len(dataset.splits["train"])
    if batch_size > smallest:
        raise ValueError(
            f"batch size must be at most the {smallest} training images of {dataset.name}, got {batch_size!r}; "
            "choose a smaller --batch-size"
        )


def _check_resolutions(resolutions: list[int], backbone: str, notes: list[str]) -> None:
    patch = patch_size(backbone)
    for resolution in resolutions:
        effective = effective_resolution(resolution, patch)
        if effective != resolution:
            notes.append(f"{resolution} px is no multiple of {backbone}'s patch size {patch}: runs at {effective} px")


def _check_method_options(method_options: dict[str, dict[str, Any]], backbone: str) -> None:
    """Builds each method whose settings were changed, without weights: what does not fit shows here."""
    for method, changed in method_options.items():
        with torch.device("meta"):
            build_parts(method, make_config(method, changed), backbone, num_classes=2)


def _plan_cell(
    options: SuiteOptions,
    method: str,
    source: str,
    dataset: Dataset,
    resolution: int,
    weights: Weights,
) -> Cell:
    first = _plan_run(options, method, source, dataset, resolution, options.seeds[0], weights)
    runs = [replace(first, config=replace(first.config, seed=seed)) for seed in options.seeds]
    grid = METHODS[method].config.lr_grid if options.lr == "grid" else options.lr  # type: ignore[attr-defined]
    if len(grid) < 2:
        return Cell([], runs)
    grid = tuple(sorted(grid))
    trials = [
        replace(run, config=replace(run.config, lr=rate, lr_grid=grid, trial=True, stop_hopeless=options.stop_hopeless))
        for run in (runs if options.trial_seeds == "all" else runs[:1])
        for rate in grid
    ]
    middle = grid[len(grid) // 2]
    return Cell(trials, [replace(run, config=replace(run.config, lr=middle, lr_grid=grid)) for run in runs])


def _plan_run(
    options: SuiteOptions,
    method: str,
    source: str,
    dataset: Dataset,
    resolution: int,
    seed: int,
    weights: Weights,
) -> PlannedRun:
    changed = options.method_options.get(method, {})
    settings = dataclasses.asdict(make_config(method, changed))
    rate, weight_decay = settings.pop("lr"), settings.pop("weight_decay")
    device_type = options.device.partition(":")[0]
    config = RunConfig(
        method=method,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        resolution=resolution,
        seed=seed,
        backbone=weights.backbone,
        weights=weights.source,
        weights_sha256=weights.sha256,
        epochs=options.epochs or dataset.epochs,
        batch_size=options.batch_size or dataset.batch_size,
        lr=options.lr[0] if len(options.lr) == 1 else rate,  # type: ignore[arg-type]
        weight_decay=weight_decay,
        options=identity(settings, METHODS[method].config),
        precision=options.precision or ("bf16" if device_type == "cuda" else "fp32"),
        attention=options.attention,
        grad_checkpointing=options.grad_checkpointing,
        preload=METHODS[method].has_extractor and options.preload != "off",
        device_type=device_type,
    )
    return PlannedRun(config, Places(source, options.data_root, options.cache, options.device), weights)
