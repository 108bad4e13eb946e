"""What figures say about themselves: what whiskers are, which marks points carry, and the caption."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.report.captions import (
    AUC_MARKS,
    BAD_STATES,
    CODE,
    EDGE,
    FALLBACK,
    FEW,
    FEWER_SEEDS,
    INCIDENT,
    LOST,
    STATE_WORDS,
    UNCONVERGED,
    auc_marks,
    fallback_notes,
    footnotes,
    protocol,
    seeds_said,
    trials_said,
)

_LONGEST = 160  # letters of a note below a figure that names cells


def whiskers_said(block: pd.DataFrame) -> str:
    """What stands behind a point and its whiskers in a figure of AUC."""
    over = seeds_said(block)
    auc = f"AUC: mean over {over}" if over else "AUC of one seed, so of these trained models and no claim about methods"
    known = block.loc[block["auc_mean"].notna(), "auc_low"].notna() if "auc_low" in block else pd.Series(dtype=bool)
    sources = "images and seeds" if over else "images"
    lacking = "" if known.all() else "; where there is none, predictions are missing"
    interval = f"whiskers: its 95 % interval, over {sources}{lacking}" if known.any() else "no intervals are known"
    return f"{auc}; {interval}{trials_said(block)}"


def point_marks(row: Mapping[Any, Any] | pd.Series) -> str:
    """What the table flags in a cell, as it stands beside the cell's point: marks, and seeds where some are lacking."""
    failed = any(row[f"seeds_{state}"] for state in BAD_STATES)
    marks = [
        CODE * (not pd.isna(row["code_mix"])),
        EDGE * bool(row["tuned_at_edge"]),
        auc_marks(row),
        INCIDENT * failed,
    ]
    fewer = row["seeds_ok"] < row["seeds_asked"] and row["seeds_ok"] > 0
    return " ".join(filter(None, ["".join(marks), f"{row['seeds_ok']}/{row['seeds_asked']}" * fewer]))


def figure_caption(block: pd.DataFrame, what: str, of_auc: bool = True) -> str:
    """What a figure shows, under which protocol, with the notes of a fallback backbone and of marked points.

    Args:
        block: the cells that are drawn.
        what: the figure shows.
        of_auc: whether AUC is drawn; else what the table flags in it goes unsaid.
    """
    shown = (FALLBACK, CODE, EDGE, FEW, *AUC_MARKS, FEWER_SEEDS)
    incidents = _incidents(block)
    # A no-break space keeps the mark with its note.
    notes = [
        _briefly(note).removeprefix(f"{FEW} ").replace(" ", "\u00a0", 1)
        for note in (footnotes(block) if of_auc else fallback_notes(block))
        if note.startswith(shown)
    ]
    return " ".join([what, f"{protocol(block)}.", *notes, *[f"{INCIDENT}\u00a0{incidents}."] * bool(incidents)])


def _incidents(block: pd.DataFrame) -> str:
    """What did not finish, the cells of each method together; empty where everything did."""
    parts = []
    for state in BAD_STATES:
        cells = block[block[f"seeds_{state}"] > 0]
        where = [f"{label} at {_listed(rows['resolution'])} px" for label, rows in cells.groupby("label", sort=False)]
        parts += [f"{STATE_WORDS[state]}: {', '.join(where)}"] * bool(where)
    said = "; ".join(parts)
    said = said[:1].upper() + said[1:]
    return said if len(said) <= _LONGEST else "Runs that did not finish: as under the table"


def _listed(values: pd.Series) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def _briefly(note: str) -> str:
    """A note, without the cells that it names where these are too many for a figure; the table has them."""
    said, _, rest = note.partition(": ")
    cells, _, after = rest.rpartition(". ")
    if len(cells or rest) <= _LONGEST or not note.startswith((CODE, EDGE, UNCONVERGED, LOST, FEWER_SEEDS)):
        return note
    return f"{said}: as under the table. {after if cells else ''}".strip()
