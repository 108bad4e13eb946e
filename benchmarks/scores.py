"""How likely a class is for an image, as a number that does not saturate."""

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
