"""What using the methods of a table costs, as columns of its summary."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.errors import UserError
from benchmarks.inference.cost import Deployment, cost_of, deployments
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import PredictionError
from methods import METHODS

_COLUMNS = ("use_1_bytes", "use_16_bytes", "use_flops", "task_bytes", "shared_bytes")


def add_costs(table: pd.DataFrame, cache: Path, tell: Callable[[Exception], None]) -> pd.DataFrame:
    """A summary with what using each row's model costs, as `load_run` does: merged where the method merges.

    Args:
        table: As `summary.summary` gives it.
        cache: Where predictions are kept.
        tell: Gets the error of a row whose cost cannot be found; its columns are missing then.

    Returns:
        The table with use_1_bytes and use_16_bytes (predicted peak allocated with 1 and 16 images at a time),
        use_flops (of an image), task_bytes and shared_bytes (to store, nothing merged).
    """
    found: dict[MemoryPoint, dict[str, int]] = {}
    rows = []
    for _, row in table.iterrows():
        point = _point(row)
        if point is not None and point not in found:
            try:
                found[point] = _cost(point, cache)
            except (PredictionError, UserError) as error:
                tell(error)
                found[point] = {}
        rows.append({} if point is None else found[point])
    gained = pd.DataFrame(rows, columns=list(_COLUMNS), index=table.index).astype("Int64")
    return pd.concat([table, gained], axis=1)


def _cost(point: MemoryPoint, cache: Path) -> dict[str, int]:
    apart, used = (deployments(point)[i] for i in (0, -1))
    sixteen = Deployment(dataclasses.replace(point, batch_size=16), used.merge)
    one, stored = cost_of(used, cache), cost_of(apart, cache)
    return {
        **{"use_1_bytes": one["memory_bytes"], "use_16_bytes": cost_of(sixteen, cache)["memory_bytes"]},
        **{"use_flops": one["flops"], "task_bytes": stored["task_bytes"], "shared_bytes": stored["shared_bytes"]},
    }


def _point(row: pd.Series) -> MemoryPoint | None:
    """The setting in which a row's models are used; None of a method that is not here, or without known classes."""
    if row["method"] not in METHODS or pd.isna(row["num_classes"]):
        return None
    fields = {field.name for field in dataclasses.fields(METHODS[row["method"]].config)} - {"lr", "weight_decay"}
    settings: dict[str, Any] = json.loads(row["variant"])
    return MemoryPoint(
        method=row["method"],
        resolution=int(row["resolution"]),
        batch_size=1,
        backbone=row["backbone"],
        num_classes=int(row["num_classes"]),
        precision=row["precision"],
        attention=row["attention"],
        preload=False,
        options=tuple((name, value) for name, value in sorted(settings.items()) if name in fields),
    )
