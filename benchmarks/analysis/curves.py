"""ROC, precision-recall and reliability curves of runs on fixed grids, with bands; kept as scores are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax

from benchmarks.analysis.calibration import NUM_BINS, bins, scaled
from benchmarks.analysis.extra_scores import cumulated, positives
from benchmarks.analysis.influence import Floats, Integers
from benchmarks.analysis.kept import FOLDER, Arrays, Kept, load_kept
from benchmarks.analysis.run_scores import scored
from benchmarks.scores import log_odds

GRID = np.linspace(0, 1, 41)  # of false-positive rate, and of recall
KINDS = ("roc", "pr", "reliability", "scaled")
_NUM_RESAMPLES = 40  # a band from as many is itself off by a tenth
_LAYOUT = "curves-3"
_NORMAL = 1.96


class Curves(NamedTuple):
    """The curves of a run by kind, each `(rows, points)`: rows of values, and their standard deviation over images.

    roc: sensitivity over `GRID`; pr: precision over it; reliability and, with the fitted temperature, scaled: accuracy
    of each bin of confidence, its mean confidence and its share of images; nan where a bin is empty.
    """

    values: dict[str, Floats]
    deviations: dict[str, Floats]


class Band(NamedTuple):
    """A mean over seeds and half the width of its 95 % band, both `(points,)`; `beside`: other means, a row each."""

    mean: Floats
    half: Floats
    beside: Floats


def roc_and_pr(labels: Integers, logits: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Sensitivity over false-positive rates, and precision over recalls, means over classes `(W, points)` each.

    Sensitivity is the highest at a rate no larger, precision that of the highest threshold with a recall no smaller.
    """
    odds = log_odds(logits)
    parts = []
    for index in positives(logits.shape[1]):
        hits, false_alarms = cumulated(labels == index, odds[:, index], weights)
        called = hits + false_alarms
        precision = hits / np.where(called > 0, called, 1)
        recall, fpr = (np.minimum(part / part[:, -1:], 1) for part in (hits, false_alarms))
        start = np.zeros((len(weights), 1))
        roc = np.take_along_axis(np.append(start, recall, axis=1), _places(fpr, GRID + 1e-12, "right"), axis=1)
        pr = np.take_along_axis(precision, _places(recall, np.maximum(GRID - 1e-12, 1e-12), "left"), axis=1)
        parts.append((roc, pr))
    rocs, prs = (np.mean(each, axis=0) for each in zip(*parts, strict=True))
    return rocs, prs


def _places(rising: Floats, points: Floats, side: Literal["left", "right"]) -> Integers:
    """As `searchsorted` of points in each row of shares, all rows in one call `(W, n), (points,) -> (W, points)`.

    Rows are set two apart, which rounds them a hundred times less than the points stand off the shares that they mean.
    """
    apart = 2.0 * np.arange(len(rising))[:, None]
    found = np.searchsorted((rising + apart).ravel(), points + apart, side)
    return np.asarray(found - np.arange(len(rising))[:, None] * rising.shape[1])


