"""Scores beside AUC against scikit-learn, hand computation and closed forms; their resamples, intervals and columns."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from benchmarks.analysis import calibration, curves
from benchmarks.analysis.extra_scores import SCORES, extra_scores, fit, threshold
from benchmarks.analysis.influence import Floats, Integers
from benchmarks.analysis.resamples import resample_weights
from benchmarks.scores import log_odds


def sample(num_classes: int, num_images: int = 150, seed: int = 0, spread: float = 1.5) -> tuple[Integers, Floats]:
    """Labels, and logits that know something of them, with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    logits = spread * np.eye(num_classes)[labels] + rng.normal(size=(num_images, num_classes)) * spread
    return labels, np.round(logits, 1)


def of(labels: Integers, logits: Floats, weights: Floats | None = None) -> dict[str, float]:
    """All scores by name, thresholds and temperature from another sample."""
    fitted = fit(*sample(logits.shape[1], seed=1))
    rows = np.ones((1, len(labels))) if weights is None else weights[None]
    return dict(zip(SCORES, extra_scores(labels, logits, rows, fitted)[0].tolist(), strict=True))


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_scikit_learn(num_classes: int, weighted: bool) -> None:
    labels, logits = sample(num_classes)
    weights = np.random.default_rng(2).integers(0, 4, len(labels)).astype(float) if weighted else np.ones(len(labels))
    found, odds, called = of(labels, logits, weights), log_odds(logits), logits.argmax(axis=1)
    classes = [1] if num_classes == 2 else range(num_classes)
    mine = {index: labels == index for index in classes}
    expected = {
        "auprc": [metrics.average_precision_score(mine[i], odds[:, i], sample_weight=weights) for i in classes],
        "partial_auc": [roc_auc_score(mine[i], odds[:, i], max_fpr=0.1, sample_weight=weights) for i in classes],
        "mcc": metrics.matthews_corrcoef(labels, called, sample_weight=weights),
        "kappa": metrics.cohen_kappa_score(labels, called, sample_weight=weights),
        "quadratic_kappa": metrics.cohen_kappa_score(labels, called, weights="quadratic", sample_weight=weights),
        "accuracy": metrics.accuracy_score(labels, called, sample_weight=weights),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called, sample_weight=weights),
        "macro_f1": metrics.f1_score(labels, called, average="macro", sample_weight=weights),
        "brier": metrics.brier_score_loss(
            labels, softmax(logits, axis=1)[:, 1] if num_classes == 2 else softmax(logits, axis=1),
            sample_weight=weights, scale_by_half=False,
        ),
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(np.mean(value), abs=1e-12), name


@pytest.mark.parametrize("num_classes", [2, 4])
def test_thresholds_of_validation_hold_on_test(num_classes: int) -> None:
    """The sensitivity is scikit-learn's recall at the highest operating point of validation that is specific enough."""
    labels, logits = sample(num_classes)
    val_labels, val_logits = sample(num_classes, seed=1)
    for name, least in (("sensitivity_90", 0.9), ("sensitivity_95", 0.95)):
        recalls = []
        for index in [1] if num_classes == 2 else range(num_classes):
            fpr, _, limits = metrics.roc_curve(
                val_labels == index, log_odds(val_logits)[:, index], drop_intermediate=False
            )
            limit = limits[fpr <= 1 - least + 1e-12].min()
            recalls.append(metrics.recall_score(labels == index, log_odds(logits)[:, index] >= limit))
        assert of(labels, logits)[name] == pytest.approx(np.mean(recalls))


def test_a_threshold_that_nothing_reaches_is_infinite_and_none_without_others() -> None:
    mine = np.array([True, False, False])
    assert threshold(mine, np.array([0.1, 0.5, 0.9]), 0.9) == np.inf
    assert threshold(mine, np.array([0.95, 0.5, 0.9]), 0.9) == 0.95
    assert np.isnan(threshold(np.array([True]), np.array([0.5]), 0.9))


