"""The files of one feature cache: arrays of rows, a checksum of each, what the cache is for and how far it has come.

A row belongs to a sample and is addressed by its index; its parts (see `methods.contract.Extractor`) are checked apart,
so that a method which needs some of them reads no more than those. A row counts once its checksums are written, which
comes after its features: whatever a kill leaves behind is either finished or missing.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter

from benchmarks.errors import MachineError, UserError
from benchmarks.storage.files import parse_as, read_sealed, seal, write_atomic

DESCRIPTION, STATE, MARKS = "cache.json", "state.json", "rows.bin"
Schema = Literal[2]
SCHEMA: int = get_args(Schema)[0]
DONE = 1 << 32  # set in the mark of a finished part; the lower 32 bits are its checksum

Rows = Mapping[str, NDArray[Any]]
FeatureShapes = Mapping[str, tuple[tuple[int, ...], str]]  # by name: a sample's shape, the first axis over parts; type


@dataclass(frozen=True)
class Description:
    """What a cache is for.

    Attributes:
        key: All that the features depend on, but for the parts.
        parts: What the first axis of a row runs over.
        num_samples: Number n of rows.
        features: Shape of a row and NumPy type of each feature.
        label: Name of the dataset, for people.
    """

    key: dict[str, Any]
    parts: list[int]
    num_samples: int
    features: dict[str, tuple[tuple[int, ...], str]]
    label: str

    def row_bytes(self, num_parts: int | None = None) -> int:
        """Bytes of a row, or of some of its parts."""
        whole = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self.features.values())
        return whole if num_parts is None else whole // len(self.parts) * num_parts


@dataclass(frozen=True, kw_only=True)
class StoredDescription(Description):
    """The file of a description."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    schema: Schema


