"""Smaller training sets: a share of the labels, or so many of each class; smaller ones lie within larger ones."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.config import LabelBudget
from benchmarks.data.dataset import Dataset
from benchmarks.data.manifest import read_entries
from benchmarks.errors import UserError


class TrainingSet(NamedTuple):
    """The images of a training split that are trained on.

    rows: Their places in the split, rising `(n,)`.
    counts: Images by class.
    unit: What is in or out whole: `image`, or what the manifest calls a group, as `patient`.
    num_units: How many of these.
    digest: Hex SHA-256 of their paths.
    """

    rows: NDArray[np.int64]
    counts: dict[str, int]
    unit: str
    num_units: int
    digest: str

    def as_json(self) -> dict[str, object]:
        """For records."""
        return {"num_images": len(self.rows), "counts": self.counts, "unit": self.unit, "num_units": self.num_units}


def choose_training_set(dataset: Dataset, budget: LabelBudget) -> TrainingSet | None:
    """The images of the training split that a budget of labels allows; None for all.

    Units, which are patients or other groups where the manifest of the folder knows any and else images, stand in an
    order that the digest of the dataset and their names give alone. Of each class the first units that have an image of
    it are taken: with `shots` so many, with a share so many that their images of the class are nearest to it. All
    images of a unit come with it. So a smaller set is part of a larger one, the classes keep their proportions, and
    every method, seed and machine has the same images.

    Raises:
        UserError: A class has fewer units than `shots`, or the share leaves it none.
    """
    if budget.is_whole:
        return None
    samples = dataset.splits["train"]
    units, kind = _units(dataset)
    order = sorted(set(units), key=lambda unit: hashlib.sha256(f"{dataset.digest}\0{unit}".encode()).digest())
    chosen: set[str] = set()
    for label, name in enumerate(dataset.classes):
        images = Counter(unit for unit, sample in zip(units, samples, strict=True) if sample.label == label)
        mine = [(unit, images[unit]) for unit in order if images[unit]]
        found = _first_of(mine, budget)
        _check(dataset, name, kind, mine, len(found), budget)
        chosen |= found
    rows = np.flatnonzero([unit in chosen for unit in units])
    paths = "\n".join(samples[row].path for row in rows)
    counted = Counter(samples[row].label for row in rows)
    counts = {name: counted[label] for label, name in enumerate(dataset.classes)}
    return TrainingSet(rows, counts, kind, len(chosen), hashlib.sha256(paths.encode()).hexdigest())


def _units(dataset: Dataset) -> tuple[list[str], str]:
    """The unit of each training image, and what one is."""
    samples = dataset.splits["train"]
    groups: Mapping[str, str] = {}
    if dataset.split_origin is not None:
        groups = {entry.path: entry.group for entry in read_entries(dataset.root)}
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
