"""Accuracy of a model, from its logits for each image; scikit-learn computes every number but the loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from benchmarks.tasks import TASKS, Floats, Integers, Task, scored_findings


def metrics_of(
    targets: NDArray[Any], logits: Floats, classes: Sequence[str], ordered: bool, task: Task
) -> dict[str, Any]:
    """Scores logits of classes or findings; higher is better but for `loss` and `mae`.

    Args:
        targets: Class indices `(n,)`, every class occurs; of findings `(n, C)` of 0 and 1, nan where that is not known.
        logits: `(n, C)`, finite.
        classes: Names of the C classes or findings.
        ordered: Whether the classes are grades, in their order.
        task: What the model was asked.

    Returns:
        What `classification_metrics` or `finding_metrics` gives.
    """
    if task.has_findings:
        return finding_metrics(targets, logits, classes)
    return classification_metrics(targets, logits, classes, ordered, task)


def classification_metrics(
    labels: Integers,
    logits: Floats,
    classes: Sequence[str],
    ordered: bool = False,
    task: Task = TASKS["cross_entropy"],
) -> dict[str, Any]:
    """Scores logits of classes of which each image has one.

    Args:
        labels: Class indices `(n,)`; every class occurs.
        logits: `(n, C)`, finite.
        classes: Names of the C classes.
        ordered: Whether the classes are grades, in their order.
        task: Says which class an image is called.

    Returns:
        `auc`, macro one-vs-rest area under the ROC curve of the log-odds, the headline; `auc_per_class` by name;
        `accuracy`; `balanced_accuracy`; `macro_f1`; `kappa`, Cohen's, with quadratic weights where classes are ordered
        and without weights elsewhere; `mae`, of ordered classes the mean distance in grades; `loss`, mean cross-entropy
        in nats.
    """
    indices = list(range(len(classes)))
    predicted, scores = task.called(logits), task.odds(logits)
    per_class = {name: float(roc_auc_score(labels == index, scores[:, index])) for index, name in enumerate(classes)}
    weights = "quadratic" if ordered else None
    return {
        "auc": float(np.mean(list(per_class.values()))),
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", labels=indices, zero_division=0.0)),
        "kappa": float(cohen_kappa_score(labels, predicted, weights=weights, labels=indices)),
        **({"mae": float(np.abs(predicted - labels).mean())} if ordered else {}),
        "loss": -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()),
        "auc_per_class": per_class,
    }


def finding_metrics(targets: Floats, logits: Floats, findings: Sequence[str]) -> dict[str, Any]:
    """Scores logits of findings, each over the images of which it is known; a finding is called at 0.5.

    Args:
        targets: `(n, C)` of 0 and 1, nan where that is not known.
        logits: `(n, C)`, finite.
        findings: Names of the C findings.

    Returns:
        `auc`, `accuracy`, `balanced_accuracy`, `macro_f1` (of those with the finding) and `kappa`: means over the
        findings that can be scored (see `tasks.scored_findings`); `auc_per_class` by name, None for the others; `loss`,
        mean binary cross-entropy in nats over all that is known.
    """
    parts: dict[str, list[float]] = {}
    per_finding: dict[str, float | None] = dict.fromkeys(findings)
    for index in map(int, np.flatnonzero(scored_findings(targets))):
        known = ~np.isnan(targets[:, index])
        labels, own = targets[known, index].astype(np.int64), logits[known, index]
        called = TASKS["bce"].called(own)
        found = {
            "auc": float(roc_auc_score(labels, own)),
            "accuracy": float(accuracy_score(labels, called)),
            "balanced_accuracy": float(balanced_accuracy_score(labels, called)),
            "macro_f1": float(f1_score(labels, called, zero_division=0.0)),
            "kappa": float(cohen_kappa_score(labels, called, labels=[0, 1])),
        }
        per_finding[findings[index]] = found["auc"]
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
    signed = np.where(targets == 1, logits, -logits)
    means = {name: float(np.mean(values)) for name, values in parts.items()}
    return means | {"loss": -float(log_expit(signed)[~np.isnan(targets)].mean()), "auc_per_class": per_finding}
