"""Scores beside AUC, each of a test split and of many resamples of it at once; arrays only.

What is of one class (AUPRC, partial AUC, sensitivity) is of the second of two classes, which is taken for the positive
one; of more classes the mean over them, one against the rest. Shapes: n images, C classes, W rows of weights.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from benchmarks.analysis.calibration import (
    brier,
    calibration_error,
    classwise_calibration_error,
    scaled,
    temperature,
)
from benchmarks.analysis.influence import Floats, Integers
from benchmarks.scores import log_odds

MOST_FPR = 0.1  # to which the partial AUC goes
SPECIFICITIES = {"sensitivity_90": 0.90, "sensitivity_95": 0.95}
_ELEMENTS = 2**20  # of weights at a time, so that many resamples of many images take no gigabytes


class Score(NamedTuple):
    """What a score is.

    title: in the head of a table. better: 1 where more is better, -1 where less is. low, high: its range; of grades to
    the number of classes less one, where high is None. percent: whether it is shown in percent.
    """

    title: str
    better: int
    low: float = 0.0
    high: float | None = 1.0
    percent: bool = True


SCORES = {
    "auprc": Score("AUPRC", 1),
    "partial_auc": Score(f"Partial AUC, FPR to {MOST_FPR}", 1, -1),
    "sensitivity_90": Score("Sensitivity at 90 % specificity", 1),
    "sensitivity_95": Score("Sensitivity at 95 % specificity", 1),
    "mcc": Score("MCC", 1, -1, percent=False),
    "kappa": Score("Kappa, no weights", 1, -1, percent=False),
    "quadratic_kappa": Score("Kappa, quadratic", 1, -1, percent=False),
    "mae": Score("Mean absolute error", -1, 0, None, percent=False),
    "accuracy": Score("Accuracy", 1),
    "balanced_accuracy": Score("Balanced accuracy", 1),
    "macro_f1": Score("Macro F1", 1),
    "brier": Score("Brier", -1, 0, 2, percent=False),
    "brier_scaled": Score("Brier, scaled", -1, 0, 2, percent=False),
    "ece": Score("ECE", -1),
    "ece_scaled": Score("ECE, scaled", -1),
    "classwise_ece": Score("Classwise ECE", -1),
    "classwise_ece_scaled": Score("Classwise ECE, scaled", -1),
}


class Fitted(NamedTuple):
    """What validation decides of a run: the temperature of its logits, and thresholds of log-odds `(C,)` by score.

    Of a split that lacks what tells them: nan.
    """

    temperature: float
    thresholds: dict[str, Floats]


def fit(labels: Integers, logits: Floats) -> Fitted:
    """Fits the temperature and the thresholds to the validation split.

    Args:
        labels: Class indices `(n,)`
        logits: `(n, C)`
    """
    num_classes = logits.shape[1]
    if len(labels) == 0:
        return Fitted(np.nan, {name: np.full(num_classes, np.nan) for name in SPECIFICITIES})
    odds = log_odds(logits)
    thresholds = {
        name: np.array([threshold(labels == index, odds[:, index], share) for index in range(num_classes)])
        for name, share in SPECIFICITIES.items()
    }
    return Fitted(temperature(labels, logits), thresholds)


def threshold(mine: NDArray[np.bool_], scores: Floats, specificity: float) -> float:
    """The lowest score that, called positive with all above it, leaves such a share of the others negative.

    Infinite where only calling nothing positive does; nan where there are no others.
    """
    others = np.sort(scores[~mine])
    if len(others) == 0:
        return float("nan")
    candidates = np.unique(scores)
    kept = np.searchsorted(others, candidates, "left") / len(others)
    enough = candidates[kept >= specificity - 1e-12]
    return float(enough[0]) if len(enough) else float("inf")


def extra_scores(
    labels: Integers,
    logits: Floats,
    weights: Floats,
    fitted: Fitted,
    called: Integers | None = None,
    positive: int | None = None,
) -> Floats:
    """All of `SCORES`, in their order, for each row of weights.

    Args:
        labels: Class indices `(n,)` of the test split.
        logits: `(n, C)`, finite.
        weights: Of the images `(W, n)`; in each row every class has some.
        fitted: To the validation split.
        called: The class that each image is called `(n,)`; None for the likeliest.
        positive: The class that F1 is of; None for the mean over all.

    Shape:
        - Output: `(W, len(SCORES))`
    """
    answers = logits.argmax(axis=1) if called is None else called
    rows = max(_ELEMENTS // weights.shape[1], 1)
    parts = [
        _scores(labels, logits, weights[i : i + rows], fitted, answers, positive) for i in range(0, len(weights), rows)
    ]
    return np.concatenate(parts)


def _scores(
    labels: Integers, logits: Floats, weights: Floats, fitted: Fitted, called: Integers, positive: int | None
) -> Floats:
    odds = log_odds(logits)
    found = one_against_rest(labels, odds, weights, fitted)
    found |= of_confusion(weighted_confusion(labels, called, weights, logits.shape[1]), positive)
    known = not np.isnan(fitted.temperature)
    probabilities = {"": softmax(logits, axis=1)}
    probabilities |= {"_scaled": scaled(logits, fitted.temperature)} if known else {}
    for suffix, values in probabilities.items():
        found[f"brier{suffix}"] = brier(labels, values, weights)
        found[f"ece{suffix}"] = calibration_error(labels, values, weights)
        found[f"classwise_ece{suffix}"] = classwise_calibration_error(labels, values, weights)
    missing = np.full(len(weights), np.nan)
    return np.stack([found.get(name, missing) for name in SCORES], axis=1)


def positives(num_classes: int) -> range:
    """The classes that what is of one class is averaged over: of two the second."""
    return range(1, 2) if num_classes == 2 else range(num_classes)


def one_against_rest(labels: Integers, odds: Floats, weights: Floats, fitted: Fitted) -> dict[str, Floats]:
    """What is of one class, each `(W,)`."""
    parts: dict[str, list[Floats]] = {name: [] for name in ("auprc", "partial_auc", *SPECIFICITIES)}
    for index in positives(odds.shape[1]):
        mine = labels == index
        hits, false_alarms = cumulated(mine, odds[:, index], weights)
        parts["auprc"].append(average_precision(hits, false_alarms))
        parts["partial_auc"].append(partial_auc(hits, false_alarms))
        for name, limits in fitted.thresholds.items():
            called = mine & (odds[:, index] >= limits[index])
            share = weights @ called / (weights @ mine)
            parts[name].append(np.where(np.isnan(limits[index]), np.nan, share))
    return {name: np.mean(values, axis=0) for name, values in parts.items()}


def cumulated(mine: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of the class, and of the others, at or above each distinct score, the highest first `(W, distinct)`."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    ordered = weights[:, order]
    own = np.cumsum(ordered * mine[order], axis=1)[:, ends]
    return own, np.cumsum(ordered, axis=1)[:, ends] - own


def average_precision(hits: Floats, false_alarms: Floats) -> Floats:
    """The mean of precision over the steps of recall `(W,)`, as scikit-learn's `average_precision_score`."""
    called = hits + false_alarms
    precision = hits / np.where(called > 0, called, 1)
    steps = np.diff(hits, axis=1, prepend=0)
    return np.asarray((steps * precision).sum(axis=1) / hits[:, -1])