def by_hand(confidences: Floats, hits: Floats) -> float:
    """Expected calibration error, bin by bin: a bin holds its upper edge, the first one 0 as well."""
    error = 0.0
    for lower in range(15):
        inside = [
            i for i, value in enumerate(confidences) if lower / 15 < value <= (lower + 1) / 15 or lower == value == 0
        ]
        if inside:
            error += len(inside) / len(hits) * abs(float(np.mean(confidences[inside]) - np.mean(hits[inside])))
    return error


def test_calibration_errors_are_those_computed_by_hand() -> None:
    labels, logits = sample(3)
    heat = calibration.temperature(*sample(3, seed=1))
    for suffix, by in (("", 1.0), ("_scaled", heat)):
        made = softmax(logits / by, axis=1)
        hits = (made.argmax(axis=1) == labels).astype(float)
        assert of(labels, logits)[f"ece{suffix}"] == pytest.approx(by_hand(made.max(axis=1), hits))
        classes = [by_hand(made[:, index], (labels == index).astype(float)) for index in range(3)]
        assert of(labels, logits)[f"classwise_ece{suffix}"] == pytest.approx(np.mean(classes))


def test_confidences_at_an_edge_are_in_the_lower_bin() -> None:
    assert calibration.bins(np.array([0.0, 1 / 15, 0.2, 0.2 + 1e-9, 1.0])).tolist() == [0, 0, 2, 3, 14]


def test_a_constant_answer_scores_as_it_must() -> None:
    """20 of 100 images are positive, and each gets the probability 0.2: calibrated, and without any knowledge."""
    labels = np.repeat([0, 1], [80, 20])
    found = of(labels, np.tile(np.log([0.8, 0.2]), (100, 1)))
    expected = {
        **{"auprc": 0.2, "partial_auc": 0.5, "mcc": 0, "kappa": 0, "quadratic_kappa": 0, "accuracy": 0.8},
        **{"balanced_accuracy": 0.5, "ece": 0, "classwise_ece": 0, "brier": 2 * 0.2 * 0.8},
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_a_perfect_answer_scores_as_it_must() -> None:
    labels = np.arange(60) % 3
    found = of(labels, 60 * np.eye(3)[labels])
    best = {name: 1.0 if score.better > 0 else 0.0 for name, score in SCORES.items()}
    assert {name: found[name] for name in best if not name.startswith("sens")} == pytest.approx(
        {name: value for name, value in best.items() if not name.startswith("sens")}, abs=1e-3
    )


def test_the_temperature_is_that_of_a_fine_grid_and_never_worse_than_one() -> None:
    labels, logits = sample(4, 400)

    def loss(by: float) -> float:
        return -float(log_softmax(logits / by, axis=1)[np.arange(len(labels)), labels].mean())

    heat = calibration.temperature(labels, logits)
    assert loss(heat) <= min(loss(by) for by in np.geomspace(0.05, 20, 500)) + 1e-9
    assert 1 < heat < 5
    assert calibration.temperature(np.array([0, 1]), np.zeros((2, 2))) == 1
    perfect = calibration.temperature(labels, np.eye(4)[labels])
    assert perfect < 0.05  # colder without end: the coldest that is tried


def test_without_validation_images_what_they_tell_is_missing() -> None:
    labels, logits = sample(3)
    found = extra_scores(labels, logits, np.ones((1, len(labels))), fit(labels[:0], logits[:0]))[0]
    missing = {name for name, value in zip(SCORES, found, strict=True) if np.isnan(value)}
    assert missing == {"sensitivity_90", "sensitivity_95", "brier_scaled", "ece_scaled", "classwise_ece_scaled"}


def test_resamples_keep_every_class_and_have_the_variance_of_a_mean() -> None:
    labels = np.repeat([0, 1], [40, 4])
    weights = resample_weights(np.eye(labels.max() + 1, dtype=bool)[labels], np.arange(44), 0, 20_000)
    for index, number in ((0, 40), (1, 4)):
        mine = weights[:, labels == index]
        assert mine.sum(axis=1) == pytest.approx(np.full(20_000, number))
        values = np.arange(number)
        assert (mine @ values / number).var() == pytest.approx(values.var(ddof=1) / number, rel=0.05)
    assert (
        resample_weights(np.eye(labels.max() + 1, dtype=bool)[labels], np.arange(44), 0, 5)
        == resample_weights(np.eye(labels.max() + 1, dtype=bool)[labels], np.arange(44), 0, 5)
    ).all()


def test_patients_are_drawn_whole_and_no_class_vanishes() -> None:
    """Class 2 is only with patients who have rarer classes too."""
    units = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 5, 6, 7])
    labels = np.array([0, 0, 0, 0, 1, 2, 1, 2, 2, 0, 0, 1, 1])
    weights = resample_weights(np.eye(labels.max() + 1, dtype=bool)[labels], units, 1, 500)
    for unit in range(8):
        assert np.ptp(weights[:, units == unit], axis=1).max() == 0
    for index in range(3):
        assert (weights[:, labels == index].sum(axis=1) > 0).all()
    assert weights.std(axis=0).min() > 0


