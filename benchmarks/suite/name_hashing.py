"""What a suite does for `--hash-names`: it makes the keys, and a run hashes with them what it stores."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.choices import SPLITS
from benchmarks.config import Places
from benchmarks.data.dataset import find_root
from benchmarks.errors import UserError
from benchmarks.records.hashed_names import hash_names
from benchmarks.records.record import predictions_path, read_record
from benchmarks.records.schema import Record
from benchmarks.storage.name_key import hashed, key_id, make_key, read_key
from benchmarks.suite.tuning import tuned_runs

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.suite.planned import Plan
    from benchmarks.suite.suite import Work


def make_keys(plan: "Plan") -> None:
    """Makes the keys of a plan's datasets that have none, and checks those that have one.

    Raises:
        UserError: A key cannot be made or read.
    """
    for place in dict.fromkeys((run.places.dataset, run.places.data_root) for run in plan.runs):
        _, root = find_root(*place)
        make_key(root)
        read_key(root)


def say_named(work: "Work") -> None:
    """Says on stderr how many stored runs keep the names that they were stored with."""
    number = sum(1 for _ in _named(work))
    if number:
        print(
            f"note: predictions of {number} stored runs name their images: --overwrite makes them again with hashed "
            "names",
            file=sys.stderr,
        )


def _named(work: "Work") -> Iterator[str]:
    """Runs of the suite that are not due, and whose predictions have names."""
    for run in (run for cell in work.plan.cells for run in tuned_runs(cell, work.results) or ()):
        run_id = run.config.run_id
        if work.runs.is_due(run_id) or not predictions_path(work.results, run_id).exists():
            continue
        try:
            record = read_record(work.runs.folder / f"{run_id}.json")
        except UserError:
            continue  # it is told of elsewhere
        if not record["run"].get("names_key"):
            yield run_id


@dataclass(frozen=True)
class NameHashing:
    """Hashes the names in what a run stores.

    Attributes:
        root: The dataset's folder.
        key: Its key.
    """

    root: Path
    key: bytes

    @staticmethod
    def of(places: Places) -> "NameHashing":
        """For a run.

        Raises:
            UserError: The key cannot be read.
        """
        _, root = find_root(places.dataset, places.data_root)
        return NameHashing(root, read_key(root))

    def apply(self, record: Record, probabilities: "pd.DataFrame | None") -> "tuple[Record, pd.DataFrame | None]":
        """The record, which says with which key, and the predictions."""
        run: dict[str, Any] = record["run"] | {"names_key": key_id(self.key)}
        run["notes"] = list(map(self._hash_paths, run["notes"]))
        status = record["status"]
        if status["message"]:
            status = status | {"message": self._hash_paths(status["message"])}
        frame = None if probabilities is None else hash_names(probabilities, self.key)
        return record | {"run": run, "status": status}, frame

    def _hash_paths(self, text: str) -> str:
        """A text in which digests stand for the paths of images; they are those of the predictions."""
        images = rf"((?:{'|'.join(SPLITS)})/(?:[^'\"\n]+(?=['\"])|[^\s'\"]+))"
        pattern = re.escape(f"{self.root}/") + images
        return re.sub(pattern, lambda found: f"{self.root}/{hashed(found[1], 'image', self.key)}", text)
