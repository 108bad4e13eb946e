"""Splits by group: ours (70/10/20 or as asked for, stratified, or folds), the publisher's, or a user's.

Identical images never span two.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.choices import SPLITS
from benchmarks.data.findings import Values
from benchmarks.data.stratify import stratify

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
LEAST = 0.5  # of its share of a class's groups, which a split has at least: else one large group could fill it


class Item(NamedTuple):
    """What a split is made from.

    Attributes:
        key: Names the image.
        label: Index of its class, or what is said of each finding.
        group: Patient, exam, lesion, ...
        pixels: Digest of its pixels.
        split: Where the publisher or the user puts it; None where we decide.
    """

    key: str
    label: int | Values
    group: str
    pixels: str
    split: str | None


class Assignment(NamedTuple):
    """Splits and groups.

    Attributes:
        splits: Of each image that is kept.
        groups: Of each image; groups that share an identical image are one.
        dropped: Images left out, and the identical image that is kept.
        identical: How many images have an identical one.
        contradictory: How many of these have an identical one of another label.
    """

    splits: dict[str, str]
    groups: dict[str, str]
    dropped: dict[str, str]
    identical: int
    contradictory: int


def assign(
    items: Sequence[Item], fixed: Mapping[str, str], seed: int, asked: Mapping[str, float] = SHARES
) -> Assignment:
    """Gives each image its split.

    Identical images join their groups, so they stay together. Where the publisher or the user put them into different
    splits, the one in the test split is kept, or else the one in validation, and the others are left out.
    A class that has fewer groups than there are splits of ours is missing in some of them.

    Args:
        items: The images, with `split` set or None for all of one publisher's split.
        fixed: Splits that are not ours, with who made them; those not named share what has no split, and train.
        seed: Changes our splits.
        asked: Shares of the three splits.
    """
    kept, dropped = _drop_across(items)
    groups = _join(kept)
    splits = {item.key: item.split for item in kept if item.split is not None}
    ours = [split for split in SPLITS if split not in fixed]
    if ours:
        pool = [item for item in kept if item.split is None or item.split == "train"]
        shares = {split: asked[split] for split in SPLITS if split in ours or split == "train"}
        splits |= _divide([item._replace(group=groups[item.key]) for item in pool], shares, seed)
    return _assignment(items, splits, groups, dropped)


def assign_folds(items: Sequence[Item], num_folds: int, val: float, seed: int) -> list[Assignment]:
    """Gives each image its split in each fold of a cross-validation, in which it is a test image once.

    Args:
        items: The images, none of which has a split.
        num_folds: How many; the test split of each has so many times fewer images than there are.
        val: Share of all images that validate, chosen for each fold among those that it does not test.
        seed: Changes the folds.
    """
    groups = _join(items)
    joined = [item._replace(group=groups[item.key]) for item in items]
    tested_in = _divide(joined, {str(fold): 1.0 for fold in range(num_folds)}, seed)
    made = []
    for fold in range(num_folds):
        rest = [item for item in joined if tested_in[item.key] != str(fold)]
        shares = {"train": 1 - 1 / num_folds - val, "val": val}
        splits = {item.key: "test" for item in joined} | _divide(rest, shares, f"{seed}, fold {fold}")
        made.append(_assignment(items, splits, groups, {}))
    return made


def _assignment(
    items: Sequence[Item], splits: dict[str, str], groups: dict[str, str], dropped: dict[str, str]
) -> Assignment:
    identical = [sharing for sharing in _by_pixels(items).values() if len(sharing) > 1]
    return Assignment(
        splits,
        groups,
        dropped,
        sum(len(sharing) for sharing in identical),
        sum(len(sharing) for sharing in identical if len({item.label for item in sharing}) > 1),
    )


def _by_pixels(items: Sequence[Item]) -> dict[str, list[Item]]:
    sharing: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        sharing[item.pixels].append(item)
    return sharing


def _drop_across(items: Sequence[Item]) -> tuple[list[Item], dict[str, str]]:
    """Leaves out identical images of fixed splits but those of the split that matters most."""
    dropped: dict[str, str] = {}
    for sharing in _by_pixels(items).values():
        given = {item.split for item in sharing if item.split is not None}
        if len(given) > 1:
            keep = next(split for split in reversed(SPLITS) if split in given)
            witness = next(item.key for item in sharing if item.split == keep)
            dropped |= {item.key: witness for item in sharing if item.split != keep}
    return [item for item in items if item.key not in dropped], dropped


def _join(items: Sequence[Item]) -> dict[str, str]:
    """The group of each image once groups with identical images are one, named by the first of them (union-find)."""
    parent = {item.group: item.group for item in items}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for sharing in _by_pixels(items).values():
        for item in sharing[1:]:
            low, high = sorted((root(sharing[0].group), root(item.group)))
            parent[high] = low
    return {item.key: root(item.group) for item in items}


def _divide(items: Sequence[Item], shares: Mapping[str, float], seed: int | str) -> dict[str, str]:
    """Deals whole groups of each stratum, large ones first; of findings by iterative stratification."""
    members: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        members[item.group].append(item)
    if any(isinstance(item.label, tuple) for item in items):
        names = sorted(members)
        sizes = np.array([len(members[name]) for name in names])
        dealt = stratify(names, sizes, np.stack([_numbers(members[name]) for name in names]), shares, seed)
        return {item.key: split for name, split in zip(names, dealt, strict=True) for item in members[name]}
    strata: dict[int, list[str]] = defaultdict(list)
    for group, inside in members.items():
        strata[_stratum(inside)].append(group)
    splits: dict[str, str] = {}
    for groups in strata.values():
        ordered = sorted(groups, key=lambda group: (-len(members[group]), _shuffled(seed, group)))
        dealt = _deal([len(members[group]) for group in ordered], shares)
        splits |= {item.key: split for group, split in zip(ordered, dealt, strict=True) for item in members[group]}
    return splits


def _numbers(items: Sequence[Item]) -> NDArray[np.int64]:
    """Images with each finding, and those without it: what is not known of them, and uncertain, counts as neither."""
    values = np.array([[-1 if value is None else value for value in item.label] for item in items])  # type: ignore[union-attr]
    return np.concatenate([(values == 1).sum(axis=0), (values == 0).sum(axis=0)])


def least_groups(num_groups: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many of a class's groups each split has at least, where there are as many as splits."""
    total = sum(shares.values())
    return {split: max(1, int(LEAST * num_groups * share / total)) for split, share in shares.items()}


