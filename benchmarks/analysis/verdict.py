"""Which method to use at a place, as far as stored results say, what that rests on, and what would decide the rest.

A place is a dataset at a resolution under one protocol. Only methods all of whose seeds there finished are compared.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.analysis.comparison import FEWEST
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.next_step import NextStep, next_step
from benchmarks.choices import FEW_UNITS
from benchmarks.records.schema import DAMAGED

_BYTES_A_PARAMETER = 4  # stored in fp32


@dataclass(frozen=True)
class Limits:
    """What a method must keep to.

    Attributes:
        margin: How far below full fine-tuning its AUC (0-1) may lie; None: it must not be told apart from the best.
        card_bytes: Memory of the card.
        needed_bytes: What a card must have for a run that allocates so many bytes.
        hours: Of training, extraction of features included.
    """

    margin: float | None = None
    card_bytes: int | None = None
    needed_bytes: Callable[[int], int] = int
    hours: float | None = None


class Candidate(NamedTuple):
    """A method at a place.

    auc, low, high: its mean and the 95 % interval (0-1). to_best: difference to the highest mean; p_best: that it is as
    good as every other (`comparison.best_p`). to_full, to_full_low, to_full_high: difference to full fine-tuning, and
    its interval, all methods together at 95 %. not_inferior: whether that is above less the margin; None without a
    margin or full fine-tuning. memory_bytes: peak allocated of the whole run, memory_source `measured` or `predicted`.
    parameters: that train, head included. seconds: of training and of extracting features. storage_bytes: of what a
    further task adds; None where that is no weights. fits: whether it keeps to the limits on card and hours; None where
    that is not known.
    """

    label: str
    method: str
    auc: float
    low: float | None
    high: float | None
    to_best: float | None
    p_best: float | None
    to_full: float | None
    to_full_low: float | None
    to_full_high: float | None
    not_inferior: bool | None
    memory_bytes: int | None
    memory_source: str | None
    parameters: int | None
    seconds: float | None
    storage_bytes: int | None
    fits: bool | None


@dataclass(frozen=True)
class Verdict:
    """What stored results say about one place.

    Attributes:
        place: Columns of the summary that name it: dataset, dataset_label, block, resolution.
        rows: Its rows of the summary.
        best: Label of the highest mean AUC; None where none could be compared.
        candidates: Methods that may be used: not told apart from the best, or with a margin not inferior to full
            fine-tuning; by AUC, the highest first.
        others: Methods that were compared and may not.
        cheapest: By `memory`, `parameters`, `time` and `storage`, the label of the cheapest candidate that keeps to the
            limits; without what is not known of all of them.
        left_out: Methods that were not compared, and why.
        fewest_seeds, seeds, units, unit: What it rests on: the fewest and the most seeds of a method that was compared,
            test images or groups (`image`, `group`).
        forbids: Why no conclusion may be drawn, in sentences; empty where one may.
        next_step: What would decide more.
    """

    place: Mapping[str, Any]
    rows: pd.DataFrame = field(repr=False)
    best: str | None
    candidates: list[Candidate]
    others: list[Candidate]
    cheapest: dict[str, str]
    left_out: dict[str, str]
    fewest_seeds: int
    seeds: int
    units: int | None
    unit: str | None
    forbids: list[str]
    next_step: NextStep | None

    @property
    def choice(self) -> str | None:
        """The label of what to use: of the candidates that keep to the limits, the one that takes least memory."""
        return self.cheapest.get("memory")


def verdicts(table: pd.DataFrame, evidence: Mapping[str, Evidence], limits: Limits) -> Iterator[Verdict]:
    """The verdict of each place.

    Args:
        table: A summary as `significance.add_significance` gives it.
        evidence: By run id.
        limits: What a method must keep to.
    """
    for _, rows in table.groupby(["dataset_label", "block", "resolution"], sort=False, dropna=False):
        yield _verdict(rows, evidence, limits)


def _verdict(rows: pd.DataFrame, evidence: Mapping[str, Evidence], limits: Limits) -> Verdict:
    compared = compared_rows(rows)
    everyone = [_candidate(row, limits) for _, row in compared.iterrows()]
    candidates = [found for found in everyone if may(found, limits)]
    cheapest = _cheapest([found for found in candidates if found.fits is not False])
    return Verdict(
        place={name: rows[name].iloc[0] for name in ("dataset", "dataset_label", "block", "resolution")},
        rows=rows,
        best=everyone[0].label if everyone else None,
        candidates=candidates,
        others=[found for found in everyone if found not in candidates],
        cheapest=cheapest,
        left_out=dict(left_out(rows.drop(compared.index))),
        fewest_seeds=int(compared["seeds_ok"].min()) if len(compared) else 0,
        seeds=int(compared["seeds_ok"].max()) if len(compared) else 0,
        units=_whole(compared["auc_num_units"].max()) if len(compared) else None,
        unit=_known(compared["auc_unit"].dropna().iloc[0]) if compared["auc_unit"].notna().any() else None,
        forbids=list(forbids(rows, compared, limits)),
        next_step=next_step(compared, cheapest.get("memory"), evidence),
    )


def compared_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of methods all of whose seeds finished, by AUC, the highest first."""
    compared = rows[rows["complete"] & rows["auc_mean"].notna()]
    return compared.sort_values("auc_mean", ascending=False, kind="stable")


