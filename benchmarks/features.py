"""The feature cache: frozen features of a split, computed once, memory-mapped ever after.

A cache belongs to one key: backbone and weights, images, resolution, normalisation, precision, attention and whatever
the extractor says its features depend on. Rows are addressed by sample index. A cache is written under another name and
renamed when complete.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

KEY_FILE = "cache.json"


@dataclass(frozen=True)
class FeatureCache:
    """An opened cache.

    Attributes:
        features: Memory-mapped, read-only arrays `(n, ...)` by feature name.
        num_bytes: Size on disk.
        seconds: What computing it took, then or now.
        reused: Whether it was there already.
    """

    features: dict[str, NDArray[np.generic]]
    num_bytes: int
    seconds: float
    reused: bool


def open_feature_cache(
    root: Path, key: Mapping[str, Any], num_samples: int, compute: Callable[[], Iterable[dict[str, Tensor]]]
) -> FeatureCache:
    """Opens the cache of `key`, computing it first where there is none.

    Args:
        root: Folder of all feature caches.
        key: All that the features depend on; JSON values.
        num_samples: Number n of samples.
        compute: Yields the features of the samples in order, batch by batch.

    Raises:
        RuntimeError: The cache found has another key or is damaged, or the disk cannot hold it.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    folder = root / digest
    reused = folder.is_dir()
    if not reused:
        _write(folder, key, num_samples, compute())
    return _open(folder, key, num_samples, reused)


def _open(folder: Path, key: Mapping[str, Any], num_samples: int, reused: bool) -> FeatureCache:
    try:
        stored = json.loads((folder / KEY_FILE).read_text())
        stored_key, seconds = dict(stored["key"]), float(stored["seconds"])
        features = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in stored["features"]}
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise RuntimeError(f"feature cache {folder} is damaged ({error}); delete that folder and run again") from error
    for name in key:
        if stored_key.get(name) != json.loads(json.dumps(key[name])):
            raise RuntimeError(f"feature cache {folder} has another {name}; delete that folder and run again")
    for name, array in features.items():
        if len(array) != num_samples:
            raise RuntimeError(
                f"feature cache {folder} holds {len(array)} {name}, not {num_samples}; delete that folder and run again"
            )
    num_bytes = sum(array.nbytes for array in features.values())
    return FeatureCache(features, num_bytes, seconds, reused)


def _write(folder: Path, key: Mapping[str, Any], num_samples: int, batches: Iterable[dict[str, Tensor]]) -> None:
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    started = time.perf_counter()
    arrays: dict[str, np.memmap[Any, Any]] = {}
    try:
        done = 0
        for batch in batches:
            rows = {name: feature.cpu().numpy() for name, feature in batch.items()}
            if not arrays:
                arrays = _create(partial, rows, num_samples)
            for name, values in rows.items():
                arrays[name][done : done + len(values)] = values
            done += len(next(iter(rows.values())))
        if done != num_samples:
            raise RuntimeError(f"features must be those of {num_samples} samples, got {done}")
        for array in arrays.values():
            array.flush()
        arrays_of = {"key": key, "features": sorted(arrays), "seconds": time.perf_counter() - started}
        (partial / KEY_FILE).write_text(json.dumps(arrays_of, indent=1))
        if not folder.exists():  # another process may have finished the same cache meanwhile
            partial.rename(folder)
    except OSError as error:
        raise RuntimeError(f"features cannot be stored under {folder.parent}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _create(folder: Path, rows: Mapping[str, NDArray[Any]], num_samples: int) -> dict[str, "np.memmap[Any, Any]"]:
    """Files for all samples, of the type of the first ones; they take no room yet, so all of it is asked for here."""
    needed = sum(num_samples * values[0].nbytes for values in rows.values())
    free = shutil.disk_usage(folder).free
    if needed > free:  # writing a memory map onto a full disk kills the process
        raise RuntimeError(
            f"features need {needed / 2**30:.1f} GiB under {folder.parent}, where {free / 2**30:.1f} GiB are free; "
            "make room, choose another --cache, or use --preload off"
        )
    return {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=values.dtype, shape=(num_samples, *values.shape[1:])
        )
        for name, values in rows.items()
    }