def test_curves_pass_through_the_points_of_scikit_learn() -> None:
    labels, logits = sample(2)
    odds = log_odds(logits)[:, 1]
    roc, pr = (curve[0] for curve in curves.roc_and_pr(labels, logits, np.ones((1, len(labels)))))
    fpr, tpr, _ = metrics.roc_curve(labels == 1, odds, drop_intermediate=False)
    precision, recall, _ = metrics.precision_recall_curve(labels == 1, odds)
    for place, at in enumerate(curves.GRID):
        assert roc[place] == pytest.approx(tpr[fpr <= at + 1e-12].max())
        assert pr[place] in precision
        if at:
            assert pr[place] == pytest.approx(precision[:-1][recall[:-1] >= at - 1e-12][-1])


def naive_roc_and_pr(labels: Integers, logits: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """The definition, a row and a point at a time."""
    odds, rocs, prs = log_odds(logits), [], []
    for index in range(1, 2) if logits.shape[1] == 2 else range(logits.shape[1]):
        mine, scores = labels == index, odds[:, index]
        for row in weights:
            limits = np.unique(scores)[::-1]
            hits, alarms = (
                np.array([row[part & (scores >= limit)].sum() for limit in limits]) for part in (mine, ~mine)
            )
            recall, fpr = hits / hits[-1], alarms / alarms[-1]
            called = np.where(hits + alarms > 0, hits + alarms, 1)
            rocs.append([max([0, *recall[fpr <= at + 1e-9]]) for at in curves.GRID])
            prs.append(
                [(hits / called)[np.flatnonzero(recall >= max(at, 1e-9) - 1e-9 * (at > 0))[0]] for at in curves.GRID]
            )
    shape = (-1, len(weights), len(curves.GRID))
    return np.reshape(rocs, shape).mean(axis=0), np.reshape(prs, shape).mean(axis=0)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("decimals", [0, 9])
def test_curves_of_resamples_are_those_of_a_loop(num_classes: int, decimals: int) -> None:
    labels, logits = sample(num_classes)
    logits = np.round(logits, decimals)
    weights = resample_weights(np.eye(labels.max() + 1, dtype=bool)[labels], np.arange(len(labels)), 1, 30)
    for found, expected in zip(
        curves.roc_and_pr(labels, logits, weights), naive_roc_and_pr(labels, logits, weights), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_reliability_is_that_of_scikit_learn() -> None:
    labels, logits = sample(2)
    probabilities = softmax(logits, axis=1)
    accuracy, confidence, share = curves.reliability(labels, probabilities, np.ones((1, len(labels))))[0]
    hits = probabilities.argmax(axis=1) == labels
    expected = calibration_curve(hits, probabilities.max(axis=1), n_bins=15)
    filled = share > 0
    np.testing.assert_allclose((accuracy[filled], confidence[filled]), expected)
    assert share.sum() == pytest.approx(1)
    assert np.isnan(accuracy[~filled]).all()


def test_a_band_holds_images_and_seeds() -> None:
    runs = [curves.Curves({"roc": np.full((1, 3), value)}, {"roc": np.full(3, 0.03)}) for value in (0.7, 0.8, 0.9)]
    found = curves.band(runs, "roc")
    assert found is not None
    assert found.mean == pytest.approx([0.8] * 3)
    assert found.half == pytest.approx([1.96 * np.sqrt(0.03**2 + 0.01 / 3)] * 3)
    assert curves.band(runs, "scaled") is None
