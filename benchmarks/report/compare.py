"""Two folders of results, cell by cell: what moved between them, and whether chance explains it."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.analysis.comparison import Comparison, SameImages
from benchmarks.analysis.evidence import Evidence, same_evidence
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.significance import cell_evidence
from benchmarks.analysis.statistics import holm, seeds_p
from benchmarks.analysis.summary import summary
from benchmarks.records.schema import DAMAGED
from benchmarks.report.captions import LEAK, LOST, UNCONVERGED, auc_marks
from benchmarks.report.columns import shown_p
from benchmarks.report.tables import escape_markdown

SAME, UNCLEAR, MOVED, UNTESTED = "same", "not significant", "significant", "no test"
METHODS, MODELS, SEEDS = "images and seeds", "images, trained models", "seeds"
NOTE = (
    f"test: over {METHODS}, whether the methods differ; over {MODELS}, where one seed is all there is, whether these "
    f"trained models do, which is no claim about methods; over {SEEDS} alone where predictions are missing. "
    f"p is Holm-corrected over all cells. {UNCONVERGED} AUC: runs of it had not converged, more epochs may raise it. "
    f"{LEAK} AUC: images lie in two splits, it may be too high. {LOST} AUC: runs of it are left out, as their files "
    "are not what was stored."
)
_PLACE = ("block", "dataset", "dataset_digest", "resolution", "method")
_MIB = 2**20
_MARKED = ("unconverged", "leaks", f"seeds_{DAMAGED}")  # what `auc_marks` looks at


class Side(NamedTuple):
    """One of the folders: its runs as `records.runs_frame` gives them, and the evidence of their probabilities."""

    frame: pd.DataFrame
    evidence: dict[str, Evidence]


def compare_results(before: Side, after: Side, mix_code: bool = False) -> pd.DataFrame:
    """What changed in each cell: a method on a dataset at a resolution under one protocol, means over seeds.

    Cells are matched within the same protocol and images. Where a method has one setting on either side, the two are
    matched even if a setting differs, which is then named; several settings are matched where they are equal.

    Args:
        before, after: the folders.
        mix_code: whether to average, on either side, runs that different code has trained.

    Returns:
        One row a cell of either side: block, dataset, dataset_digest, resolution, method, label, settings (what
        differs); state, seeds, auc, unconverged, leaks and seeds_damaged (as in the summary), memory_bytes (of the
        whole run) and trainable, each as _before and _after; auc_change, with auc_low and auc_high (its 95 % interval,
        where both have predictions of the same images), p, p_holm (corrected over all cells) and test (over `images
        and seeds`, paired where the seeds are the same; `images, trained models` where a side has one seed; `seeds`, a
        t test, without predictions); memory_change, where both are measured or both predicted; trainable_change; in
        (`both`, `before`, `after`); auc: `same`, `not significant`, `significant` (at 0.05 after Holm) or `no test`.
    """
    tables = [summary(side.frame, mix_code) for side in (before, after)]
    rows = [_row(first, second, before, after) for first, second in _matched(*tables)]
    known = [row for row in rows if row["p"] is not None]
    for row, corrected in zip(known, holm([row["p"] for row in known]), strict=True):
        row["p_holm"] = corrected
    for row in rows:
        row["auc"] = _verdict(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pd.DataFrame(rows, columns=columns, dtype="object")
    whole = [name for name in columns if name.startswith(("seeds_", "leaks_", "memory_bytes_", "trainable_"))]
    fractions = ["auc_before", "auc_after", "auc_change", "auc_low", "auc_high", "p", "p_holm"]
    return table.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(fractions, "float64"))


def _matched(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[tuple[pd.Series | None, pd.Series | None]]:
    sides = [_by_place(table) for table in (before, after)]
    for place in dict.fromkeys([*sides[1], *sides[0]]):
        first, second = (side.get(place, {}) for side in sides)
        alike = [variant for variant in first if variant in second]
        if not alike and len(first) == len(second) == 1:
            yield next(iter(first.values())), next(iter(second.values()))
            continue
        for variant in dict.fromkeys([*second, *first]):
            yield first.get(variant), second.get(variant)


def _by_place(table: pd.DataFrame) -> dict[tuple[str, ...], dict[str, pd.Series]]:
    places: dict[tuple[str, ...], dict[str, pd.Series]] = {}
    for _, row in table.iterrows():
        places.setdefault(tuple(str(row[name]) for name in _PLACE), {})[str(row["variant"])] = row
    return places


def _row(first: pd.Series | None, second: pd.Series | None, before: Side, after: Side) -> dict[str, Any]:
    known = second if second is not None else first
    assert known is not None
    row: dict[str, Any] = {name: known[name] for name in (*_PLACE, "label")}
    row["in"] = "both" if first is not None and second is not None else "before" if second is None else "after"
    row["settings"] = _settings(first, second)
    for side, cell in (("before", first), ("after", second)):
        row[f"state_{side}"] = None if cell is None else cell["state"]
        row[f"seeds_{side}"] = None if cell is None else int(cell["seeds_ok"])
        row[f"auc_{side}"] = None if cell is None else _number(cell["auc_mean"])
        row[f"unconverged_{side}"] = None if cell is None else _text(cell["unconverged"]) or None
        row[f"leaks_{side}"] = None if cell is None or pd.isna(cell["leaks"]) else int(cell["leaks"])
        row[f"seeds_{DAMAGED}_{side}"] = None if cell is None else int(cell[f"seeds_{DAMAGED}"])
    row |= dict.fromkeys(("auc_change", "auc_low", "auc_high", "p", "p_holm", "test"))
    if first is not None and second is not None and row["auc_before"] is not None and row["auc_after"] is not None:
        row["auc_change"] = row["auc_after"] - row["auc_before"]
        row |= _tests(first, second, before, after)
    for name in ("memory_bytes", "trainable"):
        values = [_costs(cell, name, first, second) for cell in (first, second)]
        row |= {f"{name}_before": values[0], f"{name}_after": values[1]}
        row[f"{name}_change"] = values[1] - values[0] if values[0] is not None and values[1] is not None else None
    return row


def _tests(first: pd.Series, second: pd.Series, before: Side, after: Side) -> dict[str, Any]:
    comparison = _compared(second, first, after, before)
    if comparison is not None:
        test = METHODS if comparison.num_seeds > 1 else MODELS
        return {"auc_low": comparison.low, "auc_high": comparison.high, "p": comparison.p, "test": test}
    seeds = [
        side.frame[side.frame["run_id"].isin(cell["run_ids"].split())].sort_values("seed")
        for cell, side in ((first, before), (second, after))
    ]
    paired = seeds[0]["seed"].to_list() == seeds[1]["seed"].to_list()
    p = seeds_p(seeds[0]["auc"].to_list(), seeds[1]["auc"].to_list(), paired)
    return {"p": p, "test": None if p is None else SEEDS}


def _compared(first: pd.Series, second: pd.Series, first_side: Side, second_side: Side) -> Comparison | None:
    """Of two cells whose predictions are of the same images; pair by pair where they have the same seeds."""
    cells = cell_evidence(first, first_side.evidence), cell_evidence(second, second_side.evidence)
    if not all(cells) or len({run.images for cell in cells for run in cell.values()}) > 1:
        return None
    if cells[0].keys() == cells[1].keys() and all(same_evidence(cells[0][seed], cells[1][seed]) for seed in cells[0]):
        return Comparison(0.0, 0.0, 0.0, 1.0, len(cells[0]))
    tested = SameImages(cells)
    return tested.compare([(0, 1)])[0] if cells[0].keys() == cells[1].keys() else tested.compare_unpaired(0, 1)


def _costs(cell: pd.Series | None, name: str, first: pd.Series | None, second: pd.Series | None) -> int | None:
    if cell is None:
        return None
    if name == "trainable":
        return None if pd.isna(cell[name]) else int(cell[name])
    # A measurement and a prediction are no change of memory: both sides show the same kind, where there is one.
    both = [other for other in (first, second) if other is not None]
    source = next((s for s in ("measured", "predicted") if not any(pd.isna(o[f"{s}_whole_bytes"]) for o in both)), None)
    return None if source is None else int(cell[f"{source}_whole_bytes"])


def _settings(first: pd.Series | None, second: pd.Series | None) -> str:
    """The settings that differ, before and after."""
    if first is None or second is None:
        return ""
    old, new = json.loads(first["variant"]), json.loads(second["variant"])
    names = sorted({name for name in {**old, **new} if old.get(name) != new.get(name)} - {"options"})
    return "; ".join(f"{name} {json.dumps(old.get(name))} → {json.dumps(new.get(name))}" for name in names)


def _verdict(row: dict[str, Any]) -> str | None:
    if row["auc_change"] is None:
        return None
    p = row["p_holm"]
    if row["auc_change"] == 0 and p in (None, 1.0) and not row["auc_low"] and not row["auc_high"]:
        return SAME
    return UNTESTED if p is None else MOVED if p < LEVEL else UNCLEAR


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A comparison as text, percent and MiB, for a markdown table."""
    rows = []
    several: Any = table.groupby("dataset")["dataset_digest"].nunique() > 1 if len(table) else {}
    for row in table.to_dict("records"):
        digest = f" [{row['dataset_digest']!s:.6}]" if several[row["dataset"]] else ""
        interval = "" if pd.isna(row["auc_low"]) else f" ({_signed(row['auc_low'])} to {_signed(row['auc_high'])})"
        rows.append(
            {
                "dataset": escape_markdown(f"{row['dataset']}{digest}"),
                "px": row["resolution"],
                "method": escape_markdown(str(row["label"])),
                "protocol": row["block"],
                "in": row["in"],
                "state": _pair(row["state_before"], row["state_after"]),
                "seeds": _pair(row["seeds_before"], row["seeds_after"]),
                "AUC": _pair(_auc(row, "before"), _auc(row, "after")),
                "change (95 % CI)": "" if pd.isna(row["auc_change"]) else f"{_signed(row['auc_change'])}{interval}",
                "p": "" if pd.isna(row["p_holm"]) else shown_p(row["p_holm"]),
                "test": _text(row["test"]),
                "verdict": _text(row["auc"]),
                "memory MiB": _pair(_mebibytes(row["memory_bytes_before"]), _mebibytes(row["memory_bytes_after"])),
                "trainable": _pair(_whole(row["trainable_before"]), _whole(row["trainable_after"])),
                "settings": escape_markdown(row["settings"]),
            }
        )
    return pd.DataFrame(rows)


