"""What to use, as the page answers it for any card and margin: numbers and their words; the page only compares."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.next_step import next_steps
from benchmarks.analysis.verdict import Candidate, Limits, Verdict, compared_rows, forbids, may, not_inferior, verdicts
from benchmarks.choices import CARDS
from benchmarks.memory.needs import needed_bytes
from benchmarks.report.advice import (
    COSTS,
    MOST_NAMED,
    heading,
    interval,
    left_out_words,
    memory_words,
    next_words,
    points,
    why_not,
)

MARGINS = [step / 200 for step in range(21)]  # AUC (0-1) that can be given up on the page
_ATTRIBUTES = {"memory": "memory_bytes", "parameters": "parameters", "time": "seconds", "storage": "storage_bytes"}


def page_verdicts(
    table: pd.DataFrame, evidence: Mapping[str, Evidence], parts: Sequence[pd.DataFrame]
) -> dict[str, Any]:
    """The verdicts of all places, of whatever card and margin.

    Args:
        table: A summary as `significance.add_significance` gives it.
        evidence: By run id.
        parts: Those of the table, by dataset and protocol, by whose numbers the page knows them.

    Returns:
        `margins`: that can be asked for; `most_named`: methods in a sentence; `costs`: words for the cheapest;
        `cards`: names by GB; `places`: see `_place`.
    """
    numbers = {(part["dataset_label"].iloc[0], part["block"].iloc[0]): number for number, part in enumerate(parts)}
    found = verdicts(table, evidence, Limits()) if len(table) else ()
    return {
        "margins": MARGINS,
        "most_named": MOST_NAMED,
        "costs": COSTS,
        "cards": card_names(),
        "places": [
            {"group": numbers[verdict.place["dataset_label"], verdict.place["block"]]} | _place(verdict, evidence)
            for verdict in found
        ],
    }


def card_names() -> dict[str, list[str]]:
    """Names of common cards by the GB that they are sold with, as text."""
    named: dict[int, list[str]] = {}
    for card, sizes in CARDS.items():
        for size in sizes:
            named.setdefault(size, []).append(_card_name(card))
    return {str(size): named[size] for size in sorted(named)}


def _card_name(card: str) -> str:
    """`rtx4060ti` as vendors write it: RTX 4060 Ti."""
    name = re.sub(r"^(rtx|gtx|titan)", r"\1 ", card).upper().replace("TITAN", "Titan")
    return re.sub(r"(?<=\d)TI$", " Ti", name)


def _place(verdict: Verdict, evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """A verdict.

    Returns:
        `resolution`, `heading`; `best`: its label or None; `methods`: see `_method`; `left_out`: a sentence or None;
        `forbids`: why no conclusion may be drawn, and `forbids_margin` where a margin is asked for; `next`: pairs of
        the label of a choice and a sentence, the first for any other choice.
    """
    rows = compared_rows(verdict.rows)
    by_label = {found.label: found for found in (*verdict.candidates, *verdict.others)}
    compared = [by_label[label] for label in rows["label"]]
    ranks = {cost: _ranks([getattr(found, name) for found in compared]) for cost, name in _ATTRIBUTES.items()}
    asked = list(forbids(verdict.rows, rows, Limits(margin=0.0)))
    steps = next_steps(rows, evidence)
    return {
        "resolution": verdict.place["resolution"],
        "heading": heading(verdict),
        "best": verdict.best,
        "methods": [
            _method(found, row) | {"ranks": {cost: ranks[cost][number] for cost in ranks}}
            for number, (found, (_, row)) in enumerate(zip(compared, rows.iterrows(), strict=True))
        ],
        "left_out": left_out_words(verdict) if verdict.left_out else None,
        "forbids": verdict.forbids,
        "forbids_margin": None if asked == verdict.forbids else asked,
        "next": [[label, None if step is None else next_words(step)] for label, step in steps.items()],
    }


def _method(found: Candidate, row: pd.Series) -> dict[str, Any]:
    """A method in words, and what decides whether it is among those to choose from.

    Returns:
        `label`, `auc`, `interval`, `memory`, `source`: in words; `needs`: bytes that a card must have; `alike`: whether
        it is not told apart from the best, else `why`; `margin`: the number of the first of `MARGINS` that it is shown
        to lie within, None where there is none, and `why_margin` it is not within less. What is not known is None.
    """
    return {
        **{"label": found.label, "auc": points(found.auc), "interval": interval(found)},
        **{"memory": memory_words(found), "source": found.memory_source},
        "needs": None if found.memory_bytes is None else needed_bytes(found.memory_bytes),
        **{"alike": may(found, Limits()), "why": why_not(found, Limits())},
        "margin": next((number for number, margin in enumerate(MARGINS) if not_inferior(row, margin)), None),
        "why_margin": why_not(found, Limits(margin=0.0)),
    }


def _ranks(costs: Sequence[float | None]) -> list[int | None]:
    """Of each its place among them, the cheapest first, the same for the same; None where it is not known."""
    order = sorted({cost for cost in costs if cost is not None})
    return [None if cost is None else order.index(cost) for cost in costs]
