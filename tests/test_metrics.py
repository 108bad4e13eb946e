"""Metrics against a pairwise count of rankings and against numbers worked out by hand."""

import itertools

import numpy as np
import pytest

from benchmarks.training.metrics import classification_metrics


def naive_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """The share of (positive, negative) pairs that the scores put in order; a tie counts one half."""
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    return sum(1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs) / len(pairs)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_auc_equals_the_pairwise_count(num_classes: int) -> None:
    rng = np.random.default_rng(num_classes)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 37)])
    scores = rng.integers(1, 5, (len(labels), num_classes)).astype(float)  # few values: many ties
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    classes = [f"grade_{index}" for index in range(num_classes)]
    metrics = classification_metrics(labels, probabilities, classes)
    expected = {name: naive_auc(labels == i, probabilities[:, i]) for i, name in enumerate(classes)}
    assert metrics["auc_per_class"] == pytest.approx(expected, abs=1e-12)
    assert metrics["auc"] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)


def test_the_other_metrics_equal_numbers_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = [0, 0, 0, 1, 1, 2, 2, 0]
    probabilities = np.full((8, 3), 0.2)
    probabilities[np.arange(8), predicted] = 0.6
    metrics = classification_metrics(labels, probabilities, ["none", "mild", "severe"])
    assert metrics["accuracy"] == pytest.approx(5 / 8)
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3)
    # none: precision 3/4, recall 3/4; mild: 1/2, 1/2; severe: 1/2, 1/2
    assert metrics["macro_f1"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3)
    # squared distances seen: 1 (none as mild) + 1 (mild as severe) + 4 (severe as none) = 6; by chance, from the
    # margins (4, 2, 2) on both sides: 2 (4 * 2 * 1 + 4 * 2 * 4 + 2 * 2 * 1) / 8 = 11
    assert metrics["kappa"] == pytest.approx(1 - 6 / 11)
    assert metrics["loss"] == pytest.approx(-(5 * np.log(0.6) + 3 * np.log(0.2)) / 8)


def test_a_perfect_a_reversed_and_a_constant_prediction() -> None:
    labels = np.array([0, 0, 1, 1])
    perfect = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    assert classification_metrics(labels, perfect, ["a", "b"])["auc"] == 1.0
    assert classification_metrics(labels, perfect[:, ::-1], ["a", "b"])["auc"] == 0.0
    constant = classification_metrics(labels, np.full((4, 2), 0.5), ["a", "b"])
    assert (constant["auc"], constant["kappa"], constant["balanced_accuracy"]) == (0.5, 0.0, 0.5)
    assert constant["macro_f1"] == pytest.approx(1 / 3)


def test_everything_can_be_stored_as_json_numbers() -> None:
    metrics = classification_metrics(np.array([0, 1]), np.array([[0.6, 0.4], [0.5, 0.5]]), ["a", "b"])
    values = [*metrics["auc_per_class"].values(), *(v for k, v in metrics.items() if k != "auc_per_class")]
    assert {type(value) for value in values} == {float}
