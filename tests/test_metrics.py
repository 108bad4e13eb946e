"""Metrics against pairwise counts, naive sums and numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.scores import log_odds, preference
from benchmarks.training.metrics import classification_metrics


def naive_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """The share of (positive, negative) pairs that the scores put in order; a tie counts one half."""
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    return sum(1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs) / len(pairs)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_auc_equals_the_pairwise_count(num_classes: int) -> None:
    """Of the odds; images share eight rows of logits, so many are tied."""
    rng = np.random.default_rng(num_classes)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 37)])
    weights = rng.uniform(1, 5, (8, num_classes))[rng.integers(0, 8, len(labels))]
    classes = [f"grade_{index}" for index in range(num_classes)]
    metrics = classification_metrics(labels, np.log(weights), classes)
    odds = weights / (weights.sum(axis=1, keepdims=True) - weights)
    expected = {name: naive_auc(labels == i, odds[:, i]) for i, name in enumerate(classes)}
    assert metrics["auc_per_class"] == pytest.approx(expected, abs=1e-12)
    assert metrics["auc"] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)


def test_what_a_probability_cannot_tell_apart_is_ranked() -> None:
    logits = np.array([[0.0, 40.0], [0.0, 45.0]])
    assert np.array_equal(np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1), [1.0, 1.0])
    metrics = classification_metrics(np.array([0, 1]), logits, ["a", "b"])
    assert metrics["auc_per_class"] == {"a": 1.0, "b": 1.0} and metrics["auc"] == 1.0
    assert metrics["loss"] == pytest.approx(20.0, abs=1e-12)  # (40 + 0) / 2
    far = classification_metrics(np.array([0, 1]), np.array([[0.0, 2000.0], [3e38, -3e38]]), ["a", "b"])
    assert far["loss"] == pytest.approx((2000 + 6e38) / 2) and far["auc"] == 0.0
    three = np.array([[0.0, 50.0, 0.0], [0.0, 60.0, 0.0], [60.0, 0.0, 0.0], [0.0, 0.0, 60.0]])
    assert classification_metrics(np.array([0, 1, 0, 2]), three, ["a", "b", "c"])["auc_per_class"]["b"] == 1.0


def test_log_odds_are_those_of_the_probabilities() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))
    for row, found in zip(logits, log_odds(logits), strict=True):
        powers = [math.exp(value) for value in row]
        assert found == pytest.approx([math.log(power / (sum(powers) - power)) for power in powers], abs=1e-9)


def test_the_other_metrics_equal_numbers_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = [0, 0, 0, 1, 1, 2, 2, 0]
    probabilities = np.full((8, 3), 0.2)
    probabilities[np.arange(8), predicted] = 0.6
    metrics = classification_metrics(labels, np.log(probabilities), ["none", "mild", "severe"], ordered=True)
    assert metrics["accuracy"] == pytest.approx(5 / 8)
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3)
    # none: precision 3/4, recall 3/4; mild: 1/2, 1/2; severe: 1/2, 1/2
    assert metrics["macro_f1"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3)
    # squared distances seen: 1 (none as mild) + 1 (mild as severe) + 4 (severe as none) = 6; by chance, from the
    # margins (4, 2, 2) on both sides: 2 (4 * 2 * 1 + 4 * 2 * 4 + 2 * 2 * 1) / 8 = 11
    assert metrics["kappa"] == pytest.approx(1 - 6 / 11)
    assert metrics["loss"] == pytest.approx(-(5 * np.log(0.6) + 3 * np.log(0.2)) / 8)
    # without an order: agreement 5/8, by chance (4 * 4 + 2 * 2 + 2 * 2) / 64 = 3/8
    plain = classification_metrics(labels, np.log(probabilities), ["none", "mild", "severe"])
    assert plain["kappa"] == pytest.approx((5 / 8 - 3 / 8) / (1 - 3 / 8))
    assert metrics.pop("mae") == pytest.approx((1 + 1 + 2) / 8)
    assert plain | {"kappa": 0} == metrics | {"kappa": 0}


def test_a_perfect_a_reversed_and_a_constant_prediction() -> None:
    labels = np.array([0, 0, 1, 1])
    perfect = np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    assert classification_metrics(labels, perfect, ["a", "b"])["auc"] == 1.0
    assert classification_metrics(labels, perfect[:, ::-1], ["a", "b"])["auc"] == 0.0
    for ordered in (False, True):
        constant = classification_metrics(labels, np.full((4, 2), 0.5), ["a", "b"], ordered)
        assert (constant["auc"], constant["kappa"], constant["balanced_accuracy"]) == (0.5, 0.0, 0.5)
        assert constant["macro_f1"] == pytest.approx(1 / 3)


def test_everything_can_be_stored_as_json_numbers() -> None:
    metrics = classification_metrics(np.array([0, 1]), np.array([[0.6, 0.4], [0.5, 0.5]]), ["a", "b"])
    values = [*metrics["auc_per_class"].values(), *(v for k, v in metrics.items() if k != "auc_per_class")]
    assert {type(value) for value in values} == {float}


def test_validation_prefers_the_higher_auc_then_the_lower_loss() -> None:
    ordered = [(0.9, 0.1), (0.95, 9.0), (1.0, 0.5), (1.0 - 1e-15, 0.4), (1.0, 0.3)]
    backwards = [*reversed(ordered)]
    assert sorted(backwards, key=lambda pair: preference(*pair)) == ordered
