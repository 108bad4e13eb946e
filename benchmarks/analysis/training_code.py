"""Which code trained a run, and the cells whose runs different code has trained: those are no sample of one method."""

from typing import Any

import pandas as pd

LEFT_OUT, AVERAGED = "left out", "averaged"  # what becomes of the mean of such a cell
UNKNOWN = "unknown"


def add_code(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with columns that say which code trained them.

    Args:
        runs: as `records.runs_frame` gives them.

    Returns:
        The runs with `shared_code` and `own_code`, eight letters of the digests of what all methods share and of the
        method's own files, both `unknown` for a run stored before there were any, which no known code equals; `code`,
        the two together; and `code_words`, the shared code with version and commit.
    """
    shared, own = (runs[f"{name}_digest"].str[:8].fillna(UNKNOWN) for name in ("code", "method"))
    details = zip(shared, *(runs[name] for name in ("version", "commit", "dirty")), strict=True)
    words = pd.Series([_words(*detail) for detail in details], runs.index, dtype="object")
    return runs.assign(shared_code=shared, own_code=own, code=shared + " " + own, code_words=words)


def _words(shared: str, version: Any, commit: Any, dirty: Any) -> str:
    details = [] if pd.isna(version) else [f"version {version}"]
    details += [] if pd.isna(commit) else [f"commit {commit:.8}"]
    details += ["with changes"] if not pd.isna(dirty) and dirty else []
    return f"{shared} ({', '.join(details)})" if details else shared


def by_code(runs: pd.DataFrame) -> dict[str, list[str]]:
    """The ids of the runs that each code has trained; the code in words, its own files where these alone differ.

    Args:
        runs: of one cell, with the columns of `add_code`.
    """
    words = runs["code_words"]
    if runs["shared_code"].nunique() == 1:
        words = words + ", the method's files " + runs["own_code"]
    return {str(word): group.to_list() for word, group in runs["run_id"].groupby(words, sort=False)}


def differs(runs: pd.DataFrame, cell: list[str]) -> pd.Series:
    """Of each run whether other code has trained another run of its cell.

    Args:
        runs: with the columns of `add_code`.
        cell: the columns that name its cell.
    """
    return runs.groupby(cell, dropna=False)["code"].transform("nunique") > 1
