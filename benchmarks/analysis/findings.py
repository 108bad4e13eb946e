"""AUCs of single findings, with their intervals, and how methods differ in each: DeLong's test, with Holm's correction.

What is said of a finding is said as of a dataset of two classes: over images (patients, where they are known) and over
seeds, as everywhere.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.analysis.comparison import SameImages, between
from benchmarks.analysis.evidence import FindingEvidence, load_finding_evidence
from benchmarks.analysis.statistics import holm

_PLACE = ["block", "dataset_label", "resolution"]
COLUMNS = (
    *(*_PLACE, "finding", "method", "variant", "label", "seeds_ok", "num_with", "num_without"),
    *(
        "auc_mean",
        "auc_low",
        "auc_high",
        "reference",
        "change",
        "change_low",
        "change_high",
        "p",
        "p_holm",
        "seeds_both",
    ),
)


def finding_table(table: pd.DataFrame, results: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each finding of each cell whose images have findings; empty where none have.

    Args:
        table: As `significance.add_significance` gives it.
        results: The results root.
        frame: Its runs.

    Returns:
        `COLUMNS`: num_with, num_without, images of the test split; auc_mean (over seeds), auc_low, auc_high (95 %
        interval); reference, what a complete cell is compared with: full fine-tuning where it is complete, else the
        best; change (AUC less that of the reference), change_low, change_high (95 % interval), p (two-sided: DeLong's
        over images, and over seeds), p_holm (corrected over the findings of this comparison), seeds_both. A finding
        that cannot be scored has a row without numbers.
    """
    theirs = set(frame.loc[frame["loss_name"] == "bce", "run_id"])
    rows: list[dict[str, Any]] = []
    for _, group in table.groupby(_PLACE, sort=False, dropna=False):
        cells = {index: _cell(row, results, theirs) for index, row in group.iterrows()}
        known = {index: cell for index, cell in cells.items() if cell}
        if known:
            rows += _place(group.loc[list(known)], known)
    whole = dict.fromkeys(["num_with", "num_without", "seeds_both"], "Int64")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(whole)


def _cell(row: "pd.Series[Any]", results: Path, theirs: set[str]) -> dict[int, FindingEvidence]:
    """The evidence of a cell's averaged runs by seed; empty where one has none."""
    runs = list(zip(str(row["run_seeds"]).split(), str(row["run_ids"]).split(), strict=True))
    if not runs or not theirs.issuperset(run_id for _, run_id in runs):
        return {}
    found = load_finding_evidence(results, [name for _, name in runs])
    return {int(seed): found[name] for seed, name in runs} if len(found) == len(runs) else {}


def _place(group: pd.DataFrame, cells: Mapping[Any, Mapping[int, FindingEvidence]]) -> list[dict[str, Any]]:
    first = next(iter(next(iter(cells.values())).values()))
    alike = {run.images for cell in cells.values() for one in cell.values() for run in one.scored.values()}
    rows: list[dict[str, Any]] = []
    if len(alike) != 1:
        return rows
    places = list(group.index)
    chosen = [place for name in ("is_full", "is_best") for place in places if group[name].eq(True)[place]]
    reference = next((place for place in chosen if group.loc[place, "complete"]), None)
    for finding in first.scored:
        tested = SameImages([{seed: run.scored[finding] for seed, run in cells[place].items()} for place in places])
        intervals = tested.intervals()
        for number, place in enumerate(places):
            runs = [run.scored[finding] for run in cells[place].values()]
            row = _named(group.loc[place], finding) | {
                "num_without": int(runs[0].class_images[0]),
                "num_with": int(runs[0].class_images[1]),
                "auc_mean": sum(run.auc for run in runs) / len(runs),
            }
            if interval := intervals[number]:
                row |= {"auc_low": interval.low, "auc_high": interval.high}
            if reference not in (None, place) and group.loc[place, "complete"]:
                row |= _compared(tested, number, places.index(reference)) | {"reference": group.loc[reference, "label"]}
            rows.append(row)
    rows += [_named(group.loc[place], finding) for finding in first.unscored for place in places]
    _correct(rows)
    return rows


def _named(row: "pd.Series[Any]", finding: str) -> dict[str, Any]:
    return {name: row[name] for name in (*_PLACE, "method", "variant", "label", "seeds_ok")} | {"finding": finding}


def _compared(tested: SameImages, number: int, reference: int) -> dict[str, Any]:
    pair = (number, reference)
    found = between({pair: tested.compare([pair])[0]}, *pair)
    if found is None:
        return {}
    return {
        **{"change": found.change, "change_low": found.low, "change_high": found.high},
        **{"p": found.p, "seeds_both": found.num_seeds},
    }


def _correct(rows: list[dict[str, Any]]) -> None:
    """Adds p by Holm, over the findings in which one cell is compared."""
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if "p" in row:
            families.setdefault((row["method"], row["variant"]), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
