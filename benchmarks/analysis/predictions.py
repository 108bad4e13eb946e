"""Stored predictions of a run, read from its file."""

import csv
import hashlib
import io
import json
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.influence import Floats, Integers
from benchmarks.errors import UserError
from benchmarks.storage.csv_cells import from_text


class SplitPredictions(NamedTuple):
    """The images of one split, by path.

    paths: of the images, and names: of their classes.
    labels: class indices `(n,)`.
    values: logits of classes or, where there are none, probabilities `(n, C)`.
    units: what was drawn together `(n,)`: one a group, an image without one alone.
    """

    paths: list[str]
    names: list[str]
    labels: Integers
    values: Floats
    units: Integers

    @property
    def unit(self) -> str:
        """What was drawn: `image` or `group`."""
        return "image" if len(np.unique(self.units)) == len(self.units) else "group"


class Predictions:
    """A file of predictions.

    Args:
        data: csv with the columns split, path, label, prob_<class> and, optionally, logit_<class> and group; images
            that share a group are a unit, those without one alone.

    Attributes:
        classes: Their names, in the order of the columns.
        are_logits: Whether values are logits; else they are probabilities.

    Raises:
        UserError: It is not such a file.
    """

    def __init__(self, data: bytes) -> None:
        header, self._rows = _read_csv(data)
        absent = [name for name in ("split", "path", "label") if name not in header]
        if absent:
            raise UserError(f"columns must be split, path, label, prob_<class>, got none called {absent[0]}")
        self._place = {name: header.index(name) for name in header}
        self.classes = [name.removeprefix("prob_") for name in header if name.startswith("prob_")]
        self.are_logits = all(f"logit_{name}" in self._place for name in self.classes)

    @property
    def splits(self) -> list[str]:
        """Their names, in the order of the file."""
        return list(dict.fromkeys(row[self._place["split"]] for row in self._rows))

    def split(self, split: str) -> SplitPredictions:
        """The predictions of a split; of `test` every class must occur.

        Raises:
            UserError: Labels are not the classes, or values are not finite.
        """
        place, classes = self._place, self.classes
        rows = sorted((row for row in self._rows if row[place["split"]] == split), key=itemgetter(place["path"]))
        paths, names = ([row[place[column]] for row in rows] for column in ("path", "label"))
        found, known = set(names), set(classes)
        if len(classes) < 2 or len(known) < len(classes) or (found != known if split == "test" else not found <= known):
            raise UserError(f"the labels of the {split} split must be the classes that have a prob_<class>, got others")
        columns = [place[f"{'logit' if self.are_logits else 'prob'}_{name}"] for name in classes]
        values = np.array([[float(row[column]) for column in columns] for row in rows]).reshape(-1, len(classes))
        if not np.isfinite(values).all():
            raise UserError("predictions must be finite, got others")
        labels = np.array([classes.index(name) for name in names], dtype=np.int64)
        groups = [row[place["group"]] if "group" in place else "" for row in rows]
        number: dict[str | int, int] = {}
        units = np.array([number.setdefault(group or i, len(number)) for i, group in enumerate(groups)], dtype=np.int64)
        return SplitPredictions(paths, names, labels, values, units)

    def digest(self, split: SplitPredictions) -> str:
        """Hex SHA-256 of the images of a split with their classes and units: what agrees in it was tested alike."""
        tested_on = [split.paths, split.names, self.classes, split.units.tolist()]
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
