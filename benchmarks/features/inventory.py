"""What feature caches there are, what uses them, and their removal."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import UserError
from benchmarks.features.cache_files import DESCRIPTION, CacheFiles
from benchmarks.storage.locks import held_lock


@dataclass(frozen=True)
class StoredCache:
    """A feature cache on disk.

    Attributes:
        folder: Where it lies.
        state: `complete`, `12 of 40 images`, or what is wrong with it.
        num_bytes: Its size.
        age_days: Since it last changed.
        about: dataset, backbone, resolution, layers, storage type and code, as far as they can be read.
        used_by: Stored runs that trained on it.
    """

    folder: Path
    state: str
    num_bytes: int
    age_days: float
    about: dict[str, Any]
    used_by: list[str]


def stored_caches(root: Path, users: Mapping[str, Sequence[str]]) -> list[StoredCache]:
    """Every feature cache under `root`, and which runs used it.

    Args:
        root: Their folder.
        users: Runs by name of the cache that they trained on.
    """
    folders = [path for path in sorted(root.glob("[!.]*")) if path.is_dir()]
    return [_describe(folder, list(users.get(folder.name, ()))) for folder in folders]


def _describe(folder: Path, used_by: list[str]) -> StoredCache:
    files = [path.stat() for path in folder.iterdir() if path.is_file()]
    changed = max((file.st_mtime for file in files), default=folder.stat().st_mtime)
    about: dict[str, Any] = {}
    state = "not begun"
    if (folder / DESCRIPTION).exists():
        try:
            state, about = _read(CacheFiles(folder))
        except UserError as error:
            state = str(error).partition(" is ")[2].partition(";")[0]
    num_bytes = sum(file.st_size for file in files)
    return StoredCache(folder, state, num_bytes, max(0.0, time.time() - changed) / 86400, about, used_by)


def _read(cache: CacheFiles) -> tuple[str, dict[str, Any]]:
    stored = cache.description
    done = int(cache.finished().sum())
    state = "complete" if cache.state().complete else f"{done} of {stored.num_samples} images"
    extractor = stored.key.get("extractor", {})
    about = {
        "dataset": stored.label,
        "images": stored.num_samples,
        "backbone": stored.key.get("backbone"),
        "res": stored.key.get("resolution"),
        "layers": len(stored.parts),
        "keep_ratio": extractor.get("keep_ratio"),
        "storage": extractor.get("storage") or next(iter(stored.features.values()))[1],
        "precision": stored.key.get("precision"),
        "quantize": stored.key.get("quantize", "none"),
        "code": (stored.key.get("code") or "")[:8],
    }
    return state, about


def remove_caches(root: Path, caches: Iterable[StoredCache]) -> tuple[list[StoredCache], list[StoredCache]]:
    """Removes caches, but for those that a process is computing right now.

    A run that reads a removed cache keeps what it has open.

    Returns:
        The caches that were removed, and those that were left.
    """
    removed, left = [], []
    for cache in caches:
        try:
            with held_lock(root / ".leases" / cache.folder.name.partition("-")[0], _busy):
                shutil.rmtree(cache.folder)
            removed.append(cache)
        except BlockingIOError:
            left.append(cache)
    return removed, left


def _busy() -> None:
    raise BlockingIOError("cache is being computed")