def reliability(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    """Accuracy, mean confidence and share of images of each bin of confidence `(W, 3, NUM_BINS)`; nan of empty bins."""
    confidences = probabilities.max(axis=1)
    members = np.eye(NUM_BINS)[bins(confidences)]
    hits = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    counts = weights @ members
    sums = [weights @ (members * values[:, None]) for values in (hits, confidences)]
    filled = np.where(counts > 0, counts, np.nan)
    return np.stack([*(part / filled for part in sums), counts / weights.sum(axis=1, keepdims=True)], axis=1)


def make_curves(data: bytes) -> Curves:
    """The curves of the test split of a file of predictions.

    Of findings ROC and precision-recall curves are means over them, and confidences are taken all together.
    """
    found = scored(data)
    weights = np.concatenate([np.ones((1, len(found.test.units))), found.weights(_NUM_RESAMPLES)])
    by_part = [roc_and_pr(part.labels, logits, weights[:, part.rows]) for part, logits, _ in found.parts]
    roc, pr = (np.mean(curves, axis=0) for curves in zip(*by_part, strict=True))
    labels = np.concatenate([part.labels for part, _, _ in found.parts])
    counted = np.concatenate([weights[:, part.rows] for part, _, _ in found.parts], axis=1)
    plain = np.concatenate([softmax(logits, axis=1) for _, logits, _ in found.parts])
    made = {"roc": roc[:, None], "pr": pr[:, None], "reliability": reliability(labels, plain, counted)}
    if not any(np.isnan(fitted.temperature) for _, _, fitted in found.parts):
        fitting = np.concatenate([scaled(logits, fitted.temperature) for _, logits, fitted in found.parts])
        made["scaled"] = reliability(labels, fitting, counted)
    values = {kind: curve[0] for kind, curve in made.items()}
    deviations = {kind: _deviation(curve[1:, 0]) for kind, curve in made.items()}
    for kind in set(made) & {"reliability", "scaled"}:
        accuracy, _, share = values[kind]
        deviations[kind] = np.where(deviations[kind] > 0, deviations[kind], _of_few(accuracy, share * len(labels)))
    return Curves(values, deviations)


def _of_few(accuracy: Floats, number: Floats) -> Floats:
    """The standard error of accuracies of which resamples show no spread, such as 100 % of three images.

    Source: Agresti, Coull, The American Statistician 52 (1998), 119-126.
    """
    share = (np.nan_to_num(accuracy) * number + 2) / (number + 4)
    return np.asarray(np.sqrt(share * (1 - share) / (number + 4)))


def _deviation(drawn: Floats) -> Floats:
    """Over resamples, without those that leave a point empty `(W, points) -> (points,)`; 0 where fewer than two do."""
    known = ~np.isnan(drawn)
    number = known.sum(axis=0)
    mean = np.where(known, drawn, 0).sum(axis=0) / np.maximum(number, 1)
    squares = np.where(known, (drawn - mean) ** 2, 0).sum(axis=0)
    return np.asarray(np.sqrt(squares / np.maximum(number - 1, 1)))


def load_curves(results: Path, frame: pd.DataFrame) -> dict[str, Curves]:
    """The curves of finished runs whose predictions can be read; what cannot, `evidence.load_evidence` names."""
    kept = Kept(results / FOLDER, _LAYOUT, _made)
    return load_kept(kept, results, frame[frame["state"] == "ok"], lambda _, arrays: _unpack(arrays))[0]


def _unpack(arrays: Arrays) -> Curves:
    values, deviations = (
        {kind: arrays[f"{kind}.{part}"] for kind in KINDS if f"{kind}.{part}" in arrays}
        for part in ("values", "deviations")
    )
    return Curves(values, deviations)


def _made(data: bytes) -> Arrays:
    curves = make_curves(data)
    arrays = {f"{kind}.values": values for kind, values in curves.values.items()}
    arrays |= {f"{kind}.deviations": values for kind, values in curves.deviations.items()}
    return {name: np.ascontiguousarray(values, np.float32) for name, values in arrays.items()}


def band(runs: Sequence[Curves], kind: str) -> Band | None:
    """The mean of a curve over seeds with its band; None where a run has none.

    The variance is that over images of one seed, as if all seeds erred alike, and that of a mean over seeds: together
    no less than it is.
    """
    if not all(kind in run.values for run in runs):
        return None
    values = np.array([run.values[kind] for run in runs], dtype=np.float64)  # (S, rows, points)
    known = ~np.isnan(values)
    number = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / number
    spread = np.where(known, (values - mean) ** 2, 0).sum(axis=0)[0] / np.maximum(number[0] - 1, 1) / number[0]
    images = np.mean([np.square(run.deviations[kind], dtype=np.float64) for run in runs], axis=0)
    empty = ~known.any(axis=0)
    mean[empty] = np.nan
    return Band(mean[0], _NORMAL * np.sqrt(images + spread), mean[1:])
