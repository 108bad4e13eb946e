"""From a command's options to the list of runs: every default is resolved here, before the first run starts."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.config import Imbalance, LossName, Places, RunConfig, identity, savers_of
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.data.findings import notes_on_findings
from benchmarks.data.identical import notes_on, refuse_leaks
from benchmarks.errors import UserError
from benchmarks.model.backbone import check_backbone, described, effective_resolution, statistics_of
from benchmarks.model.build import check_runs
from benchmarks.model.choose import choose_variants
from benchmarks.model.published import without_folder
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.variants import Variant
from benchmarks.model.weights import resolve_weights
from benchmarks.names import printable, told_apart
from benchmarks.plugins import digests_of, load_plugins
from benchmarks.suite.devices import devices_of
from benchmarks.suite.labels import Labelled, labelled_sets, with_a_loss, with_enough
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.planned import Cell, Plan, PlannedRun
from benchmarks.tasks import chosen_loss
from benchmarks.training.compiled import check_compile
from benchmarks.training.savers import check_savers
from datasets import DATASETS
from methods import METHODS


def make_plan(options: SuiteOptions) -> Plan:
    """Resolves devices, datasets, weights and defaults, and checks what can be checked before a run.

    Raises:
        UserError: Something asked for does not exist, does not fit or cannot be had; the message says what to do.
    """
    notes: list[str] = []
    load_plugins(options.plugins)
    plugins = tuple(path.resolve() for path in options.plugins)
    data_root, cache, device = options.data_root.resolve(), options.cache.resolve(), devices_of(options)[0]
    backbone, file = without_folder(options.whole_backbone)
    check_backbone(backbone)
    asked, said = choose_variants(options.methods, options.set, backbone)
    variants = sorted(asked, key=lambda variant: list(METHODS).index(variant.method))  # what FPT extracts serves FPT+
    notes += said
    _normalization(options, options.whole_backbone)
    precision = options.precision or ("bf16" if device.partition(":")[0] == "cuda" else "fp32")
    check_savers(vars(options), [precision], variants, backbone)
    check_compile(options.compile, device.partition(":")[0], options.offload)
    _check_rates(variants, options.lr)
    _check_preload(options.preload, [variant.method for variant in asked], notes)
    _check_runs(variants, backbone, options.res)  # before images are read and weights downloaded
    datasets = {
        source: open_dataset(source, data_root, cache, options.verify_data)
        for source in map(_as_folder, _sources(options, notes))
    }
    for dataset in datasets.values():
        if not options.allow_leaks:
            refuse_leaks(dataset.name, dataset.identical)
        notes += notes_on(dataset.name, dataset.identical)
        notes += notes_on_findings(dataset.name, dataset.findings) if dataset.findings else []
        _check_warmup(options.warmup_epochs, options.epochs or dataset.epochs)
    labelled = {source: labelled_sets(options, dataset) for source, dataset in datasets.items()}
    named = {name.partition(":")[0] for name in options.methods}
    variants = with_enough(variants, list(itertools.chain(*labelled.values())), named, notes)
    variants = with_a_loss(variants, options.imbalance, named, notes)
    _check_losses(variants, datasets, options)
    source = str(file) if file is not None and options.weights in ("auto", "hub") else options.weights
    weights = resolve_weights(source, backbone, cache, options.resample_patch_embed)
    if weights.note:
        notes.append(weights.note)
    if weights.backbone != backbone:
        _check_runs(variants, weights.backbone, options.res)
    notes += _rounded(options.res, weights.backbone)
    labels = _dataset_labels(datasets, notes)
    cells = [
        _plan_cell(options, _plan_run(options, variant, dataset, resolution, weights, places, labels[source], some))
        for source, dataset in datasets.items()
        for places in [Places(source, data_root, cache, device, plugins, options.verify_data, options.gpu_memory)]
        for some in labelled[source]
        for resolution in options.res
        for variant in variants
    ]
    return Plan(cells, notes)


def _sources(options: SuiteOptions, notes: list[str]) -> Sequence[str]:
    """The datasets that are meant, or all folds of each.

    Raises:
        UserError: No dataset is named whose folds are meant, or it has more of them.
    """
    num, names = options.folds, options.datasets
    if num is None:
        return names or _default_datasets(options.data_root.resolve(), notes)
    if not names:
        raise UserError("folds must be of datasets that are named, got none; add --datasets NAME")
    for name in names:
        places = [Path(f"{name}-fold{num + 1}"), options.data_root / f"{name}-fold{num + 1}"]
        if any(place.is_dir() for place in places):
            raise UserError(
                f"folds must be all that there are, got {num} of {name}, which has more; give as many as split made"
            )
    return [f"{name}-fold{number}" for name in names for number in range(1, num + 1)]


def _as_folder(source: str) -> str:
    """A folder's whole path, that runs may start from another folder; the name of a dataset stays."""
    return str(Path(source).resolve()) if source not in DATASETS and Path(source).is_dir() else source


