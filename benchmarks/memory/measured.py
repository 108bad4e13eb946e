"""The records of measured points: their files, written and read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, get_args

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.records.private import private
from benchmarks.records.schema import Peaks
from benchmarks.records.seal import read_unchanged, sealed
from benchmarks.storage.files import write_atomic

Schema = Literal[1]
SCHEMA: int = get_args(Schema)[0]

Record = dict[str, Any]


@dataclass(frozen=True)
class Point(MemoryPoint):
    """A point as a record holds it: with all its options, and no setting that we do not know."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    options: tuple[tuple[str, Any], ...] = field(kw_only=True)


class Status(TypedDict):
    """How measuring ended, and in which phase."""

    state: str
    phase: NotRequired[str | None]
    message: NotRequired[str | None]


class Memory(TypedDict):
    """Peaks in bytes, by phase and counter."""

    phases: dict[str, Peaks | None]


class Environment(TypedDict, total=False):
    """Where it was measured."""

    device: str | None
    host: str | None
    host_id: str | None


class MeasuredPoint(TypedDict):
    """What is read of a record again; it holds more."""

    schema: Schema
    point: Point
    status: Status
    memory: NotRequired[Memory | None]
    environment: NotRequired[Environment]  # what failed at once has none
    code: NotRequired[dict[str, Any] | None]
    started: NotRequired[str | None]


_MEASURED = TypeAdapter(MeasuredPoint)


def record_path(folder: Path, point: MemoryPoint) -> Path:
    """Where a point's record lies."""
    return folder / f"{point.name}.json"


def write_record(path: Path, record: Record) -> None:
    """Stores a record of a measured point, sealed, which names no place."""
    write_atomic(path, sealed(private(record)))


def read_measured(results: Path) -> list[Record]:
    """All measured records under `results`, sorted by GPU and point; see `measured_records`."""
    return list(measured_records(results).values())


def measured_records(results: Path) -> dict[Path, Record]:
    """All measured records under `results` by file, sorted by GPU and point.

    Raises:
        UserError: As `read_point`.
    """
    return {path: read_point(path) for path in sorted((results / "measured").glob("*/*.json"))}


def read_point(path: Path) -> Record:
    """The record of a measured point.

    Raises:
        UserError: The file is no such record, or not what was stored.
    """
    try:
        return read_unchanged(path, _MEASURED, "record")
    except UserError as error:
        raise UserError(f"record must be a measured point, got {str(path)!r} ({error}): delete it") from error
