"""Images of a dataset that are byte for byte the same: in two splits they leak, in two classes one label is wrong."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.choices import SPLITS
from benchmarks.errors import UserError

_MOST = 3  # named in a message


class Identical(NamedTuple):
    """Sets of identical images, each as the paths of all its images, in the order of the splits.

    Attributes:
        leaks: Those that lie in more than one split.
        contradictions: Those that lie in more than one class.
        leaking: The splits of the leaks.
    """

    leaks: tuple[tuple[str, ...], ...]
    contradictions: tuple[tuple[str, ...], ...]
    leaking: tuple[str, ...]

    @property
    def num_leaking(self) -> int:
        """Images that lie in another split too."""
        return sum(map(len, self.leaks))


def find_identical(labels: Mapping[str, Any], splits: Mapping[str, str], hashes: Mapping[str, str]) -> Identical:
    """The identical images of a dataset.

    Args:
        labels: The class, or the findings, of each image by its path.
        splits: Its split.
        hashes: Digest of each image's content by its path.
    """
    alike: dict[str, list[str]] = {}
    for path in labels:
        alike.setdefault(hashes[path], []).append(path)
    sets = [tuple(paths) for paths in alike.values() if len(paths) > 1]
    leaks = tuple(paths for paths in sets if len({splits[path] for path in paths}) > 1)
    return Identical(
        leaks,
        tuple(paths for paths in sets if len({labels[path] for path in paths}) > 1),
        tuple(split for split in SPLITS if any(splits[path] == split for paths in leaks for path in paths)),
    )


def refuse_leaks(name: str, found: Identical) -> None:
    """Stops where a dataset has identical images in several splits.

    Raises:
        UserError: It has; names the first of them.
    """
    if found.leaks:
        raise UserError(
            f"images of {name} must lie in one split each, got {found.num_leaking} that are byte for byte the same in "
            f"{' and '.join(found.leaking)}: {_listed(found.leaks)}; keep each in one split (bench.py check names them "
            "all), or go on with --allow-leaks, which marks their results"
        )


def notes_on(name: str, found: Identical) -> list[str]:
    """What a user who trains on a dataset with identical images should know, a line each."""
    notes = []
    if found.leaks:
        notes.append(f"{found.num_leaking} images of {name} lie in two splits: its results are marked")
    if found.contradictions:
        notes.append(
            f"identical images of {name} are in several classes: {_listed(found.contradictions)}; decide on one each "
            "(bench.py check names them all)"
        )
    return notes


def _listed(sets: Sequence[tuple[str, ...]]) -> str:
    named = ", ".join(" = ".join(map(repr, paths)) for paths in sets[:_MOST])
    return f"{named} and {len(sets) - _MOST} more" if len(sets) > _MOST else named