def _dataset_labels(datasets: Mapping[str, Dataset], notes: list[str]) -> dict[str, str]:
    """By source what a dataset is called, as in tables, where another has its name, else nothing; a note says which."""
    labels = dict.fromkeys(datasets, "")
    for name in {dataset.name for dataset in datasets.values()}:
        alike = [source for source, dataset in datasets.items() if dataset.name == name]
        if len(alike) > 1:
            labels |= {source: told_apart(name, datasets[source].digest) for source in alike}
            notes += [f"{labels[source]} is {printable(source)}" for source in alike]
    return labels


def _default_datasets(data_root: Path, notes: list[str]) -> list[str]:
    prepared = [name for name, info in DATASETS.items() if not info.synthetic and (data_root / name).is_dir()]
    if prepared:
        return prepared
    notes.append(f"no prepared dataset under {data_root}: using demo, synthetic images that are not clinical data")
    return ["demo"]


def _check_losses(variants: Sequence[Variant], datasets: Mapping[str, Dataset], options: SuiteOptions) -> None:
    """The loss that is asked for is one for each dataset, and what is to be done about imbalance is defined for it.

    Raises:
        UserError: It is not.
    """
    for variant, dataset in itertools.product(variants, datasets.values()):
        _check_imbalance(loss_of(variant.method, dataset, options.loss), options.imbalance, dataset.name)


def _check_imbalance(loss: LossName, imbalance: Imbalance, name: str) -> None:
    """What is to be done about imbalance is defined for the loss."""
    if loss == "corn" and imbalance != "none":
        raise UserError(
            f"imbalance must be none with the loss {loss}, as it is of classes and cross-entropy, or of findings, got "
            f"{imbalance} on {name}; leave out --imbalance"
        )
    if loss == "bce" and imbalance == "balanced_sampling":
        raise UserError(
            f"imbalance must be class_weights or logit_adjustment on {name}, got balanced_sampling: an image that is "
            "drawn brings all of its findings, so in general no way of drawing makes each as common as its absence"
        )


def loss_of(method: str, dataset: Dataset, asked: LossName | None) -> LossName:
    """The loss of a method's runs on a dataset; where nothing trains by gradients that of the dataset, whatever asked.

    Raises:
        UserError: It is none for the dataset.
    """
    asked = None if METHODS[method].gradient_free else asked
    return chosen_loss(asked, dataset.name, dataset.findings is not None, dataset.ordered)


def _check_warmup(warmup_epochs: int, epochs: int) -> None:
    if warmup_epochs >= epochs:
        raise UserError(
            f"warmup epochs must be fewer than the {epochs} epochs, got {warmup_epochs!r}; choose a smaller "
            "--warmup-epochs, or more --epochs"
        )


def _check_preload(preload: str, methods: Sequence[str], notes: list[str]) -> None:
    """What is asked to preload has something to preload."""
    able, unable = (
        [name for name in dict.fromkeys(methods) if METHODS[name].has_extractor is has] for has in (True, False)
    )
    if preload != "on" or not unable:
        return
    if not able:
        choices = ", ".join(name for name, method in METHODS.items() if method.has_extractor)
        raise UserError(
            f"preload on must have a method with frozen features ({choices}), got {', '.join(unable)}; leave it out"
        )
    notes.append(f"--preload on is of {', '.join(able)} alone: {', '.join(unable)} have nothing to preload")


