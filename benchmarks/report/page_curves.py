"""The curves of cells as the page draws them: whole numbers, thousandths, few enough for thousands of cells."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.analysis.curves import KINDS, Band, Curves, band
from benchmarks.analysis.influence import Floats


def page_curves(
    curves: Mapping[str, Curves], run_ids: Iterable[str], rows: Sequence[int | None]
) -> dict[str, dict[str, Any]]:
    """The curves of each row of the table.

    Args:
        curves: By run id.
        run_ids, rows: Of all runs, and the row that counts each.

    Returns:
        By the number of the row as text, for each kind `mean`, `half` and `beside` in thousandths, as
        `curves.Band` has them; None where a bin is empty.
    """
    members: dict[int, list[str]] = {}
    for run_id, row in zip(run_ids, rows, strict=True):
        if row is not None and run_id in curves:
            members.setdefault(row, []).append(run_id)
    made: dict[str, dict[str, Any]] = {}
    for row, names in members.items():
        bands = {kind: band([curves[name] for name in names], kind) for kind in KINDS}
        made[str(row)] = {kind: _shown(found) for kind, found in bands.items() if found}
    return made


def _shown(found: Band) -> dict[str, Any]:
    beside = [_thousandths(values) for values in found.beside]
    return {"mean": _thousandths(found.mean), "half": _thousandths(found.half)} | ({"beside": beside} if beside else {})


def _thousandths(values: Floats) -> list[int | None]:
    return [None if np.isnan(value) else round(1000 * value) for value in values.tolist()]
