"""Content hashes of a dataset's files, kept: a file that the system says nobody has touched is not read again.

What the system says is its size, the times of its content and of its entry, and its inode: a copy that keeps size and
time of modification, as of `cp -p` and rsync, differs in the others. Who trusts none of it has all files hashed again.
"""

import hashlib
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.images.decode import num_workers
from benchmarks.names import shortened
from benchmarks.storage.files import file_sha256, read_cached, write_cached
from benchmarks.storage.notes import say

SHOWN = 5  # paths in a note

Entry = list[Any]  # size, time of modification, time of change, inode, SHA-256


class Difference(NamedTuple):
    """A file that is not what was known of it.

    Attributes:
        path: Relative to the dataset's root.
        what: How it differs.
        unseen: Whether its size and time of modification are the same, so that a list of files does not show it.
    """

    path: str
    what: str
    unseen: bool


def content_hashes(root: Path, paths: Collection[str], cache_root: Path, again: bool = False) -> dict[str, str]:
    """SHA-256 of each file, by its path.

    Args:
        root: The dataset's folder.
        paths: Of the files, relative to it.
        cache_root: The hashes are kept in its folder `hashes`.
        again: Whether to hash every file, whatever is known of it; a note says what differs from that.
    """
    cache = _cache(root, cache_root)
    known = read_cached(cache)
    entries = _entries(root, paths, {} if again else known)
    different = _differences(known, entries) if again else []
    if different:
        first = "; ".join(f"{path} {what}" for path, what, _ in different[:SHOWN])
        more = f"; and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        say(f"{len(different)} of the files of {root.name} differ from what was known of them: {first}{more}")
    if entries != known:
        write_cached(cache, entries)
    return {path: str(entry[-1]) for path, entry in entries.items()}


def differences(root: Path, paths: Collection[str], cache_root: Path) -> tuple[list[Difference], int]:
    """Hashes every file again, and changes nothing.

    Args:
        root, paths, cache_root: As of `content_hashes`.

    Returns:
        The files that differ from what is known of them, by path, and of how many something is known.
    """
    known = read_cached(_cache(root, cache_root))
    return _differences(known, _entries(root, paths, {})), len(known)


def path_key(root: Path) -> str:
    """Tells a folder from others of its name."""
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]


def _cache(root: Path, cache_root: Path) -> Path:
    return cache_root / "hashes" / f"{shortened(root.resolve().name)}-{path_key(root)}"


def _entries(root: Path, paths: Collection[str], known: Mapping[str, Entry]) -> dict[str, Entry]:
    """What is known of each file, where the system says that this still holds; else what is read now."""

    def entry(path: str) -> Entry:
        status = (root / path).stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        old = known.get(path)
        return old if old is not None and old[:-1] == state else [*state, file_sha256(root / path)]

    with ThreadPoolExecutor(num_workers()) as pool:
        return dict(zip(paths, pool.map(entry, paths), strict=True))


def _differences(known: Mapping[str, Entry], entries: Mapping[str, Entry]) -> list[Difference]:
    found = [Difference(path, "was hashed before and is gone", False) for path in known.keys() - entries.keys()]
    for path in known.keys() & entries.keys():
        old, new = known[path], entries[path]
        if old[-1] != new[-1]:
            unseen = old[:2] == new[:2]
            same = ", though with the same size and time of modification" if unseen else ""
            found.append(Difference(path, f"has another content than when it was last hashed{same}", unseen))
    return sorted(found)