@dataclass
class State:
    """How far a cache has come, and at what cost.

    Attributes:
        complete: Whether every row is there.
        seconds: What computing the rows took, over all processes that did.
        memory: Peak memory of the preload phase as records hold it; None where it was not measured.
        batch_size: Images extracted at once.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    complete: bool = False
    seconds: float = 0.0
    memory: dict[str, Any] | None = None
    batch_size: int | None = None


_DESCRIPTION, _STATE = TypeAdapter(StoredDescription), TypeAdapter(State)


class CacheFiles:
    """A cache on disk.

    Args:
        folder: Made by `create`.

    Raises:
        MachineError: A file is missing, damaged or of the wrong size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.description: Description = parse_as(_DESCRIPTION, read_sealed(folder / DESCRIPTION), "description")
            features = self.description.features.items()
            self.arrays = {name: self._open(f"{name}.bin", dtype, shape) for name, (shape, dtype) in features}
            self.marks: NDArray[np.uint64] = self._open(MARKS, "uint64", (len(self.description.parts),))
        except (OSError, ValueError, TypeError, OverflowError) as error:  # of a shape or type that NumPy has not
            raise damaged(folder, str(error)) from error

    def _open(self, name: str, dtype: str, shape: Sequence[int]) -> Any:
        path, whole = self.folder / name, (self.description.num_samples, *shape)
        expected = int(np.prod(whole)) * np.dtype(dtype).itemsize
        if path.stat().st_size != expected:
            raise ValueError(f"{name} has {path.stat().st_size} bytes, not {expected}")
        return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=whole))  # as an array rows are read faster

    @staticmethod
    def create(folder: Path, description: Description) -> None:
        """Makes the files of a cache, with all the room they will take.

        Raises:
            MachineError: The disk cannot hold them.
        """
        num, marks = description.num_samples, 8 * len(description.parts)
        needed = num * (description.row_bytes() + marks)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if needed > free:
            shutil.rmtree(folder)
            raise no_room(folder, needed, free)
        sizes = {MARKS: num * marks} | {
            f"{name}.bin": num * int(np.prod(shape)) * np.dtype(dtype).itemsize
            for name, (shape, dtype) in description.features.items()
        }
        try:
            for name, size in sizes.items():
                with (folder / name).open("wb") as file:
                    if hasattr(os, "posix_fallocate"):  # macOS and Windows have none
                        os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later cannot take this away
                    else:
                        file.truncate(size)
        except OSError as error:
            shutil.rmtree(folder)
            raise no_room(folder, needed, free) from error
        content = json.dumps({"schema": SCHEMA} | asdict(description), indent=1)
        write_atomic(folder / DESCRIPTION, seal(folder / DESCRIPTION, content.encode()), "cache")

    def state(self) -> State:
        """How far the cache has come."""
        try:
            return parse_as(_STATE, read_sealed(self.folder / STATE), "state")
        except FileNotFoundError:
            return State()
        except UserError as error:
            raise damaged(self.folder, f"{STATE}: {error}") from error

    def write_state(self, state: State) -> None:
        """Replaces the state; before a cache is called complete, its files are on disk."""
        if state.complete:
            for name in (MARKS, *(f"{name}.bin" for name in self.arrays)):
                with (self.folder / name).open("rb") as file:
                    os.fsync(file.fileno())
        path = self.folder / STATE
        write_atomic(path, seal(path, json.dumps(asdict(state), indent=1).encode()), "cache")

    def finished(self) -> NDArray[np.bool_]:
        """Which rows are there, `(n,)`."""
        return np.asarray((self.marks >= DONE).all(axis=1))

    def write_rows(self, start: int, rows: Rows) -> None:
        """Stores rows from index `start` on, then their checksums.

        Raises:
            OSError: The disk cannot take them.
        """
        count = len(next(iter(rows.values())))
        for name, values in rows.items():
            shape, dtype = self.description.features[name]
            assert values.shape == (count, *shape) and values.dtype == dtype, (name, values.shape, values.dtype)
            self._write(f"{name}.bin", start * values[0].nbytes, np.ascontiguousarray(values))
        marks = np.array(
            [marks_of({name: values[index] for name, values in rows.items()}) for index in range(count)], np.uint64
        )
        self._write(MARKS, start * marks[0].nbytes, marks)

    def _write(self, name: str, offset: int, values: NDArray[Any]) -> None:
        content = values.data.cast("B")
        with (self.folder / name).open("r+b", buffering=0) as file:
            while content:
                written = os.pwrite(file.fileno(), content, offset)
                content, offset = content[written:], offset + written

    def check_row(self, index: int, row: Rows, positions: Sequence[int]) -> None:
        """Checks some parts of a row that was read.

        Args:
            index: Of the sample.
            row: Its features by name, the chosen parts `(P, ...)`.
            positions: Which parts these are, by their place in the cache.

        Raises:
            MachineError: They are not what was written.
        """
        if self.marks[index, positions].tolist() != marks_of(row):
            raise damaged(self.folder, f"the checksum of sample {index} is wrong")


def marks_of(row: Rows) -> list[int]:
    """The mark of each part of a finished row `(P, ...)`: CRC-32 over all features in the order of their names."""
    names = sorted(row)
    marks = []
    for part in range(len(row[names[0]])):
        value = 0
        for name in names:
            value = zlib.crc32(np.ascontiguousarray(row[name][part]).data, value)
        marks.append(DONE | value)
    return marks


def damaged(folder: Path, reason: str) -> MachineError:
    """The error of a cache that cannot be trusted."""
    return MachineError(
        f"feature cache {folder.name} in {folder.parent} is damaged ({reason}); remove it with "
        f"bench.py clean caches {folder.name}, and run again"
    )


def no_room(folder: Path, needed: int, free: int) -> MachineError:
    """The error of a disk that cannot hold a cache."""
    return MachineError(
        f"features need {needed / 2**30:.2f} GiB under {folder.parent}, where {free / 2**30:.2f} GiB are free; make "
        "room (bench.py clean caches), choose another --cache, store 8 bits where the method can (--set "
        "fpt.feature_dtype=int8) or use --preload off"
    )
