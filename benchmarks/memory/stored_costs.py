"""What using a model costs, as `bench.py cost --store` keeps it in a results folder: files, written and read."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, get_args

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from benchmarks.errors import UserError
from benchmarks.memory.measured import Point
from benchmarks.memory.point import MemoryPoint
from benchmarks.records.seal import read_unchanged, sealed
from benchmarks.storage.files import write_atomic

Schema = Literal[1]
SCHEMA: int = get_args(Schema)[0]
COSTS = "costs"  # below the results
_UNTIMED = "untimed"  # what was found without running anything

StoredCost = dict[str, Any]
Amount = Annotated[int, Field(ge=0)]


class _Cost(TypedDict):
    """A method in use, of one setting.

    point: Method, side, images at a time, backbone and the rest. views: Sides (px) of what it looks at. merged: Whether
    what was added is merged into the weights. predicted_bytes, measured_bytes: Peak allocated on a GPU. flops: Of an
    image. task_bytes, shared_bytes: To store for each task, and once. seconds: Of a batch. timed_on: Where, and on
    which type of device.
    """

    schema: Schema
    point: Point
    views: list[Amount]
    merged: bool
    predicted_bytes: Amount
    measured_bytes: NotRequired[Amount | None]
    flops: Amount
    task_bytes: Amount
    shared_bytes: Amount
    seconds: NotRequired[Annotated[float, Field(gt=0)] | None]
    timed_on: NotRequired[str | None]
    device_type: NotRequired[Literal["cpu", "cuda"] | None]


_COST = TypeAdapter(_Cost)


def store_cost(results: Path, found: StoredCost) -> Path:
    """Stores one, in the place of what was found before in the same setting on the same device."""
    folder = re.sub("[^a-z0-9]+", "-", (found.get("timed_on") or _UNTIMED).lower()).strip("-")
    name = MemoryPoint.from_dict(found["point"]).name + "_merged" * found["merged"]
    return write_atomic(results / COSTS / folder / f"{name}.json", sealed({"schema": SCHEMA} | found))


def read_costs(results: Path) -> tuple[list[StoredCost], list[str]]:
    """All that are stored, by device and setting, and a line for each file that is none or was changed since."""
    found, problems = [], []
    for path in sorted((results / COSTS).glob("*/*.json")):
        try:
            found.append(read_unchanged(path, _COST, "cost"))
        except (OSError, UserError) as error:
            problems.append(f"cost must be what was stored, got {str(path)!r} ({error}): delete it, or store it again")
    return found, problems
