"""Methods over the number of training labels: their curves, and where one overtakes another."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from benchmarks.analysis.comparison import Cell, SameImages
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.influence import Floats
from benchmarks.analysis.significance import cell_evidence
from benchmarks.analysis.summary import method_rank, variant_labels
from benchmarks.config import ALL_LABELS, LabelBudget
from benchmarks.records.frame import PROTOCOL

_OF_LABELS = {entry.name for entry in fields(LabelBudget)}
_SAME = ["dataset_label", "dataset_digest", *(name for name in PROTOCOL if name not in ("train_labels", "keep_steps"))]
_STEPS = 24  # between two numbers of labels, at which a difference of 0 is tested


class Curves(NamedTuple):
    """Methods on one dataset, each with several numbers of labels, all else the same.

    rows: cells of a summary, with `curve`, the method's label without its number of labels, in the order of methods.
    keep_steps: whether epochs took as many steps with fewer labels.
    """

    rows: pd.DataFrame
    keep_steps: bool


class Overtaking(NamedTuple):
    """One method is ahead with the most labels, another was with fewer.

    ahead, behind: their names. labels: from how many on. low, high: the interval, None for an end beyond the numbers
    that were run. known: whether there is an interval. num_seeds: with one, this is of two trained models.
    """

    ahead: str
    behind: str
    labels: float
    low: float | None
    high: float | None
    known: bool
    num_seeds: int


Curve = Mapping[int, Cell]  # by number of labels


def label_curves(table: pd.DataFrame) -> Iterator[Curves]:
    """Every set of cells that differ in the number of labels, and have two numbers or more.

    Args:
        table: as `summary.summary` gives it.
    """
    if table.empty or (table["train_labels"] == ALL_LABELS).all():
        return
    known = table[table["num_train"].notna()]
    for _, group in known.groupby(_SAME, sort=False, dropna=False):
        for keep_steps in (False, True):
            fewer = (group["train_labels"] != ALL_LABELS) & (group["keep_steps"] == keep_steps)
            rows = group[fewer | (group["train_labels"] == ALL_LABELS)]
            if fewer.any() and rows["num_train"].nunique() > 1:
                yield Curves(_named(rows), keep_steps)


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.assign(variant=rows["variant"].map(_without_labels))
    names = variant_labels(rows)
    pairs = list(zip(rows["method"], rows["variant"], strict=True))
    ordered = sorted(set(pairs), key=lambda pair: (method_rank(pair[0]), names[pair]))
    rows = rows.assign(curve=[names[pair] for pair in pairs], order=list(map(ordered.index, pairs)))
    return rows.sort_values(["resolution", "order", "num_train"]).drop(columns="order")


def _without_labels(variant: str) -> str:
    settings = {name: value for name, value in json.loads(variant).items() if name not in _OF_LABELS}
    return json.dumps(settings, sort_keys=True)


def overtakings(rows: pd.DataFrame, evidence: Mapping[str, Evidence], level: float = LEVEL) -> list[Overtaking]:
    """Where curves of one resolution cross; their intervals hold together for all its pairs (Bonferroni).

    Args:
        rows: of `Curves`, at one resolution. Only complete cells count.
        evidence: by run id, as `evidence.load_evidence` gives it.
        level: of all intervals together.
    """
    complete = rows[rows["complete"] & rows["auc_mean"].notna()]
    curves: dict[str, dict[int, Cell]] = {}
    for _, row in complete.iterrows():
        if cell := cell_evidence(row, evidence):
            curves.setdefault(row["curve"], {})[int(row["num_train"])] = cell
    pairs = list(itertools.combinations(curves, 2))
    found = (crossing(curves[one], curves[two], one, two, level / len(pairs)) for one, two in pairs)
    return [crossed for crossed in found if crossed is not None]


def crossing(one: Curve, two: Curve, name: str, other: str, level: float = LEVEL) -> Overtaking | None:
    """Where the curves of two methods cross for the last time; None where they do not, or have too little in common.

    Between two numbers of labels AUC is taken to be a straight line over their logarithm, so the difference at any
    number is one of weighted means over the same seeds and images, and is tested as every difference is. The interval
    holds all numbers at which the two are not told apart, and what lies between these (Fieller's set): whatever the
    true crossing is, it is left out in no more than `level` of all cases. Where they are not told apart at the smallest
    or the largest number, there is no end on that side.

    Args:
        one, two: AUCs by number of labels, with their evidence by seed.
        name, other: what they are called.
        level: of the interval.

    Source: Fieller, Journal of the Royal Statistical Society B 16 (1954), 175-185.
    """
    sizes = sorted(one.keys() & two.keys())
    cells = [curve[size] for size in sizes for curve in (one, two)]
    seeds = set.intersection(*(set(cell) for cell in cells)) if cells else set()
    if len(sizes) < 2 or not seeds or len({run.images for cell in cells for run in cell.values()}) > 1:
        return None
    changes = [float(np.mean([one[size][seed].auc - two[size][seed].auc for seed in seeds])) for size in sizes]
    sign = np.sign(changes[-1])
    before = [i for i, change in enumerate(changes) if np.sign(change) == -sign and sign]
    if not before:
        return None
    i = before[-1]
    labels = _between(sizes[i], sizes[i + 1], changes[i] / (changes[i] - changes[i + 1]))
    ahead, behind = (name, other) if sign > 0 else (other, name)
    places, p = _p_values(one, two, sizes, sorted(seeds))
    if p is None:
        return Overtaking(ahead, behind, labels, None, None, False, len(seeds))
    low, high = _ends(places, p, level)
    return Overtaking(ahead, behind, labels, low, high, True, len(seeds))


def _between(first: int, second: int, share: float) -> float:
    """The number of labels at a share of the way, on a log scale."""
    return math.exp((1 - share) * math.log(first) + share * math.log(second))


def _p_values(one: Curve, two: Curve, sizes: Sequence[int], seeds: Sequence[int]) -> tuple[Floats, Floats | None]:
    """Logarithms of numbers of labels from the smallest to the largest, and p of no difference at each."""
    places: list[float] = []
    cells: list[Cell] = []
    for first, second in itertools.pairwise(sizes):
        for share in np.linspace(0, 1, _STEPS + 1)[1 if places else 0 :]:
            places.append(math.log(_between(first, second, share)))
            cells += [
                {seed: _mixed(curve[first][seed], curve[second][seed], share) for seed in seeds} for curve in (one, two)
            ]
    found = SameImages(cells).compare([(2 * i, 2 * i + 1) for i in range(len(places))])
    known = [entry.p for entry in found if entry is not None]
    return np.array(places), np.array(known) if len(known) == len(places) else None


def _mixed(first: Evidence, second: Evidence, share: float) -> Evidence:
    """Evidence of the weighted mean of two AUCs."""
    influence = (1 - share) * first.influence + share * second.influence
    return first._replace(auc=(1 - share) * first.auc + share * second.auc, influence=influence)


def _ends(places: Floats, p: Floats, level: float) -> tuple[float | None, float | None]:
    """The first and the last number of labels with a p above the level; None where that is the first or last of all."""
    kept = np.flatnonzero(p > level)
    errors, critical = -special.ndtri(p / 2), -special.ndtri(level / 2)  # nearly straight between two places
    ends: list[float | None] = []
    for inside, outside in ((kept[0], kept[0] - 1), (kept[-1], kept[-1] + 1)):
        if not 0 <= outside < len(p):
            ends.append(None)
            continue
        share = (critical - errors[inside]) / (errors[outside] - errors[inside])
        ends.append(math.exp(places[inside] + share * (places[outside] - places[inside])))
    return ends[0], ends[1]
