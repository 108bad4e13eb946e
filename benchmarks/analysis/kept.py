"""What was made of files of predictions before: kept by their content, many in a file.

It lies in `<results>/.statistics`, sixteen files for each kind of what is made, as opening ten thousand takes seconds;
the folder may be deleted at any time.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load, save

from benchmarks.errors import UserError
from benchmarks.records.record import predictions_path
from benchmarks.storage.files import read_disposable, read_regular, write_disposable

FOLDER = ".statistics"
_DIGITS = 32  # of the hex digest of a file
_SECONDS = 20.0  # of making, after which what was made is written, lest it be lost with a process that is killed

Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")


def not_theirs(path: Path, error: ValueError) -> str:
    """What is said of a file of predictions that cannot be read, or is none of its record, in one line."""
    reason = " ".join(str(error).split())
    return f"predictions must be those of their record, got {str(path)!r} ({reason}): run it again"


class _Place(NamedTuple):
    """Where a file's arrays lie: in which stacks, and in which row of these."""

    stacks: Arrays
    row: int


class Kept:
    """What is made of files of predictions, one kind of it; a context, which writes what is new when it ends.

    Args:
        folder: Where it is kept.
        layout: What is made, and in which layout.
        make: Makes it from a file's content, as arrays.
    """

    def __init__(self, folder: Path, layout: str, make: Callable[[bytes], Arrays]) -> None:
        self._folder, self._layout, self._make = folder, layout, make
        self._shards: dict[str, dict[str, _Place]] = {}
        self._new: dict[str, Arrays] = {}
        self._written = time.monotonic()

    def of(self, predictions: Path, digest: str | None) -> Arrays:
        """What is made of a file, from what was kept where its content was there before.

        Args:
            predictions: The file.
            digest: Hex SHA-256 of its content, where that was found when its record was read.

        Raises:
            FileNotFoundError: There is no such file.
            UserError: Its content is not what it was.
        """
        digest = digest or _sha256(read_regular(predictions))
        name = digest[:_DIGITS]
        shard = name[0]
        if shard not in self._shards:
            self._shards[shard] = self._read(shard)
        place = self._shards[shard].get(name)
        if place is not None:
            return {key: stack[place.row] for key, stack in place.stacks.items()}
        if name in self._new:
            return self._new[name]
        data = read_regular(predictions)
        if _sha256(data) != digest:
            raise UserError("they have changed since their record was read")
        made = self._new[name] = self._make(data)
        if time.monotonic() - self._written > _SECONDS:
            self._write()
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._write()

    def _write(self) -> None:
        for shard in {name[0] for name in self._new}:
            places = self._read(shard)  # again, as another process may have written it
            kept: dict[str, Arrays] = {
                name: {key: stack[row] for key, stack in stacks.items()} for name, (stacks, row) in places.items()
            }
            kept |= {name: arrays for name, arrays in self._new.items() if name[0] == shard}
            packed = _packed(kept)
            write_disposable(self._path(shard), packed, "results")
            self._shards[shard] = _unpacked(packed)
        self._new = {}
        self._written = time.monotonic()

    def _read(self, shard: str) -> dict[str, _Place]:
        data = read_disposable(self._path(shard))
        return {} if data is None else _unpacked(data)

    def _path(self, shard: str) -> Path:
        return self._folder / f"{self._layout}-{shard}"


def load_kept(
    kept: Kept,
    results: Path,
    runs: pd.DataFrame,
    unpack: Callable[[str, Arrays], T],
    said: Callable[[str, Path, ValueError], str] = lambda run_id, path, error: not_theirs(path, error),
) -> tuple[dict[str, T], list[str]]:
    """What is made of the predictions of runs by id, and a line for each file that cannot be read or is none of theirs.

    A run without a file is left out.

    Args:
        kept: Makes it, or has it from before.
        results: The root under which the files lie.
        runs: As `records.runs_frame` gives them.
        unpack: What it is, from the run's id and the arrays; raises ValueError where they belie the record.
        said: The line, from the run's id, the file, and what is wrong with it.
    """
    found: dict[str, T] = {}
    problems = []
    with kept:
        for run_id, digest in runs[["run_id", "predictions_sha256"]].drop_duplicates("run_id").to_numpy():
            path = predictions_path(results, run_id)
            try:
                found[run_id] = unpack(run_id, kept.of(path, None if pd.isna(digest) else digest))
            except FileNotFoundError:
                continue
            except ValueError as error:
                problems.append(said(run_id, path, error))
    return found, problems


def _packed(kept: Mapping[str, Arrays]) -> bytes:
    """Stacks of the arrays of all files whose arrays are alike in name, type and shape, and the files' digests."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, arrays in kept.items():
        alike.setdefault(tuple((key, array.dtype, array.shape) for key, array in arrays.items()), []).append(name)
    stacks = {}
    for number, names in enumerate(alike.values()):
        stacks[f"{number}."] = np.array([list(bytes.fromhex(name)) for name in names], np.uint8)
        for key in kept[names[0]]:
            stacks[f"{number}.{key}"] = np.stack([kept[name][key] for name in names])
    return bytes(save(stacks))


def _unpacked(data: bytes) -> dict[str, _Place]:
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    for name, stack in load(data).items():
        number, _, key = name.partition(".")
        groups.setdefault(number, {})[key] = stack
    places = {}
    for stacks in groups.values():
        for row, digest in enumerate(stacks.pop("")):
            places[digest.tobytes().hex()] = _Place(stacks, row)
    return places


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