def partial_auc(hits: Floats, false_alarms: Floats, most: float = MOST_FPR) -> Floats:
    """The area under the ROC curve up to a false-positive rate, from 0.5 for chance to 1 for all `(W,)`.

    Source: McClish, Medical Decision Making 9 (1989), 190-195; scikit-learn's `roc_auc_score(max_fpr=0.1)`.
    """
    tpr, fpr = (np.pad(part / part[:, -1:], ((0, 0), (1, 0))) for part in (hits, false_alarms))
    widths = np.diff(fpr, axis=1)
    inside = np.clip(np.minimum(fpr[:, 1:], most) - fpr[:, :-1], 0, None)
    rise = np.diff(tpr, axis=1) * inside / np.where(widths > 0, widths, 1)
    area = (inside * (tpr[:, :-1] + rise / 2)).sum(axis=1)
    least = most**2 / 2
    return np.asarray(0.5 * (1 + (area - least) / (most - least)))


def weighted_confusion(labels: Integers, called: Integers, weights: Floats, num_classes: int) -> Floats:
    """Weights of images by true and by called class `(W, C, C)`."""
    members = np.zeros((len(labels), num_classes**2))
    members[np.arange(len(labels)), labels * num_classes + called] = 1
    return np.asarray((weights @ members).reshape(-1, num_classes, num_classes))


def of_confusion(counts: Floats, positive: int | None = None) -> dict[str, Floats]:
    """What the called classes alone tell, each `(W,)`; a quotient without a denominator is 0, as in scikit-learn.

    F1 is that of the positive class, or the mean over all.

    Source: Gorodkin, Computational Biology and Chemistry 28 (2004), 367-374, of MCC; Cohen, Educational and
    Psychological Measurement 20 (1960), 37-46, and Psychological Bulletin 70 (1968), 213-220, of kappa.
    """
    true, called, total = counts.sum(axis=2), counts.sum(axis=1), counts.sum(axis=(1, 2))
    hits = np.diagonal(counts, axis1=1, axis2=2)
    right = hits.sum(axis=1)
    spread = (total**2 - (true**2).sum(axis=1)) * (total**2 - (called**2).sum(axis=1))
    places, f1 = np.arange(counts.shape[1]), _ratio(2 * hits, true + called)
    expected = true[:, :, None] * called[:, None, :] / total[:, None, None]
    return {
        "mcc": _ratio(right * total - (true * called).sum(axis=1), np.sqrt(np.maximum(spread, 0))),
        "kappa": _kappa(counts, expected, (places[:, None] != places).astype(np.float64)),
        "quadratic_kappa": _kappa(counts, expected, np.square(places[:, None] - places).astype(np.float64)),
        "mae": (counts * np.abs(places[:, None] - places)).sum(axis=(1, 2)) / total,
        "accuracy": right / total,
        "balanced_accuracy": (hits / true).mean(axis=1),
        "macro_f1": f1.mean(axis=1) if positive is None else f1[:, positive],
    }


def _kappa(counts: Floats, expected: Floats, costs: Floats) -> Floats:
    return 1 - _ratio((counts * costs).sum(axis=(1, 2)), (expected * costs).sum(axis=(1, 2)))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.where(below > 1e-12, above / np.where(below > 1e-12, below, 1), 0))
