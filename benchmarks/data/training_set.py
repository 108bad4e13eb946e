"""Smaller training sets: a share of the labels, or so many of each class or finding; nested in larger ones."""

import bisect
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.config import LabelBudget
from benchmarks.data.dataset import Dataset
from benchmarks.data.stratify import nested_part
from benchmarks.errors import UserError


class TrainingSet(NamedTuple):
    """The images of a training split that are trained on.

    rows: Their places in the split, rising `(n,)`.
    counts: Images by class, or with each finding.
    unit: What is in or out whole: `image`, or what the manifest calls a group, as `patient`.
    num_units: How many of these.
    digest: Hex SHA-256 of their paths.
    known: Images of which each finding is known; None of classes.
    """

    rows: NDArray[np.int64]
    counts: dict[str, int]
    unit: str
    num_units: int
    digest: str
    known: dict[str, int] | None = None

    def as_json(self) -> dict[str, object]:
        """For records."""
        known = {} if self.known is None else {"known": self.known}
        counted = {"num_images": len(self.rows), "counts": self.counts, "unit": self.unit, "num_units": self.num_units}
        return counted | known


def choose_training_set(dataset: Dataset, budget: LabelBudget) -> TrainingSet | None:
    """The images of the training split that a budget of labels allows; None for all.

    Units, which are patients or other groups where the manifest of the folder knows any and else images, stand in an
    order that the digest of the dataset and their names give alone. Of each class the first units that have an image of
    it are taken: with `shots` so many, with a share so many that their images of the class are nearest to it. All
    images of a unit come with it. So a smaller set is part of a larger one, the classes keep their proportions, and
    every method, seed and machine has the same images.

    Of findings `shots` takes the first units with and the first without each, so many of either, so that there are at
    least as many; of a share see `stratify.nested_part`. What is not known, or uncertain, counts as neither.

    Raises:
        UserError: A class or finding has fewer units than `shots`, or the share leaves it none.
    """
    if budget.is_whole:
        return None
    units, kind = _units(dataset)
    order = sorted(set(units), key=lambda unit: hashlib.sha256(f"{dataset.digest}\0{unit}".encode()).digest())
    if dataset.findings is not None:
        return _with_findings(dataset, budget, units, kind, order)
    samples = dataset.splits["train"]
    chosen: set[str] = set()
    for label, name in enumerate(dataset.classes):
        images = Counter(unit for unit, sample in zip(units, samples, strict=True) if sample.label == label)
        mine = [(unit, images[unit]) for unit in order if images[unit]]
        found = _first_of(mine, budget)
        _check(dataset, name, kind, mine, len(found), budget)
        chosen |= found
    rows = np.flatnonzero([unit in chosen for unit in units])
    counted = Counter(samples[row].label for row in rows)
    counts = {name: counted[label] for label, name in enumerate(dataset.classes)}
    return TrainingSet(rows, counts, kind, len(chosen), _digest(dataset, rows))


def _with_findings(
    dataset: Dataset, budget: LabelBudget, units: Sequence[str], kind: str, order: Sequence[str]
) -> TrainingSet:
    targets = dataset.targets("train")  # (n, C)
    sides = np.stack([targets == 1, targets == 0], axis=1)  # (n, 2, C)
    place = {unit: number for number, unit in enumerate(order)}
    unit_of = np.array([place[unit] for unit in units])
    numbers = np.zeros((len(order), 2, len(dataset.classes)), dtype=np.int64)  # images of each unit
    np.add.at(numbers, unit_of, sides.astype(np.int64))
    if budget.shots is not None:
        _check_shots(dataset, kind, (numbers > 0).sum(axis=0), budget.shots)
        first = (numbers > 0) & (np.cumsum(numbers > 0, axis=0) <= budget.shots)
        chosen = {order[number] for number in np.flatnonzero(first.any(axis=(1, 2))).tolist()}
    else:
        sizes, labels = np.bincount(unit_of), numbers.reshape(len(order), -1)

        def of_share(share: float) -> set[str]:
            return nested_part(order, sizes, labels, share * len(units), dataset.digest)

        chosen = of_share(budget.train_fraction)
        _check_share(dataset, budget.train_fraction, numbers, place, of_share, chosen)
    rows = np.flatnonzero([unit in chosen for unit in units])
    with_it, without = sides[rows].sum(axis=0)
    counts, known = (dict(zip(dataset.classes, own.tolist(), strict=True)) for own in (with_it, with_it + without))
    return TrainingSet(rows, counts, kind, len(chosen), _digest(dataset, rows), known)