def _candidate(row: pd.Series, limits: Limits) -> Candidate:
    memory = _whole(row["memory_bytes"])
    parameters = _whole(row["trainable_total"])
    # Where nothing trains there is no time of training, and what is kept instead of weights is not counted.
    seconds = _known(row["preload_seconds"]) if parameters == 0 else _sum(row["seconds_train"], row["preload_seconds"])
    return Candidate(
        label=str(row["label"]),
        method=str(row["method"]),
        auc=float(row["auc_mean"]),
        low=_known(row["auc_low"]),
        high=_known(row["auc_high"]),
        to_best=_known(row["vs_best_change"]),
        p_best=_known(row["vs_best_p"]),
        to_full=_known(row["vs_full_change"]),
        to_full_low=_known(row["vs_full_low"]),
        to_full_high=_known(row["vs_full_high"]),
        not_inferior=not_inferior(row, limits.margin),
        memory_bytes=memory,
        memory_source=_known(row["memory_source"]),
        parameters=parameters,
        seconds=seconds,
        storage_bytes=_BYTES_A_PARAMETER * parameters if parameters else None,
        fits=_fits(memory, seconds, limits),
    )


def _fits(memory: int | None, seconds: float | None, limits: Limits) -> bool | None:
    """Whether a method keeps to the limits on card and hours; None where what one of them asks for is not known."""
    kept: list[bool | None] = []
    if limits.card_bytes is not None:
        kept.append(None if memory is None else limits.needed_bytes(memory) <= limits.card_bytes)
    if limits.hours is not None:
        kept.append(None if seconds is None else seconds <= 3600 * limits.hours)
    return None if None in kept else all(kept)


def not_inferior(row: pd.Series, margin: float | None) -> bool | None:
    """Whether a row of the summary is shown to lie within a margin (0-1) of full fine-tuning; None: not tested."""
    if margin is None:
        return None
    if row["is_full"]:
        return True
    low = _known(row["vs_full_low"])
    return None if low is None else low > -margin


def may(found: Candidate, limits: Limits) -> bool:
    """Whether a method is among those to choose from."""
    if limits.margin is not None:
        return bool(found.not_inferior)
    return found.p_best is None or found.p_best > LEVEL


def _cheapest(candidates: list[Candidate]) -> dict[str, str]:
    """By each cost the cheapest, where it is known of all.

    Memory is compared where all that is known of it is measured, or all predicted.
    """
    cheapest: dict[str, str] = {}
    for cost, name in (("parameters", "parameters"), ("time", "seconds"), ("storage", "storage_bytes")):
        if candidates and all(getattr(found, name) is not None for found in candidates):
            cheapest[cost] = min(candidates, key=attrgetter(name)).label
    lean = [found for found in candidates if found.memory_bytes is not None]
    if len({found.memory_source for found in lean}) == 1:
        cheapest["memory"] = min(lean, key=attrgetter("memory_bytes")).label
    return cheapest


def left_out(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Labels of methods that are not compared, and why."""
    words = {"oom": "out of memory", "diverged": "diverged", "failed": "failed", "interrupted": "was interrupted"}
    for _, row in rows.iterrows():
        if row["code_mix"] is not None and not pd.isna(row["code_mix"]):
            yield str(row["label"]), "different code has trained its runs"
        elif row["state"] == "ok":
            yield str(row["label"]), f"only {row['seeds_ok']} of {row['seeds_asked']} seeds finished"
        else:
            yield str(row["label"]), words.get(row["state"], str(row["state"]))


def forbids(rows: pd.DataFrame, compared: pd.DataFrame, limits: Limits) -> Iterator[str]:
    """Why no conclusion may be drawn, the gravest first.

    Args:
        rows: All of a place.
        compared: Those that `compared_rows` gives.
        limits: What was asked for.
    """
    if rows["synthetic"].any():
        yield "images that a program drew rank no method"
    if (rows["weights_source"] == "none").any():
        yield "random weights are no pretrained backbone"
    if rows["fallback"].any():
        yield "a fallback backbone stands in for the one asked for"
    if len(compared) < 2:
        yield f"{'one method' if len(compared) else 'no method'} finished all its seeds: there is nothing to compare"
        return
    fewest = compared["auc_fewest_units"].min()
    if pd.isna(fewest):
        yield "predictions are missing, so that nothing can be tested"
    elif fewest < FEWEST:
        yield f"the rarest class has {fewest} test {_units(compared)}: with fewer than {FEWEST} nothing is compared"
    elif fewest < FEW_UNITS:
        yield f"the rarest class has {fewest} test {_units(compared)}: under {FEW_UNITS} all this is rough"
    if compared["seeds_ok"].min() < 2:
        yield "one seed: this is of these trained models, and training anew may turn it round"
    if limits.margin is not None and not compared["is_full"].any():
        yield "full fine-tuning has no result here, so that the margin cannot be tested"
    failed = rows[(rows["seeds_failed"] + rows["seeds_interrupted"]) > 0]["label"]
    if len(failed):
        yield f"runs failed or were interrupted: {', '.join(failed)}"
    for column, why in (
        ("tuned_at_edge", "the best learning rate lies at the edge of its grid"),
        ("unconverged", "training had not converged"),
    ):
        marked = compared[compared[column].fillna(False).astype(bool)]["label"]
        if len(marked):
            yield f"{why}: {', '.join(marked)}"
    if (rows["leaks"].fillna(0) > 0).any():
        yield "images lie in two splits, so that scores may be too high"
    if (rows[f"seeds_{DAMAGED}"] > 0).any():
        yield "stored runs are damaged and were left out"


def _units(rows: pd.DataFrame) -> str:
    return "patients (or other groups)" if (rows["auc_unit"] == "group").any() else "images"


def _known(value: Any) -> Any:
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _whole(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)


def _sum(*values: Any) -> float | None:
    """The first and whatever else is known; None where the first is not."""
    if pd.isna(values[0]):
        return None
    return float(math.fsum(value for value in values if not pd.isna(value)))
