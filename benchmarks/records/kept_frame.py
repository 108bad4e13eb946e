"""The frame of thousands of records as it was made of them, kept until one of their files changes.

It lies in `<results>/.index`, as the records do that were believed (`index`), and is taken from there as they are: only
while all files are those that it was made of. A frame with a damaged record is not kept. It may be deleted at any time.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic_core import from_json
from safetensors.numpy import load, save

from benchmarks.records import index
from benchmarks.records.index import FOLDER
from benchmarks.records.record import PREDICTIONS
from benchmarks.storage.files import read_disposable, stamp, write_disposable

_NAME = "frame"


def state_of(paths: Sequence[Path]) -> str | None:
    """What records, their predictions and the code that makes a frame of them are now, as a digest.

    None where one of them was changed so lately that it may change again and look the same.
    """
    settled = time.time_ns() - index.SETTLED
    stamps = [(stamp(path), stamp(path.with_name(f"{path.stem}{PREDICTIONS}"))) for path in paths]
    if any(found is not None and max(found[2:]) > settled for pair in stamps for found in pair):
        return None
    names = [path.stem for path in paths]
    return hashlib.sha256(json.dumps([index.CODE, _CODE, names, stamps]).encode()).hexdigest()


def read_frame(results: Path, state: str) -> pd.DataFrame | None:
    """The frame that was made of just these files by just this code; None where there is none."""
    data = read_disposable(results / FOLDER / _NAME)
    if data is None:
        return None
    start = data.index(b"\n") + 1
    head: dict[str, Any] = from_json(data[:start])
    if head["state"] != state:
        return None
    arrays = load(data[start:])
    return pd.DataFrame({name: _column(name, dtype, head["values"], arrays) for name, dtype in head["dtypes"].items()})


def keep_frame(results: Path, state: str, frame: pd.DataFrame) -> None:
    """Keeps the frame that was made of these files; the state is from before they were read."""
    arrays: dict[str, NDArray[Any]] = {}
    values: dict[str, list[Any]] = {}
    for name, column in frame.items():
        key = str(name)
        if column.dtype == "object":
            numbers: dict[Any, int] = {}
            arrays[key] = np.array([numbers.setdefault(value, len(numbers)) for value in column], np.int32)
            values[key] = list(numbers)
        elif column.dtype == "float64":
            arrays[key] = column.to_numpy()
        else:
            arrays[key] = column.to_numpy("bool" if column.dtype == "boolean" else "int64", na_value=0)
            arrays[f"{key}."] = column.isna().to_numpy()
    head = {"state": state, "dtypes": {str(name): str(dtype) for name, dtype in frame.dtypes.items()}, "values": values}
    data = json.dumps(head, allow_nan=False).encode() + b"\n" + save(arrays)
    write_disposable(results / FOLDER / _NAME, data, "results", private=True)


def _column(name: str, dtype: str, values: dict[str, list[Any]], arrays: dict[str, NDArray[Any]]) -> Any:
    """A column as `keep_frame` took it apart: objects once each, and which; other values, and which are missing."""
    if dtype == "object":
        known = np.empty(len(values[name]), dtype=object)
        for number, value in enumerate(values[name]):
            known[number] = tuple(value) if isinstance(value, list) else value
        return pd.Series(known[arrays[name]], dtype="object")
    if dtype == "float64":
        return arrays[name]
    make = pd.arrays.BooleanArray if dtype == "boolean" else pd.arrays.IntegerArray
    return make(arrays[name], arrays[f"{name}."])


def _code_digest() -> str:
    """Of what a record's values go through on their way into a frame, beside the records' own code."""
    paths = sorted(Path(__file__).parents[1].glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


_CODE = _code_digest()
