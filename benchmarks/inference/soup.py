"""Soups: the mean of the weights of runs that differ in their seed, as one model, chosen on validation.

Wortsman et al., Model soups, ICML 2022 (arXiv:2203.05482): the uniform soup is the mean of all; the greedy one begins
with the best on validation and adds the others in that order, each where validation does not fall. There the models
had one initialisation; here each seed has begun from a head, adapters or prompts of its own, whose mean may be far from
each of them. Validation tells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.analysis.soups import SOUP, members_digest
from benchmarks.choices import SoupWay
from benchmarks.data.dataset import Dataset
from benchmarks.errors import UserError
from benchmarks.inference.card import Card, make_card, packed, unpacked
from benchmarks.inference.evaluate import (
    names_key,
    same_but_for_the_seed,
    settings_but_the_seed,
    store_evaluation,
    stored_evaluation,
)
from benchmarks.inference.kept import Kept, mean_of
from benchmarks.inference.predict import image_probabilities, predict
from benchmarks.inference.stored_models import run_with_model, score_of, stored_model
from benchmarks.inference.trained import in_use
from benchmarks.records.record import predictions_path
from benchmarks.records.schema import Record
from benchmarks.records.stored import evaluation_results
from benchmarks.scores import preference
from benchmarks.storage.csv_cells import from_text
from benchmarks.tasks import task_of
from benchmarks.training.metrics import classification_metrics

_VAL, _TEST = "val", "test"


@dataclass(frozen=True)
class Member:
    """A run whose model may be in a soup: its record, and its model's file."""

    record: Record
    card: Card
    kept: Kept

    @property
    def run_id(self) -> str:
        """Its run."""
        return str(self.record["run_id"])


@dataclass(frozen=True)
class Kitchen:
    """Where soups are made and measured.

    Attributes:
        results: The results root.
        dataset: On which the members were trained.
        device, cache, weights: As of `load_model`.
        batch_size: Images at a time; None for as many as in the runs.
        on_progress: Called with (what is measured, images done, images in all) now and then.
    """

    results: Path
    dataset: Dataset
    device: str
    cache: Path
    weights: str | None = None
    batch_size: int | None = None
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None

    def logits(self, card: Card, kept: Kept, split: str) -> NDArray[np.float64]:
        """What a model says of a split `(n, C)`: merged on the test split, and apart on validation, as in a run."""
        model = in_use(card, kept, self.device, self.cache, self.weights, split == _TEST, str(card["run_id"]))
        paths = [self.dataset.root / sample.path for sample in self.dataset.splits[split]]
        frame, problems = predict(
            model, paths, self.batch_size, lambda done, total: self.on_progress(split, done, total)
        )
        if problems:
            raise UserError(
                f"dataset must hold images that can be read, got {len(problems)} that cannot: {problems[0]}"
            )
        return frame[[f"logit_{name}" for name in model.classes]].to_numpy(dtype=np.float64)

    def scores(self, card: Card, split: str, logits: NDArray[np.float64]) -> dict[str, Any]:
        """The metrics of what a model says of a split, as in the record of a run."""
        labels = np.array([sample.label for sample in self.dataset.splits[split]])
        dataset = self.dataset
        return classification_metrics(labels, logits, dataset.classes, dataset.ordered, task_of(card["config"]))

    def validation(self, card: Card, kept: Kept) -> tuple[tuple[float, float], NDArray[np.float64]]:
        """How good a model is on validation, as `preference` has it, and its logits there."""
        logits = self.logits(card, kept, _VAL)
        found = self.scores(card, _VAL, logits)
        return preference(found["auc"], found["loss"]), logits


def soup_members(results: Path, run_ids: Sequence[str]) -> list[Member]:
    """The models of some runs, the best on validation first; of one run alone, those of all its seeds.

    Raises:
        UserError: There are fewer than two, they differ in more than their seed, or have no weights that were trained.
    """
    named = [run_with_model(results, run_id) for run_id in dict.fromkeys(run_ids)]
    first = named[0]
    for other in named[1:]:
        if differing := _differing(first, other):
            raise UserError(
                f"runs of a soup must differ in their seed alone, got {first['run_id']} and {other['run_id']}, which "
                f"differ in {differing}; name runs of one method and its options at one place"
            )
    if task_of(first["run"]["config"]).has_findings:
        raise UserError(
            f"runs of a soup must be of classes, got {first['run_id']}, which tells findings; use bench.py tables "
            "--ensembles seeds, which averages what they say"
        )
    if first["run"]["config"]["epochs"] is None:
        raise UserError(
            f"runs of a soup must have weights that were trained, got {first['run_id']}: "
            f"{first['run']['config']['method']} makes its model from the features of its training images, and trains "
            "none that could be averaged"
        )
    records = same_but_for_the_seed(results, first) if len(named) == 1 else named
    if len(records) < 2:
        raise UserError(
            f"runs of a soup must be 2 or more whose models are kept, got {first['run_id']} alone; run more --seeds "
            "with --keep-models all"
        )
    found = [Member(record, *unpacked(*stored_model(results, record["run_id"]))) for record in records]
    mean_of([member.kept for member in found])  # refuses before anything is measured
    return sorted(found, key=lambda member: score_of(member.record), reverse=True)


