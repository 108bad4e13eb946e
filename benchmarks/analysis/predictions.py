"""Stored predictions of a run, read from its file."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.analysis.influence import Floats, Integers
from benchmarks.errors import UserError
from benchmarks.storage.csv_cells import from_text
from benchmarks.tasks import scored_findings

_TARGETS = {"": np.nan, "0": 0.0, "1": 1.0}


class SplitPredictions(NamedTuple):
    """Images of one split with one class each, by path: all of them or, of a finding, those of which it is known.

    rows: of the images among all of the split, by path `(n,)`.
    labels: class indices `(n,)`; of a finding 1 with it and 0 without.
    values: logits of classes or, where there are none, probabilities `(n, C)`; of a finding 0 and its logit.
    units: what was drawn together `(n,)`: one a group, an image without one alone; the same numbers in each part.
    called: index of the class that each image is called `(n,)`.
    finding: which it is of; None for classes.
    """

    rows: Integers
    labels: Integers
    values: Floats
    units: Integers
    called: Integers
    finding: str | None = None


class Tested(NamedTuple):
    """A split as it is scored: the mean over its parts, of which classes have one, findings one each.

    images: digest of its images with their labels and units: what agrees in it was tested alike.
    units: of all images `(n,)`. names: of the classes or, of findings, of the parts. paths: of the images.
    """

    images: str
    parts: tuple[SplitPredictions, ...]
    units: Integers
    names: tuple[str, ...]
    paths: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What was drawn: `image` or `group`."""
        return "image" if len(np.unique(self.units)) == len(self.units) else "group"

    @property
    def members(self) -> NDArray[np.bool_]:
        """Which images have which class; of findings which have each, and which do not `(n, K)`."""
        found = []
        for part in self.parts:
            own = np.zeros((len(self.units), part.values.shape[1]), dtype=np.bool_)
            own[part.rows, part.labels] = True
            found.append(own)
        return np.concatenate(found, axis=1)


class Predictions:
    """A file of predictions.

    Args:
        data: csv with the columns split, path, label, prob_<class> and, optionally, logit_<class>, called (where that
            is not the likeliest class) and group; images that share a group are a unit, those without one alone. Of
            findings, target_<finding> in the place of label: 0, 1, or nothing where it is not known.

    Attributes:
        classes: Their names, or those of findings, in the order of the columns.
        are_logits: Whether values are logits; else they are probabilities.
        has_findings: Whether they are of findings.

    Raises:
        UserError: It is not such a file.
    """

    def __init__(self, data: bytes) -> None:
        header, self._rows = _read_csv(data)
        self.classes = [name.removeprefix("prob_") for name in header if name.startswith("prob_")]
        self.has_findings = "label" not in header and any(name.startswith("target_") for name in header)
        labels = [f"target_{name}" for name in self.classes] if self.has_findings else ["label"]
        absent = [name for name in ("split", "path", *labels) if name not in header]
        if absent:
            raise UserError(f"columns must be split, path, label, prob_<class>, got none called {absent[0]}")
        self._place = {name: header.index(name) for name in header}
        self.are_logits = all(f"logit_{name}" in self._place for name in self.classes)

    @property
    def splits(self) -> list[str]:
        """Their names, in the order of the file."""
        return list(dict.fromkeys(row[self._place["split"]] for row in self._rows))

    def split(self, split: str) -> Tested:
        """The predictions of a split; of `test` every class must occur.

        Of findings it has the parts that can be scored, and of another split all of which anything is known.

        Raises:
            UserError: Labels are not the classes, values are not finite, or no finding can be scored.
        """
        place = self._place
        rows = sorted((row for row in self._rows if row[place["split"]] == split), key=itemgetter(place["path"]))
        paths = [row[place["path"]] for row in rows]
        columns = [place[f"{'logit' if self.are_logits else 'prob'}_{name}"] for name in self.classes]
        values = np.array([[float(row[column]) for column in columns] for row in rows]).reshape(-1, len(self.classes))
        if not np.isfinite(values).all():
            raise UserError("predictions must be finite, got others")
        groups = [row[place["group"]] if "group" in place else "" for row in rows]
        number: dict[str | int, int] = {}
        units = np.array([number.setdefault(group or i, len(number)) for i, group in enumerate(groups)], dtype=np.int64)
        if self.has_findings:
            targets = [[row[place[f"target_{name}"]] for name in self.classes] for row in rows]
            parts = self._findings(split, targets, values, units)
            names = tuple(str(part.finding) for part in parts)
            return Tested(_digest([paths, targets, self.classes, units.tolist()]), parts, units, names, tuple(paths))
        labels = [row[place["label"]] for row in rows]
        part, images = (
            self._of_classes(split, rows, labels, values, units),
            [paths, labels, self.classes, units.tolist()],
        )
        return Tested(_digest(images), (part,), units, tuple(self.classes), tuple(paths))

    def _of_classes(
        self, split: str, rows: Sequence[Sequence[str]], names: Sequence[str], values: Floats, units: Integers
    ) -> SplitPredictions:
        place, classes = self._place, self.classes
        found, known = set(names), set(classes)
        if len(classes) < 2 or len(known) < len(classes) or (found != known if split == "test" else not found <= known):
            raise UserError(f"the labels of the {split} split must be the classes that have a prob_<class>, got others")
        labels = np.array([classes.index(name) for name in names], dtype=np.int64)
        called = values.argmax(axis=1).astype(np.int64)
        if "called" in place:
            called = np.array([classes.index(row[place["called"]]) for row in rows], dtype=np.int64)
        return SplitPredictions(np.arange(len(names)), labels, values, units, called)

    def _findings(
        self, split: str, targets: Sequence[Sequence[str]], values: Floats, units: Integers
    ) -> tuple[SplitPredictions, ...]:
        try:
            known = np.array([[_TARGETS[text] for text in row] for row in targets]).reshape(-1, len(self.classes))
        except KeyError as error:
            raise UserError(f"targets must be 0, 1 or nothing, got {error.args[0]!r}") from error
        chosen = scored_findings(known) if split == "test" else ~np.isnan(known).all(axis=0)
        if split == "test" and not chosen.any():
            raise UserError("a finding must be one that can be scored, got too few images with and without any")
        return tuple(
            self._finding(name, known[:, index], values[:, index], units)
            for index, name in enumerate(self.classes)
            if chosen[index]
        )

    def _finding(self, name: str, target: Floats, values: Floats, units: Integers) -> SplitPredictions:
        """As two classes, which have the same probabilities."""
        rows = np.flatnonzero(~np.isnan(target))
        own = values[rows]
        two = np.stack([np.zeros_like(own) if self.are_logits else 1 - own, own], axis=1)
        return SplitPredictions(rows, target[rows].astype(np.int64), two, units[rows], two.argmax(axis=1), name)


def _digest(tested_on: Any) -> str:
    return hashlib.sha256(json.dumps(tested_on).encode()).hexdigest()


def _read_csv(data: bytes) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a csv file; pandas takes several times longer for so few."""
    try:
        lines = [row for row in csv.reader(io.StringIO(data.decode(), newline="")) if row]
    except csv.Error as error:
        raise UserError(str(error)) from error
    if b"'" in data:
        lines = [list(map(from_text, row)) for row in lines]
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if any(len(row) != len(header) for row in rows):
        raise UserError("rows must have a value for each column, got others")
    return header, rows
