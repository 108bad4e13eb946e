"""How far probabilities are to be believed: Brier score, calibration errors, temperature; arrays only.

Images are weighted, so that many resamples of a test split are scored at once. Shapes beside those of torch's
documents: n images, C classes, W rows of weights.
"""

import numpy as np
from scipy.special import log_softmax, softmax

from benchmarks.analysis.influence import Floats, Integers

NUM_BINS = 15  # of equal width, as Guo et al.
_LOGARITHMS = (-5.0, 5.0)  # of temperatures that are tried: 0.0067 to 148


def temperature(labels: Integers, logits: Floats) -> float:
    """The temperature that divides logits for the least cross-entropy; 1 where no other is better.

    Args:
        labels: Class indices `(n,)` of the validation split.
        logits: `(n, C)`

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar  # takes a third of a second, and what is kept is not fitted again

    rows = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        return -float(log_softmax(logits / np.exp(logarithm), axis=1)[rows, labels].mean())

    found = minimize_scalar(loss, bounds=_LOGARITHMS, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def scaled(logits: Floats, by: float) -> Floats:
    """Probabilities of logits that a temperature divides `(n, C)`."""
    return np.asarray(softmax(logits / by, axis=1))


def brier(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    """The squared distances of probabilities from what is true, summed over classes: 0 to 2 `(W,)`.

    Source: Brier, Monthly Weather Review 78 (1950), 1-3.
    """
    distances = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return np.asarray(weights @ distances / weights.sum(axis=1))


def bins(confidences: Floats) -> Integers:
    """The bin of each confidence, of `NUM_BINS` of equal width that hold their upper edge."""
    return np.digitize(confidences, np.arange(1, NUM_BINS) / NUM_BINS, right=True).astype(np.int64)


def binned_error(confidences: Floats, hits: Floats, weights: Floats) -> Floats:
    """The mean distance, over bins by their images, of mean confidence from the share of hits `(W,)`."""
    members = np.zeros((len(hits), NUM_BINS))
    members[np.arange(len(hits)), bins(confidences)] = confidences - hits
    return np.asarray(np.abs(weights @ members).sum(axis=1) / weights.sum(axis=1))


def calibration_error(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    """Expected calibration error of the likeliest class `(W,)`.

    Source: Guo et al., ICML 2017, equation 3; Naeini, Cooper, Hauskrecht, AAAI 2015.
    """
    hits = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return binned_error(probabilities.max(axis=1), hits, weights)


def classwise_calibration_error(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    """The mean over classes of the calibration error of the class's probability `(W,)`.

    Source: Kull et al., Beyond temperature scaling, NeurIPS 2019, equation 3.
    """
    errors = [
        binned_error(probabilities[:, index], (labels == index).astype(np.float64), weights)
        for index in range(probabilities.shape[1])
    ]
    return np.asarray(np.mean(errors, axis=0))
