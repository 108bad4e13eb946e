"""Iterative stratification: parts in which every label has its share, though a unit may have several.

Source: Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011, algorithm 1. The
package iterative-stratification deals single images alone; here a unit may be a patient with several.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def stratify(
    names: Sequence[str],
    sizes: NDArray[np.int64],
    labels: NDArray[np.int64],
    shares: Mapping[str, float],
    seed: int | str,
) -> list[str]:
    """A split for each unit.

    Again and again the label that the fewest remaining units have is taken, as it is the hardest to share out. Each of
    these units goes where most images with the label are still wanted; of several such splits, where most images are;
    of several again, to one by lot. Units without any label follow at the end. Of one image each, that is the published
    algorithm; of several, those with the most images with the label come first.

    Args:
        names: Of the U units, by which lots are drawn, alike on every machine.
        sizes: Images of each `(U,)`.
        labels: Images of each with each label `(U, L)`.
        shares: Of the splits, in any unit.
        seed: Changes the lots.
    """
    splits = list(shares)
    parts = np.array(list(shares.values())) / sum(shares.values())
    wanted = parts * sizes.sum()  # images of each split (K,)
    wanted_of = np.outer(parts, labels.sum(axis=0))  # of each with each label (K, L)
    lots = {name: _lot(seed, name) for name in names}
    left, dealt = np.ones(len(names), dtype=bool), [""] * len(names)

    def deal(unit: int, by: Sequence[NDArray[np.float64]]) -> None:
        best = np.arange(len(splits))
        for measure in by:
            best = best[measure[best] == measure[best].max()]
        place = min(best, key=lambda split: _lot(seed, f"{names[unit]}:{splits[split]}"))
        dealt[unit], left[unit] = splits[place], False
        wanted[place] -= sizes[unit]
        wanted_of[place] -= labels[unit]

    while (remaining := (labels[left] > 0).sum(axis=0)).any():
        rarest = int(np.where(remaining > 0, remaining, len(names) + 1).argmin())
        units = np.flatnonzero(left & (labels[:, rarest] > 0)).tolist()
        for unit in sorted(units, key=lambda unit: (-labels[unit, rarest], lots[names[unit]])):
            deal(unit, (wanted_of[:, rarest], wanted))
    for unit in sorted(np.flatnonzero(left).tolist(), key=lambda unit: (-sizes[unit], lots[names[unit]])):
        deal(unit, (wanted,))
    return dealt


def nested_part(
    names: Sequence[str], sizes: NDArray[np.int64], labels: NDArray[np.int64], wanted: float, seed: int | str
) -> set[str]:
    """Units of about so many images, which are part of those for any larger number.

    The units are stratified into halves again and again, and the first ones taken: a half, a quarter and so on have
    their share of every label, what is between about theirs.

    Args:
        names, sizes, labels, seed: As of `stratify`.
        wanted: Images; the number nearest to it is taken.
    """
    if len(names) == 1:
        return set(names) if 2 * wanted >= sizes[0] else set()
    dealt = np.array(stratify(names, sizes, labels, {"first": 1.0, "second": 1.0}, seed)) == "first"
    if dealt.all() or not dealt.any():  # one unit outweighs all others
        dealt = np.arange(len(names)) == 0
    halves = [np.flatnonzero(dealt == side).tolist() for side in (True, False)]
    before = int(sizes[halves[0]].sum())
    found: set[str] = set()
    for places, rest in zip(halves, (min(wanted, before), wanted - before), strict=True):
        if rest > 0:
            found |= nested_part([names[i] for i in places], sizes[places], labels[places], rest, seed)
    return found


def _lot(seed: int | str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
