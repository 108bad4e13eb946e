"""How many labels the runs of a plan have, and which methods can do with as many."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from benchmarks.config import Imbalance, LabelBudget
from benchmarks.data.dataset import Dataset
from benchmarks.data.training_set import choose_training_set
from benchmarks.errors import UserError
from benchmarks.model.variants import Variant
from benchmarks.suite.options import SuiteOptions
from methods import METHODS


class Labelled(NamedTuple):
    """A dataset with a budget of labels.

    num_images: That it gives. digest: Of these, None for all. batch_size: How many of them a step takes.
    """

    dataset: Dataset
    budget: LabelBudget
    num_images: int
    digest: str | None
    batch_size: int

    @property
    def said(self) -> str:
        """Its images, in words."""
        whole = f"the {len(self.dataset.splits['train'])} training images of {self.dataset.name}"
        some = f"the {self.num_images} that are trained on ({self.budget.train_labels} of {whole})"
        return whole if self.digest is None else some


def labelled_sets(options: SuiteOptions, dataset: Dataset) -> list[Labelled]:
    """A dataset with each budget of labels that is asked for.

    Raises:
        UserError: It has too few for one.
    """
    batch_size = options.batch_size or dataset.batch_size
    found = []
    for budget in options.label_budgets:
        chosen = choose_training_set(dataset, budget)
        num_images = len(dataset.splits["train"] if chosen is None else chosen.rows)
        found.append(Labelled(dataset, budget, num_images, chosen.digest if chosen else None, batch_size))
        if batch_size > num_images:
            raise UserError(
                f"batch size must be at most {found[-1].said}, got {batch_size!r}; choose a smaller --batch-size"
            )
    return found


def with_a_loss(
    variants: Sequence[Variant], imbalance: Imbalance, named: Collection[str], notes: list[str]
) -> list[Variant]:
    """The variants that can do something about imbalance; a note on others that a group asked for.

    Raises:
        UserError: One that trains nothing by gradients was asked for by name.
    """
    without = [variant for variant in variants if imbalance != "none" and METHODS[variant.method].gradient_free]
    for variant in without:
        why = f"imbalance {imbalance} must be of a method that trains by gradients, and {variant.name} has no loss"
        if variant.method in named or len(without) == len(variants):
            raise UserError(f"{why}; leave out --imbalance, or the method")
        notes.append(f"{why}: it is left out")
    return [variant for variant in variants if variant not in without]


def with_enough(
    variants: Sequence[Variant], sizes: Sequence[Labelled], named: Collection[str], notes: list[str]
) -> list[Variant]:
    """The variants for which there are images enough; a note on others that a group asked for.

    Args:
        variants: All that were asked for.
        sizes: Of all runs.
        named: Methods that were asked for by name.
        notes: To add to.

    Raises:
        UserError: One whose method was asked for by name has too few.
    """
    few, small = min(sizes, key=lambda size: size.num_images), min(sizes, key=lambda size: size.batch_size)
    kept: list[Variant] = []
    for variant in variants:
        method = METHODS[variant.method]
        least, options = method.min_images(variant.config), f"other options of it (--set {variant.method}.OPTION=VALUE)"
        if few.num_images < least:
            said, instead = f"{least} training images, got {few.said}", options
        elif small.batch_size < method.min_batch_size:
            said = f"{method.min_batch_size} images a step, got a batch size of {small.batch_size}"
            said += f" on {small.dataset.name}"
            instead = "a larger --batch-size"
        else:
            kept.append(variant)
            continue
        if variant.method in named:
            raise UserError(f"{variant.name} must have at least {said}; choose {instead}, or leave it out")
        notes.append(f"{variant.name} must have at least {said}: it is left out")
    return kept
