"""Accuracy of a classifier, from its per-image probabilities; scikit-learn computes every number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
    roc_auc_score,
)


def classification_metrics(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, Any]:
    """Scores probabilities of classes; higher is better but for `loss`.

    Args:
        labels: Class indices `(n,)`; every class occurs.
        probabilities: `(n, C)`, rows sum to 1.
        classes: Names of the C classes.

    Returns:
        `auc`, macro one-vs-rest area under the ROC curve, the headline; `auc_per_class` by name; `accuracy`;
        `balanced_accuracy`; `macro_f1`; `kappa`, quadratically weighted; `loss`, mean cross-entropy in nats.
    """
    indices = list(range(len(classes)))
    predicted = probabilities.argmax(axis=1)
    per_class = {
        name: float(roc_auc_score(labels == index, probabilities[:, index])) for index, name in enumerate(classes)
    }
    return {
        "auc": float(np.mean(list(per_class.values()))),
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", labels=indices, zero_division=0.0)),
        "kappa": float(cohen_kappa_score(labels, predicted, weights="quadratic", labels=indices)),
        "loss": float(log_loss(labels, probabilities, labels=indices)),
        "auc_per_class": per_class,
    }
