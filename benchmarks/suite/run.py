"""One run, start to end, as the sections of its record."""

import copy
import math
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from benchmarks.choices import SPLITS
from benchmarks.config import Places, RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.data.batches import Split
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.data.image_store import open_image_stores
from benchmarks.data.training_set import TrainingSet, choose_training_set
from benchmarks.errors import MachineError, UserError, one_line
from benchmarks.inference.kept import Built, Kept, as_built, kept_of
from benchmarks.inference.predict import image_probabilities
from benchmarks.model.backbone import described, effective_resolution
from benchmarks.model.build import Parts, build_parts, count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.weights import load_weights
from benchmarks.plugins import load_plugins
from benchmarks.tasks import TASKS
from benchmarks.training.bench import Bench, Emit
from benchmarks.training.checkpoint import Checkpoints
from benchmarks.training.clock import Clock
from benchmarks.training.frozen import cast_frozen, save_weights
from benchmarks.training.loop import evaluate, prepare_alone, train
from benchmarks.training.peak_memory import PhaseMemory, host_peak_bytes
from benchmarks.training.preload import Preloading
from benchmarks.training.step import forbid_tf32
from methods import METHODS
from methods.backbone import Backbone
from methods.contract import IMAGE, Views

if TYPE_CHECKING:
    from benchmarks.memory.point import MemoryPoint
    from benchmarks.memory.predict import Prediction


