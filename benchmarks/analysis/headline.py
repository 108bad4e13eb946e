"""The headline metric of a dataset, by which its methods are ranked, and the scores that a table asks for with it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.analysis.extra_scores import SCORES
from benchmarks.analysis.run_scores import RunScores, load_scores
from benchmarks.analysis.score_intervals import RECORDED, add_scores
from benchmarks.choices import AUC, HEADLINES, SCORE_FAMILIES, one_of

ALL = "all"


def chosen_scores(families: Iterable[str]) -> list[str]:
    """The scores of families, `all` among them, in the order of `SCORES`.

    Raises:
        UserError: There is no such family.
    """
    asked = [one_of("metrics", (*SCORE_FAMILIES, ALL), family) for family in families]
    names = {name for family in (SCORE_FAMILIES if ALL in asked else asked) for name in SCORE_FAMILIES[family]}
    return [name for name in SCORES if name in names]


class Wanted(NamedTuple):
    """The scores that a table asks for: their names, those of runs, and a line for each file that cannot be read."""

    names: list[str]
    runs: Mapping[str, RunScores]
    problems: list[str]


NOTHING = Wanted([], {}, [])


def load_wanted(results: Path, frame: pd.DataFrame, families: Iterable[str] = ()) -> Wanted:
    """Reads the scores of families of all runs, and headline metrics of the runs on their datasets.

    Args:
        results: The results root.
        frame: Its runs, as `records.runs_frame` gives them.
        families: Of scores, `all` among them.

    Raises:
        UserError: There is no such family.
    """
    names = chosen_scores(families)
    known = frame["metric"].isin([name for name in HEADLINES if name != AUC])
    headlines = {name for metric in frame.loc[known, "metric"].unique() for name in _resolved(metric)}
    if not names and not headlines:
        return NOTHING
    runs, problems = load_scores(results, frame, None if names else set(frame.loc[known, "run_id"]))
    return Wanted([name for name in SCORES if name in headlines | set(names)], runs, problems)


def with_scores(table: pd.DataFrame, wanted: Wanted) -> pd.DataFrame:
    """A summary with the scores that are wanted; see `score_intervals.add_scores`."""
    return add_scores(table, wanted.runs, wanted.names) if wanted.names and len(table) else table


def _resolved(metric: str) -> tuple[str, ...]:
    """The scores that a metric may be: of kappa what the dataset declares."""
    return SCORE_FAMILIES["kappa"] if metric == "kappa" else (metric,)


def headline_of(rows: pd.DataFrame) -> str:
    """The headline metric that runs on one dataset agree in, `auc` or of `SCORES`; AUC where they do not say it."""
    found = [metric for metric in rows["metric"].dropna().unique() if metric in HEADLINES]
    if len(found) != 1 or found[0] == AUC:
        return AUC
    names = _resolved(found[0])
    return next((name for name in names if name not in RECORDED or rows[f"{name}_mean"].notna().any()), names[0])


def unclear(rows: pd.DataFrame) -> str:
    """Why runs on one dataset are ranked by AUC though they name another metric, in one sentence; empty if not."""
    found = [str(metric) for metric in rows["metric"].dropna().unique()]
    if set(found) <= set(HEADLINES) and len(found) < 2:
        return ""
    return f"Ranked by AUC, as the headline metric of these runs is {' and '.join(map(repr, found))}."


def headline_scores(table: pd.DataFrame) -> "pd.Series[float]":
    """Of each row its dataset's headline metric, made such that more is better."""
    values = pd.Series(float("nan"), index=table.index, dtype="float64")
    for _, rows in table.groupby("dataset_label", sort=False):
        metric = headline_of(rows)
        sign = 1 if metric == AUC else SCORES[metric].better
        values[rows.index] = sign * rows[f"{metric}_mean"].astype("float64")
    return values