def in_words(table: pd.DataFrame) -> str:
    """One line that says what moved."""
    both = table[table["in"] == "both"]
    verdicts = ", ".join(f"{number} {name}" for name, number in both["auc"].value_counts().items())
    costs = [
        f"{name} in {int((both[f'{column}_change'].fillna(0) != 0).sum())}"
        for name, column in (("memory", "memory_bytes"), ("parameters", "trainable"))
    ]
    states = int((both["state_before"] != both["state_after"]).sum())
    counts = table["in"].value_counts()
    return (
        f"{len(both)} cells in both (AUC: {verdicts or 'none'}; changed: {', '.join(costs)}, state in {states}), "
        f"{counts.get('before', 0)} only before, {counts.get('after', 0)} only after"
    )


def _pair(before: Any, after: Any) -> str:
    old, new = _text(before), _text(after)
    return old if old == new else f"{old or '–'} → {new or '–'}"


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _signed(value: float) -> str:
    return f"{round(100 * value, 2) + 0.0:+.2f}"


def _auc(row: Any, side: str) -> str:
    return _percent(row[f"auc_{side}"]) + auc_marks({name: row[f"{name}_{side}"] for name in _MARKED})


def _percent(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{100 * value:.2f}"


def _mebibytes(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value / _MIB:,.1f}"


def _whole(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{int(value):,}"
