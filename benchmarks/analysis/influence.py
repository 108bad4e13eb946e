"""AUC, and what each test image contributes to its variance; arrays only.

AUC is everywhere the macro one-vs-rest area: the mean over classes of the chance that an image of the class scores
higher for it than an image of another class, ties counting half.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_NOTHING = 1e-24  # a variance that is one of rounding alone


class Influence(NamedTuple):
    """What a test split says about the AUC of one trained model.

    auc: macro one-vs-rest.
    units: what each unit (patient, or image) adds to the deviation of the AUC `(U,)`. The variance of the AUC over test
        splits of as many units is the sum of their squares, the covariance of two models on the same images the sum of
        their products.
    design_effect: how many times larger that variance is than if every image were a unit of its own.
    """

    auc: float
    units: Floats
    design_effect: float


def influence(labels: Integers, scores: Floats, units: Integers) -> Influence:
    """The AUC and what each unit contributes to its variance.

    For two classes whose images are units of their own the variance is that of DeLong et al., for groups of images that
    of Obuchowski; more classes are averaged, image by image, as their AUCs are.

    Args:
        labels: Class indices `(n,)`; every class occurs.
        scores: `(n, C)`, higher for the likelier class.
        units: What was drawn together `(n,)`, 0 to the number of units less one: one a patient, or one an image.

    Returns:
        The influence; where a class sits in a single unit its units are nan, as the variance is unknown.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988), 837-845; Obuchowski, Biometrics 53 (1997), 567-578.
    """
    num_images, num_classes = scores.shape
    shares, aucs = np.zeros(num_images), []
    for index in range(num_classes):
        mine = labels == index
        placed = placements(mine, scores[:, index])
        aucs.append(placed[mine].mean())
        shares += placed / np.where(mine, mine.sum(), num_images - mine.sum()) / num_classes
    for index in range(num_classes):
        shares[labels == index] -= shares[labels == index].mean()
    by_unit = _summed(labels, shares, units)
    together, alone = (float(np.sum(part**2)) for part in (by_unit, _summed(labels, shares, np.arange(num_images))))
    most = num_images / len(by_unit)
    effect = min(max(together / alone, 1.0), most) if alone > _NOTHING else most
    return Influence(float(np.mean(aucs)), by_unit, effect)


def mean_influence(parts: Sequence[tuple[Integers, Floats, Integers]]) -> Influence:
    """The mean AUC of several parts of a test split, and what each unit contributes to its variance.

    Args:
        parts: Of each labels, scores and units, as of `influence`; the units have the same numbers in all, and a part
            need not have all of them.
    """
    num_units = 1 + max(int(units.max()) for _, _, units in parts)
    aucs, together = [], np.zeros(num_units)
    effects = []
    for labels, scores, units in parts:
        present, own = np.unique(units, return_inverse=True)
        found = influence(labels, scores, own)
        together[present] += found.units / len(parts)
        aucs.append(found.auc)
        effects.append(found.design_effect)
    return Influence(float(np.mean(aucs)), together, float(np.mean(effects)))


def placements(mine: NDArray[np.bool_], scores: Floats) -> Floats:
    """The share of the others that an image of the class outranks, or of the class that outranks another `(n,)`.

    The mean over either side is the AUC of the class against the others.

    Args:
        mine: Whether an image is of the class `(n,)`.
        scores: `(n,)`, higher for what looks like the class.
    """
    values = np.empty(len(scores))
    for side in (True, False):
        others, own = np.sort(scores[mine != side]), scores[mine == side]
        below = (np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")) / (2 * len(others))
        values[mine == side] = below if side else 1 - below
    return values


def _summed(labels: Integers, shares: Floats, units: Integers) -> Floats:
    """Shares summed over each unit `(U,)`, made larger for what centring a class took from its few units."""
    num_units = int(units.max()) + 1
    total = np.zeros(num_units)
    for index in np.unique(labels):
        mine = labels == index
        count = len(np.unique(units[mine]))
        factor = np.sqrt(count / (count - 1)) if count > 1 else np.nan
        total += factor * np.bincount(units[mine], shares[mine], num_units)
    return total


def units_of_classes(labels: Integers, units: Integers) -> Integers:
    """How many units have an image of each class `(C,)`."""
    return np.array([len(np.unique(units[labels == index])) for index in range(int(labels.max()) + 1)], dtype=np.int64)
