"""Sections of the page that are tables: how they are made, and those that are asked for: subgroups, ensembles."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.analysis.ensembles import ENSEMBLE
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.summary import blocks
from benchmarks.report.captions import ENSEMBLES, protocol, title
from benchmarks.report.columns import columns_of
from benchmarks.report.entries import Column
from benchmarks.report.subgroups import make_subgroups
from benchmarks.report.table_parts import TablePart

Panel = dict[str, Any]


class Shown(NamedTuple):
    """What a page shows.

    Attributes:
        results: Its results root.
        frame: Its runs, as `records.runs_frame` gives them.
        evidence: Theirs.
        table: Their summary, with significance and scores.
        scores: Names of those beside AUC.
        mix_code: Whether runs that different code has trained are averaged.
    """

    results: Path
    frame: pd.DataFrame
    evidence: Mapping[str, Evidence]
    table: pd.DataFrame
    scores: Sequence[str]
    mix_code: bool


Sections = dict[str, list[Any]]  # `use`: panels; `wrong`: at most one, see `page_wrong`
MakeSections = Callable[[Shown], tuple[Sections, list[str]]]
"""Sections, and a line for each thing that cannot be shown."""


def panel(name: str, heading: str, said: str, tables: Iterable[dict[str, Any]]) -> Panel:
    """A section.

    Args:
        name: Its id on the page.
        heading: Its title.
        said: How to read it.
        tables: Of each a `caption`, `columns`, and `rows` of `cells` with what the page's filters know of them:
            `label`, `resolution`, `dataset`, `block`.
    """
    return {"id": name, "title": heading, "said": said, "tables": list(tables)}


def panel_table(part: TablePart) -> dict[str, Any]:
    """A table of results on the page: all its columns, that of methods first, and the image side behind it."""
    names = [column for column in part.columns if column.header == "Method"]
    others = [column for column in part.columns if column not in names]
    return {
        "caption": " ".join([f"{part.heading}. {protocol(part.rows)}.", *part.notes]),
        "columns": [names[0].header, "Image side", *(column.header for column in others)],
        "rows": [
            {
                **{"label": row["label"], "resolution": row["resolution"], "dataset": title(part.rows)},
                "block": row["block"],
                "cells": [_text(names[0], row), f"{row['resolution']} px", *(_text(column, row) for column in others)],
            }
            for _, row in part.rows.iterrows()
        ],
    }


def _text(column: Column, row: pd.Series) -> str:
    entry = column.entry(row)
    return entry.text + entry.mark


def subgroup_panels(columns: Sequence[str], data_root: Path) -> MakeSections:
    """A section for each column of manifests: what `tables --by` gives."""

    def make(shown: Shown) -> tuple[Sections, list[str]]:
        panels, problems = [], []
        for number, column in enumerate(dict.fromkeys(columns)):
            made, faults = make_subgroups(shown.results, shown.frame, column, data_root, shown.scores, shown.mix_code)
            panels += [
                panel(f"by-{number}", f"By {column}", found.how, map(panel_table, found.parts)) for found in made
            ]
            problems += faults
        return {"use": panels}, problems

    return make


def ensemble_panels(add: Callable[[Shown], pd.DataFrame]) -> MakeSections:
    """A section of ensembles beside the methods that they are made of.

    Args:
        add: Gives the summary of what is shown with rows of ensembles, as `ensembles.add_ensembles` does.
    """

    def make(shown: Shown) -> tuple[Sections, list[str]]:
        tables = [panel_table(_with_their_methods(block)) for block in blocks(add(shown))]
        return {"use": [panel("ensembles", "Ensembles", ENSEMBLES, (one for one in tables if one["rows"]))]}, []

    return make


def _with_their_methods(block: pd.DataFrame) -> TablePart:
    """Ensembles of a block and finished methods at the same resolutions, in the columns that ensembles fill."""
    ensembles = block[block["state"] == ENSEMBLE]
    beside = block["resolution"].isin(ensembles["resolution"]) & block["state"].isin(["ok", ENSEMBLE])
    columns = [
        column
        for column in columns_of(block)
        if column.header == "Method" or any(column.entry(row).text != "–" for _, row in ensembles.iterrows())
    ]
    notes = list(block["soup_said"].dropna()) if "soup_said" in block else []
    return TablePart(title(block), block[beside].sort_values("resolution", kind="stable"), columns, notes)
