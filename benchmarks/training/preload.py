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
from benchmarks.training.frozen import weights_type
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.step import extraction_step
from methods import METHODS
from methods.contract import IMAGE

# What features depend on of our code, beside the extractor's own: how an image is read, resized, put into a batch and
# normalised, the backbone, and the step that extracts. An edit of the training loop costs nobody's features, and the
# cache's files have a version of their own.
EXTRACTS = (
    *("benchmarks/images/", "benchmarks/model/"),
    *(f"benchmarks/training/{name}.py" for name in ("frozen", "preload", "quantized", "step")),
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
        images_at_once: That the extractor gets. Memory and time depend on it; features do not, bit for bit on a CPU.
    """

    config: RunConfig
    method_config: Any
    dataset: Dataset
    preprocessing: Preprocessing
    device: torch.device
    emit: Emit
    images_at_once: int

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
        elif cache.reused:
            memory.phases.pop("preload", None)  # nobody knows it: a process that measures nothing has computed them
        featured = {
            name: Split(
                split.labels,
                {view: store for view, store in split.views.items() if view != IMAGE},
                FeatureRows(cache, starts[name]),
                split.fixed_views,
            )
            for name, split in splits.items()
        }
        weights = weights_type(self.config.precision, self.config.quantize)
        return featured, _measurements(cache, sum(map(len, splits.values())), weights)

    def _request(self, extractor: nn.Module, splits: Mapping[str, Split], starts: Mapping[str, int]) -> FeatureRequest:
        config, view = self.config, splits["train"].views[IMAGE]
        plugins, quantize = digests_of(config.method, config.backbone), config.quantize
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
        }
        key |= ({"plugins": plugins} if plugins else {}) | ({"quantize": quantize} if quantize != "none" else {})
        shapes, parts = feature_shapes(config.method, self.method_config, config.backbone, view.shape[-1])
        batches = [
            range(start, min(start + config.batch_size, starts[name] + len(split)))
            for name, split in splits.items()
            for start in range(starts[name], starts[name] + len(split), config.batch_size)
        ]
        return FeatureRequest(key, parts, shapes, batches, self.dataset.name, self.images_at_once)

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
            mine = [batch for batch in batches if batch.start in rows]
            stored = [range(batch.start - rows.start, batch.stop - rows.start) for batch in mine]
            extracted = self._extract(extractor, split, list(itertools.chain(*map(self._parts_of, stored))))
            for batch in stored:
                parts = list(itertools.islice(extracted, len(self._parts_of(batch))))
                yield {feature: torch.cat([part[feature] for part in parts]) for feature in parts[0]}
                done += len(batch)
                self.emit("stage", stage="preload", done=done, total=total)

    def _parts_of(self, batch: range) -> list[range]:
        """What is extracted at once of what is stored at once."""
        return [batch[start : start + self.images_at_once] for start in range(0, len(batch), self.images_at_once)]

    def _extract(self, extractor: nn.Module, split: Split, parts: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        """Features of some images at a time, on the host: the device holds no more of them than that."""
        images, order = Split(split.labels, {IMAGE: split.views[IMAGE]}), [np.array(part) for part in parts]
        for inputs, _ in iterate(images, order, self.preprocessing, self.device, augment=False):
            features = extraction_step(extractor, inputs.pop(IMAGE), self.config.precision, self.device.type)
            on_host = {name: feature.cpu() for name, feature in features.items()}
            del features
            yield on_host


def _measurements(cache: FeatureCache, num_images: int, weights: str) -> dict[str, Any]:
    return {
        "cache_bytes": cache.num_bytes,
        "preload": {
            "cache": cache.name,
            "seconds": cache.state.seconds,
            "images_per_second": num_images / cache.state.seconds,
            "bytes_per_image": cache.num_bytes / num_images,
            "batch_size": cache.state.batch_size,
            "weights_dtype": weights,
            "reused": cache.reused,
        },
    }