def _deal(sizes: Sequence[int], shares: Mapping[str, float]) -> list[str]:
    """A split for each group of a stratum: of those it may go to, the one that lacks most of its share of the images.

    A group may not go where the images that are left would not hold as many more groups as the split needs at least;
    and once there are no more groups than the splits need together, it goes where one is needed.

    Args:
        sizes: Images of the groups, falling.
        shares: Of the splits, in any unit.
    """
    smallest = list(accumulate(reversed(sizes), initial=0))  # images of so many of the smallest groups
    lacking = {split: smallest[-1] * share / sum(shares.values()) for split, share in shares.items()}  # images
    goals, needed = dict(lacking), least_groups(len(sizes), shares)
    dealt = []
    for place, size in enumerate(sizes):
        needy = [split for split in shares if needed[split] > 0]
        roomy = [s for s in shares if needed[s] <= 1 or size + smallest[needed[s] - 1] <= lacking[s]]
        all_needed = len(sizes) - place <= sum(needed[split] for split in needy)
        allowed = (needy if all_needed else roomy) or [max(shares, key=lambda split: lacking[split])]
        split = max(allowed, key=lambda split: lacking[split] / goals[split])
        lacking[split] -= size
        needed[split] -= 1
        dealt.append(split)
    return dealt


def _stratum(items: Sequence[Item]) -> int:
    """The label of most images of a group; of several, the highest: the worst grade, the malignant breast."""
    labels = Counter(item.label for item in items if isinstance(item.label, int))
    return max(labels, key=lambda label: (labels[label], label))


def _shuffled(seed: int | str, group: str) -> bytes:
    """Orders groups at random but alike on every machine and version, and whichever other groups there are."""
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
