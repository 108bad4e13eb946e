"""Accuracy of a classifier, from its logits for each image; scikit-learn computes every number but the loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from benchmarks.scores import log_odds


def classification_metrics(
    labels: NDArray[np.int64], logits: NDArray[np.float64], classes: Sequence[str], ordered: bool = False
) -> dict[str, Any]:
    """Scores logits of classes; higher is better but for `loss`.

    Args:
        labels: Class indices `(n,)`; every class occurs.
        logits: `(n, C)`, finite.
        classes: Names of the C classes.
        ordered: Whether the classes are grades, in their order.

    Returns:
        `auc`, macro one-vs-rest area under the ROC curve of the log-odds, the headline; `auc_per_class` by name;
        `accuracy`; `balanced_accuracy`; `macro_f1`; `kappa`, Cohen's, with quadratic weights where classes are ordered
        and without weights elsewhere; `loss`, mean cross-entropy in nats.
    """
    indices = list(range(len(classes)))
    predicted = logits.argmax(axis=1)
    scores = log_odds(logits)
    per_class = {name: float(roc_auc_score(labels == index, scores[:, index])) for index, name in enumerate(classes)}
    weights = "quadratic" if ordered else None
    return {
        "auc": float(np.mean(list(per_class.values()))),
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", labels=indices, zero_division=0.0)),
        "kappa": float(cohen_kappa_score(labels, predicted, weights=weights, labels=indices)),
        "loss": -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()),
        "auc_per_class": per_class,
    }
