"""What a summary of cells gains from the scores of its runs: means, and intervals over images and seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.analysis.extra_scores import SCORES, Score
from benchmarks.analysis.inference import LEVEL, critical_value, variance_parts
from benchmarks.analysis.influence import Floats
from benchmarks.analysis.run_scores import RunScores

RECORDED = ("accuracy", "balanced_accuracy", "macro_f1", "kappa", "quadratic_kappa", "mae")  # whose means records tell
_TOLD_BY = {"mae": "quadratic_kappa"}  # of records from before there was this one: what says that classes are grades
_PARTS = ("mean", "sd", "low", "high", "se_images", "se_seeds")
_NOTHING = 1e-12


class ScoreInterval(NamedTuple):
    """The 95 % interval of a mean over seeds, and its standard error by source; `se_seeds` is None for one seed."""

    mean: float
    sd: float | None
    low: float
    high: float
    se_images: float
    se_seeds: float | None


def score_interval(name: str, runs: Sequence[RunScores]) -> ScoreInterval | None:
    """The interval of the mean of a score over runs that were tested, and resampled, alike; None if it is unknown."""
    place = list(SCORES).index(name)
    values, resampled = (np.array([getattr(run, part)[..., place] for run in runs]) for part in ("values", "resampled"))
    return mean_interval(SCORES[name], values, resampled, min(run.fewest for run in runs), runs[0].num_classes)


def mean_interval(
    score: Score, values: Floats, resampled: NDArray[Any], fewest: int, num_classes: int, level: float = LEVEL
) -> ScoreInterval | None:
    """The interval of the mean of a score over runs; None where a run has none.

    The variance over images is that of the mean over seeds in the same resamples; to it comes that over seeds, parted
    from each other as for AUC (`inference.variance_parts`). With both the interval is Wilson's of a share of as many
    images as would have that variance, within the range of the score; where resamples show no spread, as at 100 %, of
    as many as the rarest class has units.

    Args:
        score: What is averaged.
        values: Of the runs `(S,)`.
        resampled: The same in resamples that the runs share `(S, W)`.
        fewest: Units of the rarest class.
        num_classes: On which the range of a distance between grades depends.
        level: Two-sided.

    Source: Wilson, Journal of the American Statistical Association 22 (1927), 209-212; with an effective number: Dean,
    Pagano, Journal of Survey Statistics and Methodology 3 (2015), 484-503.
    """
    if np.isnan(values).any():
        return None
    resampled = resampled.astype(np.float64)
    each = resampled.var(axis=1, ddof=1).mean(keepdims=True)
    images = resampled.mean(axis=0).var(ddof=1, keepdims=True)
    parts = variance_parts(values[None], each, images)
    critical = float(critical_value(level, parts, 2 * fewest - 1)[0])
    high = num_classes - 1 if score.high is None else score.high
    mean, width = float(values.mean()), high - score.low
    share = min(max((mean - score.low) / width, 0.0), 1.0)
    variance = float(parts.images[0] + parts.seeds[0]) / width**2
    number = share * (1 - share) / variance if variance > _NOTHING and 0 < share < 1 else fewest
    low, high = _wilson(share, number, critical)
    several = len(values) > 1
    return ScoreInterval(
        mean, float(values.std(ddof=1)) if several else None, score.low + width * low, score.low + width * high,
        float(np.sqrt(parts.images[0])), float(np.sqrt(parts.seeds[0])) if several else None,
    )  # fmt: skip


def _wilson(share: float, number: float, critical: float) -> tuple[float, float]:
    squared = critical**2 / number
    middle = (share + squared / 2) / (1 + squared)
    half = np.sqrt(squared * share * (1 - share) + squared**2 / 4) / (1 + squared)
    return float(max(middle - half, 0)), float(min(middle + half, 1))


def add_scores(table: pd.DataFrame, scores: Mapping[str, RunScores], names: Sequence[str]) -> pd.DataFrame:
    """A summary with scores.

    Args:
        table: As `summary.summary` gives it.
        scores: By run id, as `run_scores.load_scores` gives them.
        names: Of `SCORES`.

    Returns:
        The table with, of each, {name}_mean and _sd (over seeds), _low and _high (95 % interval of the mean),
        _se_images and _se_seeds (its standard error by source). Missing where a run that is averaged has no
        predictions, or none for other images than another, and of kappa where the dataset declares the other one.
    """
    gained: dict[str, list[float | None]] = {f"{name}_{part}": [] for name in names for part in _PARTS}
    for _, row in table.iterrows():
        runs = cell_scores(row, scores)
        for name in names:
            declared = name not in RECORDED or not pd.isna(row[f"{_TOLD_BY.get(name, name)}_mean"])
            found = score_interval(name, runs) if runs and declared else None
            for part in _PARTS:
                gained[f"{name}_{part}"].append(None if found is None else getattr(found, part))
    columns = pd.DataFrame(gained, index=table.index, dtype="float64")
    known = [name for name in columns if name in table]  # means that records tell, also where predictions are gone
    return pd.concat([table, columns.drop(columns=known)], axis=1)


def cell_scores(row: "pd.Series[Any]", scores: Mapping[str, RunScores]) -> list[RunScores]:
    """The scores of a cell's averaged runs; empty where one has none, or other images than another."""
    run_ids = str(row["run_ids"]).split()
    found = [scores[run_id] for run_id in run_ids if run_id in scores]
    return found if len(found) == len(run_ids) and len({run.images for run in found}) == 1 else []