def _check_rates(variants: Sequence[Variant], rates: Sequence[float] | str) -> None:
    """A rate that stands with a method is not chosen among others, nor given once more for all."""
    for variant in variants:
        if rates and "lr" in dict(variant.asked):
            raise UserError(f"lr must stand with {variant.name} or be given by --lr, got both; leave one out")


def _check_runs(variants: Sequence[Variant], backbone: str, resolutions: Sequence[int]) -> None:
    """Checks each method at the smallest resolution, which leaves the fewest tokens."""
    smallest = effective_resolution(min(resolutions), described(backbone).stride)
    for variant in variants:
        check_runs(METHODS[variant.method], variant.config, backbone, smallest)


def _normalization(options: SuiteOptions, backbone: str) -> Any:
    """What `RunConfig.normalization` is for a backbone."""
    return statistics_of(backbone) if options.normalization == "backbone" else None


def _rounded(resolutions: Sequence[int], backbone: str) -> Iterator[str]:
    """A note for each resolution that is none of the backbone's."""
    network = described(backbone)
    unit = "patch size" if hasattr(network, "patch_size") else "stride"
    for resolution in resolutions:
        effective = effective_resolution(resolution, network.stride)
        if effective != resolution:
            yield f"{resolution} px is no multiple of {backbone}'s {unit} {network.stride}: runs at {effective} px"


def _plan_cell(options: SuiteOptions, first: PlannedRun) -> Cell:
    runs = [replace(first, config=replace(first.config, seed=seed)) for seed in options.seeds]
    method = METHODS[first.config.method]
    if method.gradient_free:
        return Cell([], runs)
    own = method.config.lr_grid  # type: ignore[attr-defined]
    grid = tuple(sorted(own if options.lr == "grid" else options.lr))
    if len(grid) < 2:
        return Cell([], runs)
    trials = [
        replace(run, config=replace(run.config, lr=rate, lr_grid=grid, trial=True, stop_hopeless=options.stop_hopeless))
        for run in (runs if options.trial_seeds == "all" else runs[:1])
        for rate in grid
    ]
    middle = grid[len(grid) // 2]
    return Cell(trials, [replace(run, config=replace(run.config, lr=middle, lr_grid=grid)) for run in runs])


def _plan_run(
    options: SuiteOptions,
    variant: Variant,
    dataset: Dataset,
    resolution: int,
    weights: Weights,
    places: Places,
    label: str,
    labelled: Labelled,
) -> PlannedRun:
    """The run of the first seed."""
    method, settings = variant.method, dataclasses.asdict(variant.config)
    rate, weight_decay = settings.pop("lr", None), settings.pop("weight_decay", None)
    given = options.lr[0] if options.lr != "grid" and len(options.lr) == 1 else rate
    trains = not METHODS[method].gradient_free
    budget = labelled.budget
    device_type = places.device.partition(":")[0]
    config = RunConfig(
        method=method,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        resolution=resolution,
        seed=options.seeds[0],
        backbone=weights.backbone,
        weights=weights.source,
        weights_sha256=weights.sha256,
        epochs=(options.epochs or dataset.epochs) if trains else None,
        batch_size=labelled.batch_size,
        lr=given if trains else None,
        weight_decay=weight_decay,
        options=identity(settings, METHODS[method].config),
        precision=options.precision or ("bf16" if device_type == "cuda" else "fp32"),
        attention=options.attention,
        grad_checkpointing=options.grad_checkpointing and trains,
        **(savers_of(vars(options)) if trains else {"quantize": options.quantize}),
        preload=METHODS[method].has_extractor and options.preload != "off",
        device_type=device_type,
        decay_all=options.decay_all and trains,
        warmup_epochs=options.warmup_epochs if trains else 0,
        plugins=tuple(sorted(digests_of(method, dataset.name, weights.backbone).items())),
        normalization=_normalization(options, weights.backbone if weights.fallback else options.whole_backbone),
        resample_patch_embed=options.resample_patch_embed,
        compile=options.compile if trains else "none",
        train_fraction=budget.train_fraction,
        shots=budget.shots,
        keep_steps=budget.keep_steps and trains,
        training_set=labelled.digest,
        imbalance=options.imbalance,
        loss=loss_of(method, dataset, options.loss),
        uncertain=options.uncertain if dataset.findings else "ignore",
    )
    return PlannedRun(config, places, weights, dataset_label=label, variant=variant.name)
