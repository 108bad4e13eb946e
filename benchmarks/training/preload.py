"""The preload phase of a run: the frozen part over all images, once, into the feature cache."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.config import RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.data.batches import Split, iterate
from benchmarks.data.dataset import Dataset
from benchmarks.environment import code_digest, method_files
from benchmarks.features.cache import FeatureCache, FeatureRequest, FeatureRows, open_feature_cache
from benchmarks.images.decode import PIXEL_FORMAT, decoding_side
from benchmarks.model.build import feature_shapes
from benchmarks.plugins import digests_of
from benchmarks.training.bench import Emit
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.step import extraction_step
from methods import METHODS
from methods.contract import IMAGE

# What features depend on of our code, beside the extractor's own: how an image is read, resized, put into a batch and
# normalised, the backbone, and the step that extracts. An edit of the training loop costs nobody's features, and the
# cache's files have a version of their own.
EXTRACTS = (
    *("benchmarks/images/", "benchmarks/model/", "benchmarks/training/step.py", "benchmarks/training/preload.py"),
    *(f"benchmarks/data/{name}.py" for name in ("augment", "batches", "image_store")),
)


@dataclass(frozen=True)
class Preloading:
    """What preloading needs to know of a run.

    Attributes:
        config: The run's settings.
        method_config: The method's Config.
        dataset: Whose images are extracted.
        preprocessing: Normalises them.
        device: Where the extractor runs.
        emit: Receives progress events.
    """

    config: RunConfig
    method_config: Any
    dataset: Dataset
    preprocessing: Preprocessing
    device: torch.device
    emit: Emit

    def run(
        self, extractor: nn.Module, splits: Mapping[str, Split], root: Path, memory: PhaseMemory
    ) -> tuple[dict[str, Split], dict[str, Any]]:
        """Replaces the extractor's view in each split by its features, from the cache or computed now.

        Args:
            extractor: The frozen part; it ends on the CPU, having left the device.
            splits: With the extractor's view.
            root: Folder of all feature caches.
            memory: Measures the phase `preload`; where the cache was there, it takes over what was measured then.

        Returns:
            The splits with features, and the measurements `cache_bytes` and `preload` of a record.

        Raises:
            MachineError: The cache is damaged, or the disk cannot hold it.
        """
        starts = dict(zip(splits, itertools.accumulate(map(len, splits.values()), initial=0), strict=False))
        with memory.phase("preload"):
            cache = open_feature_cache(
                root,
                self._request(extractor, splits, starts),
                lambda batches: self._compute(extractor, splits, starts, batches),
                on_wait=lambda: self.emit("note", text="another process computes the same features: waiting for it"),
                measured=memory.current_peaks,
            )
            extractor.to("cpu")
        if cache.state.memory is not None:
            memory.phases["preload"] = cache.state.memory  # of computing; opening a cache takes none
        featured = {
            name: Split(
                split.labels,
                {view: store for view, store in split.views.items() if view != IMAGE},
                FeatureRows(cache, starts[name]),
                split.fixed_views,
            )
            for name, split in splits.items()
        }
        return featured, _measurements(cache, sum(map(len, splits.values())))

    def _request(self, extractor: nn.Module, splits: Mapping[str, Split], starts: Mapping[str, int]) -> FeatureRequest:
        config, view = self.config, splits["train"].views[IMAGE]
        plugins = digests_of(config.method, config.backbone)
        key = {
            "backbone": config.backbone,
            "weights": config.weights_sha256 or f"random, seed {config.seed}",
            "dataset": self.dataset.digest,
            "resolution": view.shape[-1],
            "pixels": [PIXEL_FORMAT, decoding_side(store.shape[-1] for store in splits["train"].views.values())],
            "normalization": [list(self.dataset.mean), list(self.dataset.std)],
            "precision": config.precision,
            "attention": config.attention,
            "device_type": self.device.type,
            "extractor": extractor.identity,
            "code": code_digest((*EXTRACTS, *method_files(METHODS[config.method].extractor.__module__))),
        } | ({"plugins": plugins} if plugins else {})
        shapes, parts = feature_shapes(config.method, self.method_config, config.backbone, view.shape[-1])
        batches = [
            range(start, min(start + config.batch_size, starts[name] + len(split)))
            for name, split in splits.items()
            for start in range(starts[name], starts[name] + len(split), config.batch_size)
        ]
        return FeatureRequest(key, parts, shapes, batches, self.dataset.name)

    def _compute(
        self,
        extractor: nn.Module,
        splits: Mapping[str, Split],
        starts: Mapping[str, int],
        batches: Sequence[range],
    ) -> Iterator[dict[str, Tensor]]:
        extractor.to(self.device)
        total = sum(map(len, splits.values()))
        done = total - sum(map(len, batches))
        for name, split in splits.items():
            rows = range(starts[name], starts[name] + len(split))
            order = [np.arange(batch.start, batch.stop) - rows.start for batch in batches if batch.start in rows]
            images = Split(split.labels, {IMAGE: split.views[IMAGE]})
            for inputs, labels in iterate(images, order, self.preprocessing, self.device, augment=False):
                yield extraction_step(extractor, inputs.pop(IMAGE), self.config.precision, self.device.type)
                done += len(labels)
                self.emit("stage", stage="preload", done=done, total=total)


def _measurements(cache: FeatureCache, num_images: int) -> dict[str, Any]:
    return {
        "cache_bytes": cache.num_bytes,
        "preload": {
            "cache": cache.name,
            "seconds": cache.state.seconds,
            "images_per_second": num_images / cache.state.seconds,
            "bytes_per_image": cache.num_bytes / num_images,
            "batch_size": cache.state.batch_size,
            "reused": cache.reused,
        },
    }
