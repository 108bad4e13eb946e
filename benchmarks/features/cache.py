"""The feature cache: frozen features of a dataset, computed once, memory-mapped and checked ever after.

A cache belongs to one key: backbone and weights, images and splits, resolution, normalisation, precision, attention,
device, the code that computes features, and whatever the extractor says they depend on. Any difference is another
cache. A cache that holds more parts than asked for (FPT's twelve blocks for FPT+'s last six) serves as well.
"""

import hashlib
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.errors import MachineError, UserError
from benchmarks.features.cache_files import DESCRIPTION, STATE, CacheFiles, Description, FeatureShapes, damaged
from benchmarks.storage.locks import held_lock

WHOLE = (0,)  # the parts of features that have no such axis
BLOCK_BYTES = 2**18  # of small samples that are copied at once: little enough for a core's cache
ForEach = Callable[[Callable[[Any], None], Iterable[Any]], Iterator[None]]
Compute = Callable[[Sequence[range]], Iterator[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class FeatureRequest:
    """The features that a method asks for.

    Attributes:
        key: All that they depend on but for the parts; JSON values.
        parts: What their first axis behind the sample's runs over; None without such an axis.
        features: A sample's shape and NumPy type by feature name.
        batches: Ranges of sample indices, in order: what is stored at once.
        label: Name of the dataset, for people; no part of the key.
        images_at_once: That the extractor gets, for people; None for whole batches.
    """

    key: Mapping[str, Any]
    parts: tuple[int, ...] | None
    features: FeatureShapes
    batches: Sequence[range]
    label: str = ""
    images_at_once: int | None = None

    def describe(self) -> Description:
        """The cache that would hold just these."""
        stored = {name: (shape if self.parts else (1, *shape), dtype) for name, (shape, dtype) in self.features.items()}
        key = json.loads(json.dumps(self.key))
        return Description(key, list(self.parts or WHOLE), self.batches[-1].stop, stored, self.label)


class FeatureCache:
    """A complete cache, opened for some of its parts.

    Args:
        files: The cache on disk.
        request: What is read of it.
        reused: Whether it was there already.

    Attributes:
        name: Name of its folder.
        sample_bytes: Bytes of a sample, of what was asked for.
        num_bytes: The same of all samples, on disk.
        state: At what cost it was made.
    """

    def __init__(self, files: CacheFiles, request: FeatureRequest, reused: bool) -> None:
        self.name, self.reused, self.state = files.folder.name, reused, files.state()
        self._files, self._request = files, request
        stored = files.description
        self._positions = [stored.parts.index(part) for part in request.parts or WHOLE]
        first = self._positions[0]
        consecutive = self._positions == list(range(first, first + len(self._positions)))
        self._chosen: Any = slice(first, first + len(self._positions)) if consecutive else self._positions
        self._checked = np.zeros(stored.num_samples, bool)
        self._buffers = Buffers()
        self.sample_bytes = stored.row_bytes(len(self._positions))
        self.num_bytes = stored.num_samples * self.sample_bytes

    def read(self, indices: NDArray[np.int64], pin: bool, for_each: ForEach) -> dict[str, Tensor]:
        """The features of some samples, `(B, ...)` by name; a row is checked when it is read for the first time.

        Args:
            indices: Of the samples.
            pin: Whether the tensors lie in pinned memory, from which copies to a GPU need no waiting.
            for_each: As `map`, or that of threads, which then read.

        Raises:
            MachineError: A row is damaged.
        """
        batch = {
            name: self._empty((len(indices), len(self._positions), *array.shape[2:]), array.dtype, pin)
            for name, array in self._files.arrays.items()
        }
        rows = {name: tensor.numpy() for name, tensor in batch.items()}

        def read_block(places: NDArray[np.int64]) -> None:
            at: Any = places[0] if len(places) == 1 else places  # one alone is copied straight to its place
            for name, array in self._files.arrays.items():
                rows[name][at] = array[indices[at], self._chosen]
            for place in places[~self._checked[indices[places]]]:
                self._files.check_row(indices[place], {name: row[place] for name, row in rows.items()}, self._positions)
                self._checked[indices[place]] = True

        in_file_order = np.argsort(indices)
        size = max(1, BLOCK_BYTES // self.sample_bytes) if isinstance(self._chosen, slice) else 1
        list(for_each(read_block, (in_file_order[start : start + size] for start in range(0, len(indices), size))))
        return batch if self._request.parts else {name: tensor[:, 0] for name, tensor in batch.items()}

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], pin: bool) -> Tensor:
        if pin:  # torch uses pinned memory again by itself
            return torch.empty(shape, dtype=getattr(torch, dtype.name), pin_memory=True)
        return self._buffers.take(shape, dtype)


class Buffers:
    """Memory of batches on the host, used again once no tensor lies in it.

    The system hands out memory zeroed and page by page, which takes longer than filling it with features.
    """

    def __init__(self) -> None:
        self._arrays: list[tuple[NDArray[Any], weakref.ref[Any]]] = []  # and what lives as long as a tensor in it
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """A tensor of any content."""
        with self._lock:
            place, array = self._find(shape, dtype)
            used = array[: shape[0]]
            self._arrays[place] = (array, weakref.ref(used))
        return torch.from_numpy(used)

    def _find(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, NDArray[Any]]:
        for place, (array, user) in enumerate(self._arrays):
            if user() is None and array.dtype == dtype and array.shape[1:] == shape[1:] and len(array) >= shape[0]:
                return place, array
        made = torch.empty(shape, dtype=getattr(torch, dtype.name)).numpy()  # aligned, unlike numpy's own
        self._arrays.append((made, weakref.ref(made)))
        return len(self._arrays) - 1, made


@dataclass(frozen=True)
class FeatureRows:
    """The rows of a cache that belong to one split: its sample i is row `start + i`."""

    cache: FeatureCache
    start: int

    @property
    def sample_bytes(self) -> int:
        """As that of the cache."""
        return self.cache.sample_bytes

    def read(self, indices: NDArray[np.int64], pin: bool, for_each: ForEach) -> dict[str, Tensor]:
        """As `FeatureCache.read`, by the split's own indices."""
        return self.cache.read(indices + self.start, pin, for_each)


def open_feature_cache(
    root: Path,
    request: FeatureRequest,
    compute: Compute,
    on_wait: Callable[[], None],
    measured: Callable[[], dict[str, Any] | None] = lambda: None,
) -> FeatureCache:
    """Opens a cache that has what is asked for, computing what is missing first; one process at a time does.

    Args:
        root: Folder of all feature caches.
        request: What is asked for.
        compute: Yields the features of batches of samples, batch by batch.
        on_wait: Called when another process is at work on the same features, whose end is waited for.
        measured: The peak memory of computing so far, kept with the cache.

    Raises:
        MachineError: The cache found is damaged or has another key, or the disk cannot hold it.
        UserError: Features are not finite.
    """
    description = request.describe()
    base = digest(description.key)
    files = _find_unlocked(root, base, description)
    if files is not None:
        return FeatureCache(files, request, reused=True)
    with held_lock(root / ".leases" / base, on_wait):
        files = find_complete(root, base, description)
        reused = files is not None
        if files is None:
            files = _complete(root / f"{base}-{digest(description.parts, 6)}", request, compute, measured)
    return FeatureCache(files, request, reused)


def digest(value: Any, length: int = 16) -> str:
    """A short name of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def _find_unlocked(root: Path, base: str, description: Description) -> CacheFiles | None:
    """A complete cache, which needs no lock: a disk that is full or read-only may hold one."""
    try:
        return find_complete(root, base, description)
    except MachineError:  # damaged, or being removed: under the lock it is one or the other
        return None


def find_complete(root: Path, base: str, description: Description) -> CacheFiles | None:
    """A complete cache that holds the parts asked for, the smallest there is; None where there is none."""
    found = []
    for folder in sorted(root.glob(f"{base}-*")):
        if not ((folder / DESCRIPTION).exists() or (folder / STATE).exists()):
            continue  # killed while its files were made
        files = CacheFiles(folder)
        _check_key(files, description)
        if set(description.parts) <= set(files.description.parts) and files.state().complete:
            found.append(files)
    return min(found, key=lambda files: len(files.description.parts), default=None)


def _check_key(files: CacheFiles, wanted: Description) -> None:
    for name in {**wanted.key, **files.description.key}:
        if files.description.key.get(name) != wanted.key.get(name):
            raise damaged(files.folder, f"it has another {name} than its name says")
    if files.description.num_samples != wanted.num_samples:
        raise damaged(files.folder, f"it holds {files.description.num_samples} samples, not {wanted.num_samples}")


def _complete(
    folder: Path, request: FeatureRequest, compute: Compute, measured: Callable[[], dict[str, Any] | None]
) -> CacheFiles:
    """Computes the batches of a cache that are not there yet, and marks it complete."""
    if not (folder / DESCRIPTION).exists():
        CacheFiles.create(folder, request.describe())
    files = CacheFiles(folder)
    state, finished = files.state(), files.finished()
    missing = [batch for batch in request.batches if not finished[batch.start : batch.stop].all()]
    state.batch_size = request.images_at_once or max(map(len, request.batches))
    started, before = time.perf_counter(), state.seconds

    def store(batch: range, features: Mapping[str, NDArray[Any]]) -> None:
        _check_finite(features)
        files.write_rows(batch.start, features)
        state.seconds = before + time.perf_counter() - started
        files.write_state(state)

    try:
        with ThreadPoolExecutor(max_workers=1) as writer:
            pending: Future[None] | None = None
            for batch, features in zip(missing, compute(missing), strict=True):
                rows = {name: _row_array(feature, request.parts) for name, feature in features.items()}
                if pending is not None:
                    pending.result()
                pending = writer.submit(store, batch, rows)
            if pending is not None:
                pending.result()
        state.complete, state.memory = True, measured()
        files.write_state(state)
    except OSError as error:
        raise MachineError(
            f"features cannot be stored under {folder.parent}: {error.strerror or error}; make room (bench.py clean "
            "caches) and run again, which goes on where this stopped"
        ) from error
    return files


def _check_finite(features: Mapping[str, NDArray[Any]]) -> None:
    """A training on other numbers would seem to diverge."""
    for name, values in features.items():
        if not np.isfinite(values).all():
            found = values[~np.isfinite(values)].flat[0]
            raise UserError(
                f"features must be finite, got {found} in {name!r} ({values.dtype}); try --precision fp32 or, "
                "where the method has a type for its features, a wider one"
            )


def _row_array(feature: Tensor, parts: tuple[int, ...] | None) -> NDArray[Any]:
    return (feature if parts else feature.unsqueeze(1)).cpu().numpy()