def _digest(dataset: Dataset, rows: NDArray[np.int64]) -> str:
    samples = dataset.splits["train"]
    return hashlib.sha256("\n".join(samples[row].path for row in rows).encode()).hexdigest()


def _units(dataset: Dataset) -> tuple[list[str], str]:
    """The unit of each training image, and what one is."""
    samples, groups = dataset.splits["train"], dataset.groups() or {}
    units = [f"group {groups[sample.path]}" if groups.get(sample.path) else sample.path for sample in samples]
    together = dataset.split_origin is not None and len(set(units)) < len(units)
    return units, dataset.split_origin.group_key if together and dataset.split_origin else "image"


def _first_of(units: Sequence[tuple[str, int]], budget: LabelBudget) -> set[str]:
    """The first units of a class, in their order with their images of it."""
    if budget.shots is not None:
        return {unit for unit, _ in units[: budget.shots]}
    wanted = budget.train_fraction * sum(images for _, images in units)
    found, before = set(), 0
    for unit, images in units:
        if before + images / 2 <= wanted:
            found.add(unit)
        before += images
    return found


def _check_shots(dataset: Dataset, kind: str, there: NDArray[np.int64], shots: int) -> None:
    """Checks that there are as many units `(2, C)` with and without each finding."""
    things = "images" if kind == "image" else f"{kind}s"
    for words, numbers in zip(("with", "without"), there, strict=True):
        for name, number in zip(dataset.classes, numbers, strict=True):
            if number < shots:
                raise UserError(
                    f"shots must be at most the {number} training {things} {words} {name} in {dataset.name}, got "
                    f"{shots}; choose fewer"
                )


def _check_share(
    dataset: Dataset,
    share: float,
    numbers: NDArray[np.int64],
    place: Mapping[str, int],
    of_share: Callable[[float], set[str]],
    chosen: Collection[str],
) -> None:
    """Checks that a share leaves images with and without each finding."""

    def lacking(units: Collection[str]) -> NDArray[np.bool_]:
        return np.asarray(numbers[[place[unit] for unit in units]].sum(axis=0) == 0)

    absent = lacking(chosen)
    if absent.any():
        side, index = np.argwhere(absent)[0]
        shares = [number / 1000 for number in range(1, 1001)]
        least = bisect.bisect_left(shares, True, key=lambda each: not lacking(of_share(each)).any())
        raise UserError(
            f"train fraction must leave images with and without each finding, got {share:g} and none "
            f"{('with', 'without')[side]} {dataset.classes[index]} in {dataset.name}; choose at least {shares[least]:g}"
        )


def _check(
    dataset: Dataset, name: str, kind: str, units: Sequence[tuple[str, int]], num_found: int, budget: LabelBudget
) -> None:
    things = "images" if kind == "image" else f"{kind}s"
    if budget.shots is not None and num_found < budget.shots:
        raise UserError(
            f"shots must be at most the {len(units)} training {things} of class {name} in {dataset.name}, got "
            f"{budget.shots}; choose fewer"
        )
    if num_found == 0:
        total, first = sum(images for _, images in units), units[0][1]
        least = math.ceil(1000 * first / (2 * total)) / 1000
        raise UserError(
            f"train fraction must leave every class an image, got {budget.train_fraction:g} of the {total} training "
            f"images of class {name} in {dataset.name}; choose at least {least:g}"
        )