class Run:
    """A run in the making; `record` fills up as it goes, so that a failure leaves what was known by then.

    Args:
        config: The run's settings.
        places: Where its files lie.
        weights: Where its pretrained weights come from.
        clock: Takes the seconds of each part.
        emit: Receives progress events.
        rivals: Of a trial that may be stopped: validation AUC by epoch of the trials before it.
        checkpoints: Where it stores its state after each epoch, and goes on from.
        keep: Whether its model is to be kept, unless it is a trial.
        measures: Whether memory is measured: in a process that has done another run, peaks would be of both.
    """

    def __init__(
        self,
        config: RunConfig,
        places: Places,
        weights: Weights,
        clock: Clock,
        emit: Emit,
        rivals: Sequence[Sequence[float]] = (),
        checkpoints: Checkpoints | None = None,
        keep: bool = False,
        measures: bool = True,
    ) -> None:
        plugins = load_plugins(places.plugins)
        self.config, self.places, self.weights = config, places, weights
        self.task = TASKS[config.loss]
        self.rivals, self.checkpoints = rivals, checkpoints
        self.clock, self.emit = clock, emit
        self.device = torch.device(places.device)
        self.measures = measures
        measured = self.device if measures else torch.device("cpu")  # of which there is nothing to measure
        self.memory = PhaseMemory(measured, note=lambda text: emit("note", text=text))
        self.clock.energy = self.memory.joules
        self.method_config = make_config(config.method, config.method_settings())
        self.run: dict[str, Any] = {"plugins": plugins} if plugins else {}
        self.measurements: dict[str, Any] = {}
        self.probabilities: pd.DataFrame | None = None
        self.keep = keep and not config.trial
        self.built: Built | None = None  # fingerprints of the parts, where the model is to be kept
        self.kept: Kept | None = None
        self._predicted: list[Prediction | None] = []  # once it has been asked for

    def execute(self) -> None:
        """Does all of it. What goes wrong is raised; what was learnt stays in `run` and `measurements`."""
        dataset, parts, splits, preprocessing = self.prepare()
        recipe = METHODS[self.config.method].recipe(
            parts.model, self.method_config, self.config.num_steps(splits["train"].epoch_images)
        )
        bench = Bench(
            self.config, parts.model, parts.extractor, recipe, preprocessing, dataset.classes, self.device, self.clock,
            self.memory, self.emit, dataset.ordered,
        )  # fmt: skip
        if not self.config.trial:
            self._predict_memory(len(dataset.classes))
        self._train_and_test(bench, splits, dataset)

    def prepare(self) -> tuple[Dataset, Parts, dict[str, Split], Preprocessing]:
        """Opens images, builds the method and preloads features: all that comes before training.

        Returns:
            The dataset; the method's parts, without an extractor whose work is done; the splits, and what prepares
            their batches.
        """
        config = self.config
        seed_generators(config.seed)
        forbid_tf32()
        with self.clock("images"), drawing_nothing():
            dataset = open_dataset(
                self.places.dataset, self.places.data_root, self.places.cache, self.places.verify_data
            )
            self._check_digest(dataset)
            training_set = self._training_set(dataset)
            if config.normalization is not None:
                mean, std = config.normalization
                dataset = replace(dataset, mean=mean, std=std, normalization_source="backbone")  # type: ignore[arg-type]
            views = self._views()
            self._describe(dataset, views, training_set)
            stores = self._open_stores(dataset, views)
        preprocessing = Preprocessing(dataset.mean, dataset.std, self.device)
        with self.clock("setup"), self.memory.phase("setup"):
            parts = self._build(self.task.num_outputs(len(dataset.classes)), views[IMAGE])
        if self.keep:
            with self.clock("keep"):
                self.built = as_built(parts)
        extractor: Any = parts.extractor
        if extractor is not None:
            cast_frozen(extractor, config.precision, parts.model.parameters())
            if not config.preload:
                with self.clock("setup"), self.memory.phase("setup"):
                    extractor.to(self.device)
        untrained = METHODS[config.method].gradient_free
        plain = extractor is not None and (config.preload or untrained or not extractor.augment_live)
        fixed = frozenset({IMAGE}) if plain else frozenset()
        self.run["input"]["augmented"] = sorted(views.keys() - fixed)
        splits = {
            name: Split(
                dataset.targets(name, config.uncertain if name == "train" else "ignore"),
                stores[name],
                fixed_views=fixed,
            )
            for name in SPLITS
        }
        if config.preload and parts.extractor is not None:
            preloading = Preloading(
                config, self.method_config, dataset, preprocessing, self.device, self.emit,
                self._images_at_once(len(dataset.classes)),
            )  # fmt: skip
            with self.clock("preload"), drawing_nothing():
                splits, measured = preloading.run(parts.extractor, splits, self.places.cache / "features", self.memory)
            self.measurements |= measured
            if self.places.gpu_memory is not None:
                self._tell_extraction(measured["preload"])
            parts = Parts(parts.model.to(self.device), None)  # what both share left the device with the extractor
        if training_set is not None:  # features are those of all images, so that runs on any number share a cache
            splits["train"] = splits["train"].only(training_set.rows, config.keep_steps)
        return dataset, parts, splits, preprocessing

    def _check_digest(self, dataset: Dataset) -> None:
        if dataset.digest != self.config.dataset_digest:
            raise MachineError(f"dataset {dataset.name} has changed since this suite started; start it again")

    def _training_set(self, dataset: Dataset) -> TrainingSet | None:
        found = choose_training_set(dataset, self.config)
        if (found and found.digest) != self.config.training_set:
            raise MachineError(
                f"groups of dataset {dataset.name} have changed since this suite started; start it again"
            )
        return found

    def _views(self) -> Views:
        effective = effective_resolution(self.config.resolution, described(self.config.backbone).stride)
        return METHODS[self.config.method].views(self.method_config, effective)

    def _describe(self, dataset: Dataset, views: Views, training_set: TrainingSet | None) -> None:
        config, method = self.config, METHODS[self.config.method]
        self.run |= {
            "input": {
                "resolution": config.resolution,
                "effective_resolution": views[IMAGE],
                "views": views,
            },
            "backbone": _about(described(config.backbone)),
            "method": {"name": method.name, "title": method.title, "config": asdict(self.method_config)},
            "dataset": {
                "name": dataset.name,
                "title": dataset.title,
                "synthetic": dataset.synthetic,
                "digest": dataset.digest,
                "classes": list(dataset.classes),
                "ordered": dataset.ordered,
                **({"findings": dataset.findings.about()} if dataset.findings else {}),
                "counts": dataset.counts(),
                "trained_on": training_set.as_json() if training_set else None,
                "bit_depth": dataset.bit_depth,
                "scale": None if dataset.scale is None else dataset.scale._asdict(),
                "leaks": dataset.identical.num_leaking,
                "split": dataset.split_origin.as_json() if dataset.split_origin else None,
                "metric": dataset.metric,
                "normalization": {
                    "mean": list(dataset.mean),
                    "std": list(dataset.std),
                    "source": dataset.normalization_source,
                },
            },
        }
        outputs = self.task.num_outputs(len(dataset.classes))
        counts = count_parameters(config.method, self.method_config, config.backbone, outputs)
        self.measurements["parameters"] = dict(counts)

    def _open_stores(self, dataset: Dataset, views: Views) -> dict[str, dict[str, Any]]:
        def progress(done: int, total: int) -> None:
            self.emit("stage", stage="images", done=done, total=total)

        def wait() -> None:
            self.emit("note", text="another process resizes the same images: waiting for it")

        sides = set(views.values())
        stores = {
            split: open_image_stores(dataset, split, sides, self.places.cache, progress, wait) for split in SPLITS
        }
        return {split: {name: stores[split][side] for name, side in views.items()} for split in SPLITS}

    def _build(self, num_outputs: int, resolution: int) -> Parts:
        config = self.config
        parts = build_parts(
            config.method, self.method_config, config.backbone, num_outputs, resolution, config.attention,
            config.grad_checkpointing or config.recompute == "cheap", load_weights(self.weights),
        )  # fmt: skip
        save_weights(parts, config)
        return Parts(parts.model.to(self.device), parts.extractor)

    def _train_and_test(self, bench: Bench, splits: dict[str, Split], dataset: Dataset) -> None:
        if METHODS[self.config.method].gradient_free:
            trained = prepare_alone(bench, splits["train"], splits["val"])
        else:
            trained = train(bench, splits["train"], splits["val"], self.rivals, self.checkpoints)
            selection = {"metric": "val auc", "best_epoch": trained.best_epoch, "stopped_after": trained.stopped_after}
            self.run |= {"selection": selection, "resumed_after": trained.resumed_after}
            self.measurements["history"] = trained.history
        assert trained.logits is not None
        self.measurements["val"] = trained.validation
        if self.config.trial:
            return  # the test split is for the chosen rate alone
        if self.built is not None:
            with self.clock("keep"):
                self.kept = kept_of(bench.model, self.built)
        if bench.recipe.before_inference is not None and self.config.quantize == "none":
            bench.model = bench.recipe.before_inference(copy.deepcopy(bench.model))
        metrics, logits = evaluate(bench, splits["test"], "test")
        self.measurements["test"] = metrics
        frames = (("val", trained.logits), ("test", logits))
        self.probabilities = pd.concat(
            [image_probabilities(dataset, split, values, self.task) for split, values in frames]
        )
        seconds = self.clock.seconds
        num_trained = self.config.num_steps(splits["train"].epoch_images) * self.config.batch_size
        evaluated = len(splits["val"]) * (self.config.epochs or 1) + len(splits["test"])
        self.measurements["images_per_second"] = {
            "train": num_trained / seconds["train"] if "train" in seconds else None,
            "eval": evaluated / (seconds["validate"] + seconds["test"]),
            "preload": self.measurements.get("preload", {}).get("images_per_second"),
        }

    def _predict_memory(self, num_classes: int) -> None:
        """Adds what a GPU would need, where there is none to measure it on."""
        if self.config.compile != "none":
            self.emit("note", text="memory of compiled steps is not predicted")
        elif self.device.type != "cuda" and (prediction := self._prediction(num_classes)) is not None:
            self.measurements["predicted_memory"] = prediction.as_record()

    def _images_at_once(self, num_classes: int) -> int:
        """How many images are preloaded at once: as predicted, or one, of which nothing needs less memory.

        Raises:
            UserError: Not even one can be, within the memory that is given.
        """
        from benchmarks.memory.needs import GIB, needed_bytes

        prediction = self._prediction(num_classes)
        if prediction is None:
            self.emit("note", text="features are extracted one image at a time, since memory is not predicted")
            return 1
        at_once, given = prediction.images_at_once or 1, self.places.gpu_memory
        if given is not None:
            needed = needed_bytes(prediction.phases["preload"].allocated)
            if needed > given:
                least = math.ceil(100 * needed / GIB) / 100
                raise UserError(
                    f"gpu-memory must be at least {least:.2f}GB for {self.config.method} at "
                    f"{self.config.resolution} px, where extracting one image at a time takes that with a margin and "
                    f"CUDA's context, got {given / GIB:g}GB; give more, or choose a smaller --res or --precision bf16"
                )
            self.emit(
                "note",
                text=f"features are extracted {at_once} images at a time, which need {needed / GIB:.2f} of "
                f"{given / GIB:g} GB (predicted, with a margin and CUDA's context)",
            )
        return at_once

    def _point(self, num_classes: int) -> "MemoryPoint":
        from benchmarks.memory.prediction_cache import point_of_run

        return point_of_run(self.config, num_classes, self.places.gpu_memory)

    def _tell_extraction(self, preload: dict[str, Any]) -> None:
        """Records the memory that was given, and says what extracting within it took."""
        preload["gpu_memory_bytes"] = self.places.gpu_memory
        when = "in an earlier run" if preload["reused"] else "now"
        speed = f"{preload['images_per_second']:.1f} images/s, {preload['batch_size']} at a time"
        self.emit("note", text=f"features were extracted {when}: {speed}")

    def _prediction(self, num_classes: int) -> "Prediction | None":
        """What a GPU would need, made or read once; no training ends for want of it."""
        if not self._predicted:
            self._predicted.append(self._new_prediction(num_classes))
        return self._predicted[0]

    def _new_prediction(self, num_classes: int) -> "Prediction | None":
        from benchmarks.memory.predict import PredictionError
        from benchmarks.memory.prediction_cache import predict_point

        with self.clock("predict"), drawing_nothing():
            try:
                return predict_point(self._point(num_classes), self.places.cache)
            except PredictionError as error:
                self.emit("note", text=str(error))
            except Exception as error:  # a full disk, a damaged file, a fault of ours: none of it is the method's
                self.emit("note", text=f"memory is not predicted: {type(error).__name__}: {one_line(error)}")
        return None

    def finish(self) -> None:
        """Adds what is known however the run ended: memory so far."""
        self.measurements["memory"] = self.memory.record()
        if self.clock.joules:
            self.measurements["joules"] = self.clock.joules
        self.measurements["host_peak_bytes"] = host_peak_bytes() if self.measures else None


def seed_generators(seed: int) -> None:
    """Has every generator of a process start as in a fresh one: NumPy's and Python's serve methods of plugins."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def drawing_nothing() -> AbstractContextManager[None]:
    """What is done inside draws nothing from torch's generator, so that it may be known from an earlier run as well."""
    return torch.random.fork_rng(devices=[])


def _about(backbone: Backbone) -> dict[str, Any]:
    """What a record says of the backbone beside its name."""
    return {
        "family": backbone.family,
        "pool": backbone.pool,
        "patch_size": getattr(backbone, "patch_size", None),
        "stride": backbone.stride,
        "num_features": backbone.num_features,
    }
