"""Which seeds count against a method: those that any other of its place was tried with, unless a rule left it out."""

import json

import numpy as np
import pandas as pd

_PLACE = ["block", "dataset", "dataset_digest", "resolution"]


def seeds_asked(runs: pd.DataFrame) -> pd.Series:
    """How many seeds the method of each run was to have at its place.

    A seed that a stopping rule asked of some methods only counts for these, and for whoever was tried with it.

    Args:
        runs: as `records.runs_frame` gives them, with their block.
    """
    by_place = runs.groupby(_PLACE, dropna=False)
    counts = by_place["seed"].transform("nunique").to_numpy(copy=True)
    by_rule = runs["stopping_asked"].notna().to_numpy()
    numbers = by_place.ngroup().to_numpy()
    for number in np.unique(numbers[by_rule]):
        place = np.flatnonzero(numbers == number)
        counts[place] = _at(runs.iloc[place])
    return pd.Series(counts, runs.index)


def _at(place: pd.DataFrame) -> list[int]:
    everyones = frozenset(place.loc[place["stopping_asked"].isna(), "seed"])
    of_some: dict[tuple[str, str], set[int]] = {}
    for asked, seeds in place.groupby("stopping_asked")["seed"]:
        for method, variant in json.loads(str(asked)):
            of_some.setdefault((method, variant), set()).update(seeds)
    keys = list(zip(place["method"], place["variant"], strict=True))
    for key, seed in zip(keys, place["seed"], strict=True):
        of_some.setdefault(key, set()).add(seed)
    return [len(everyones | of_some[key]) for key in keys]
