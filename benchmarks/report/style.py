"""How our figures look: sizes of a printed column, one style a method, and which of many a figure names."""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.analysis.summary import method_rank
from methods import TITLES, idea_of

COLUMN, PAGE = 3.5, 7.0  # inches: widths of a column and of a page in print
FONT_SIZE = 7  # points, the smallest that journals accept
# Okabe-Ito, with a wine red for its yellow, which is lost on white paper; its black is full fine-tuning's alone. Seven
# colours and twelve markers, counted on together, meet again after 84 places, and neighbours differ in both. The last
# marker is full fine-tuning's too.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#882255")
_MARKERS = ("s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "d", "o")
_DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), "-")
MANY = 12  # labels of a figure from which it names a few of them, and draws the others grey


class Style(NamedTuple):
    """What tells a method from the others, in colour and without."""

    colour: str
    marker: str
    dashes: Any


FULL = Style("#000000", "o", "-")
GREY = Style("#B8B8B8", "o", "-")  # of what a figure of many does not name


def styles(labels: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for each (method, label), whatever else is shown: that of its method's place in the table of methods.

    Further variants of a method, and methods that only stored records know, take the places after the table's.
    """
    ordered = sorted(set(labels), key=lambda pair: (method_rank(pair[0]), pair[1]))
    own = {name: nth_style(place) for place, name in enumerate(name for name in TITLES if name != "full")}
    own["full"] = FULL
    after = itertools.count(len(own) - 1)
    return {label: own.pop(method) if method in own else nth_style(next(after)) for method, label in ordered}


def nth_style(place: int) -> Style:
    """A style for each place, neighbours differing in all of it."""
    return Style(*(looks[place % len(looks)] for looks in (_COLOURS, _MARKERS, _DASHES)))


def few_of_many(rows: pd.DataFrame, score: str, better: int) -> set[str]:
    """The labels that a figure names: all while they are few, else full fine-tuning and the best of each idea.

    Args:
        rows: with `method`, `label` and the score; a label may have several rows.
        score: a column; the label with the best mean over its rows is the best, among those with the most rows.
        better: 1 where more of it is better, -1 where less is.
    """
    labels = set(rows["label"])
    if len(labels) <= MANY:
        return labels
    known = rows[rows[score].notna()]
    found = known.assign(idea=known["method"].map(idea_of)).groupby(["idea", "label"])[score].agg(["count", "mean"])
    ordered = found.assign(mean=better * found["mean"].astype("float64")).sort_values(["count", "mean"])
    return set(ordered.reset_index().groupby("idea")["label"].last())


def said_of_few(num_grey: int, named: str) -> str:
    """What a caption says of labels that are not named; nothing where all are."""
    return f" Named: {named}; grey: the {num_grey} others, all of them in the tables." if num_grey else ""


OF_EACH_IDEA = "full fine-tuning and the {} of each idea"
