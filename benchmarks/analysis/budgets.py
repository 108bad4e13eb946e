"""Runs in which nothing was trained by gradients: they have no budget, and stand beside runs of any."""

import pandas as pd

from benchmarks.records.frame import PROTOCOL

# What of a protocol says how long, and how, weights are trained.
BUDGET = ("epochs", "grad_checkpointing", "warmup_epochs", "decay_all", "optimizer", "frozen_weights", "keep_steps")
_REST = [name for name in PROTOCOL if name not in BUDGET]


def in_every_budget(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs, those without epochs once for each budget that others have whose protocol is the same else.

    So a nearest neighbour is compared with twenty epochs as with fifty. Without any such budget a run stays as it is.

    Args:
        runs: As `records.runs_frame` gives them; they stay in their order.
    """
    untrained = runs["epochs"].isna()
    if not untrained.any():
        return runs
    budgets = runs.loc[~untrained, list(PROTOCOL)].drop_duplicates()
    runs = runs.assign(place=range(len(runs)))
    found = runs[untrained].drop(columns=list(BUDGET)).merge(budgets, on=_REST)
    alone = runs[untrained & ~runs["place"].isin(found["place"])]
    parts = [part[runs.columns].astype(runs.dtypes) for part in (runs[~untrained], found, alone) if len(part)]
    return pd.concat(parts, ignore_index=True).sort_values("place", kind="stable").drop(columns="place")
