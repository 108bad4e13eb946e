"""The files of kept predictions, read without what makes them: torch takes seconds that a page has no use for."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from benchmarks.environment import CODE_DIGEST
from benchmarks.errors import UserError
from benchmarks.memory.replay import PhasePeak
from benchmarks.storage.files import parse_as, read_disposable

SCHEMA = 2


class StoredPrediction(TypedDict):
    """The file of a prediction; `changed` are the options in which its point departs from the method's defaults."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    key: dict[str, Any]
    changed: dict[str, Any]
    phases: dict[str, PhasePeak]
    feature_bytes: int
    images_at_once: int | None


_STORED = TypeAdapter(StoredPrediction)


def made_by() -> dict[str, Any]:
    """What of a prediction's key is the same for all: the layout of its file, our code, and the packages."""
    packages = {name: version(name) for name in ("torch", "timm", "peft")}
    return {"schema": SCHEMA, "code": CODE_DIGEST, "packages": packages}


def folder_of(cache: Path) -> Path:
    """Where predictions lie in a folder of caches."""
    return cache / "predictions"


def read_prediction(path: Path) -> StoredPrediction | None:
    """A file of a prediction; None where there is none, or it is damaged or of another layout."""
    data = read_disposable(path)
    try:
        return None if data is None else parse_as(_STORED, data)
    except UserError:
        return None


def each_prediction(cache: Path) -> Iterator[StoredPrediction]:
    """All predictions that the code and packages of now have made, but for those of plugins."""
    now = made_by()
    for path in sorted(folder_of(cache).glob("*")):
        stored = read_prediction(path)
        if stored and "plugins" not in stored["key"] and {name: stored["key"].get(name) for name in now} == now:
            yield stored
