"""Scores that rank: of images by how likely a class is, and of trained models by how well they did on validation."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]


def log_odds(logits: Floats) -> Floats:
    """The logarithm of each class's odds, `log p_c - log(1 - p_c)`, from logits.

    It ranks images as the probability of the class does. A probability cannot tell apart what rounds to 1: with the
    logits (0, 40) and (0, 45) both do.

    Shape:
        - logits: `(n, C)`, C at least 2
        - Output: `(n, C)`, float64
    """
    logits = np.asarray(logits, dtype=np.float64)
    columns = range(logits.shape[1])
    others = [logsumexp(np.delete(logits, index, axis=1), axis=1) for index in columns]
    return logits - np.stack(others, axis=1)


def preference(auc: float, loss: float) -> tuple[float, float]:
    """Orders what validation chooses among, the best last: by AUC, of equals by the lower loss.

    AUCs count as equal where they differ by less than rounding does.

    Args:
        auc: On the validation split.
        loss: Mean cross-entropy there, in nats.
    """
    return round(auc, 12), -loss