def _differing(first: Record, other: Record) -> str:
    """The settings in which two runs differ beside their seed, with the values of both."""
    one, two = (_flat(settings_but_the_seed(record)) for record in (first, other))
    names = [name for name in (*one, *(name for name in two if name not in one)) if one.get(name) != two.get(name)]
    return ", ".join(f"{name} ({one.get(name)!r} and {two.get(name)!r})" for name in names)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "options"} | settings["options"]


def cook(kitchen: Kitchen, members: Sequence[Member], way: SoupWay) -> Record:
    """Makes a soup, scores it on validation and once on the test split, and stores that; stored ones are not redone.

    Args:
        kitchen: Where.
        members: Of the soup, best first.
        way: How it is made.

    Returns:
        The record, as it is stored among the evaluations.
    """
    best, name = members[0], _name(members, way)
    found = stored_evaluation(kitchen.results, best.record, name)
    if found is not None:
        return found
    used, kept, val = _chosen(kitchen, members, way)
    logits = {_VAL: val, _TEST: kitchen.logits(best.card, kept, _TEST)}
    task = task_of(best.record["run"]["config"])
    frames = [image_probabilities(kitchen.dataset, split, values, task) for split, values in logits.items()]
    predictions = pd.concat(frames, ignore_index=True)
    soup = {
        "way": way,
        "members": " ".join(member.run_id for member in members),
        "members_sha256": _digest(members),
        "used": " ".join(member.run_id for member in used),
        "best_val_auc": best.record["measurements"][_VAL]["auc"],
    }
    of_run = best.record["run"]["dataset"]
    data = {"name": of_run["name"], "digest": of_run["digest"], "counts": of_run["counts"][_TEST]}
    return store_evaluation(
        kitchen.results,
        best.record,
        name,
        {"kind": SOUP, "data": data, "soup": soup},
        predictions,
        torch.device(kitchen.device),
        names_key(best.record, kitchen.dataset.root),
        {_VAL: kitchen.scores(best.card, _VAL, val), "parameters": best.record["measurements"]["parameters"]},
    )


def _name(members: Sequence[Member], way: SoupWay) -> str:
    return f"{members[0].run_id}@{SOUP}-{way}-{_digest(members)[:10]}"


def _digest(members: Sequence[Member]) -> str:
    return members_digest([str(member.record["predictions_sha256"]) for member in members])


def _chosen(
    kitchen: Kitchen, members: Sequence[Member], way: SoupWay
) -> tuple[list[Member], Kept, NDArray[np.float64]]:
    """The members that are used, their mean, and its logits on validation."""
    card = members[0].card
    if way == "uniform":
        kept = mean_of([member.kept for member in members])
        return list(members), kept, kitchen.validation(card, kept)[1]
    used, kept = [members[0]], members[0].kept
    best, logits = kitchen.validation(card, kept)
    for member in members[1:]:
        tried = mean_of([one.kept for one in (*used, member)])
        score, now = kitchen.validation(card, tried)
        if score >= best:
            used, kept, best, logits = [*used, member], tried, score, now
    return used, kept, logits


def soup_file(results: Path, members: Sequence[Member], record: Record) -> bytes:
    """The content of a soup's model file, which is used as that of a run is.

    Args:
        results: The results root.
        members: Of the soup.
        record: As `cook` gives it.
    """
    soup = record["evaluation"]["soup"]
    by_run = {member.run_id: member for member in members}
    kept = mean_of([by_run[run_id].kept for run_id in soup["used"].split()])
    predictions = pd.read_csv(predictions_path(evaluation_results(results), record["run_id"]), dtype=str)
    predictions = predictions.map(from_text, na_action="ignore").rename(columns=from_text)
    return packed(kept.tensors, make_card(record, kept, predictions) | {"soup": soup})
