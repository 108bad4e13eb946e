"""Splits a user's own images: folders of links (or copies) with a manifest each, one, or one a fold."""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.choices import SPLITS
from benchmarks.data.bit_depth import FILE as BIT_DEPTH
from benchmarks.data.bit_depth import file_extent, stated_depth
from benchmarks.data.classes import FILE as CLASSES
from benchmarks.data.classes import class_order
from benchmarks.data.findings import Findings, number_faults, write_findings
from benchmarks.data.manifest import (
    Entry,
    SplitOrigin,
    count,
    has_manifest,
    read_about,
    read_entries,
    spanning_groups,
    split_digest,
    write_manifest,
)
from benchmarks.errors import UserError
from benchmarks.images.decode import in_order, inspect_image
from benchmarks.images.depth import common_extent, scale_of
from benchmarks.prepare.batch import Progress
from benchmarks.prepare.find import first
from benchmarks.prepare.kinds import counts_of, rows_of
from benchmarks.prepare.own_images import OwnImage
from benchmarks.prepare.splits import Assignment, Item, assign, assign_folds
from benchmarks.storage.name_key import KEY_FILE

_TEST = 0.2


@dataclass(frozen=True)
class SplitRequest:
    """What is asked for.

    Attributes:
        source: The folder or table of the images.
        data_root: Where the datasets go.
        name: Of the dataset; with folds `-fold1` and so on is added.
        val: Share of the images that validate.
        test: Share of the images that test; None for what is given, one fold, or 0.2.
        folds: How many datasets to make for a cross-validation; None for one dataset.
        seed: Of the splits.
        group_key: What a group is.
        copy: Copy the images instead of linking to them.
        overwrite: Replace datasets that were made with other settings or from other images.
        findings: Names of what images may have several of; none of classes.
    """

    source: Path
    data_root: Path
    name: str
    val: float = 0.1
    test: float | None = None
    folds: int | None = None
    seed: int = 0
    group_key: str = "image"
    copy: bool = False
    overwrite: bool = False
    findings: tuple[str, ...] = ()

    @property
    def targets(self) -> list[Path]:
        """The folders of the datasets."""
        names = [f"{self.name}-fold{number + 1}" for number in range(self.folds)] if self.folds else [self.name]
        return [self.data_root / name for name in names]


@dataclass(frozen=True)
class Made:
    """A dataset.

    Attributes:
        root: Its folder.
        about: Its `manifest.json`.
        new: Whether it was written now.
    """

    root: Path
    about: dict[str, Any]
    new: bool


def split_own(
    images: Sequence[OwnImage], groups: Sequence[str], request: SplitRequest, on_progress: Progress
) -> list[Made]:
    """Splits images by group and writes the datasets, all of them or, where one is refused, none.

    Args:
        images: As `find_own_images` gives them.
        groups: Of the images.
        request: What is asked for.
        on_progress: Called with (images decoded, images in all).

    Raises:
        UserError: Shares, images or targets are not what they must be, or a class of a split stays empty.
    """
    given = any(image.split for image in images)
    _check_shares(request, given)
    pixels = _pixel_digests(images, request, on_progress)
    classes = sorted({image.label for image in images})
    items = [
        Item(str(number), image.values or classes.index(image.label), group, digest, image.split)
        for number, (image, group, digest) in enumerate(zip(images, groups, pixels, strict=True))
    ]
    if request.folds:
        assignments = assign_folds(items, request.folds, request.val, request.seed)
    else:
        test = _TEST if request.test is None else request.test
        shares = {"train": 1 - request.val - test, "val": request.val, "test": test}
        assignments = [assign(items, {"test": "user"} if given else {}, request.seed, shares)]
    if not request.findings:
        class_order(_root(request.source), classes)  # what is wrong with classes.txt is said before anything is written
    planned = []
    for target, assignment in zip(request.targets, assignments, strict=True):
        files = _entries(images, pixels, assignment)
        _check_entries(list(files), classes, request)
        about = _about(request, list(files), assignment, given)
        planned.append((target, files, about, _is_there(target, list(files), about, request.overwrite)))
    for target, files, about, there in planned:
        if not there:
            _write(target, files, about, request)
    return [Made(target, about, not there) for target, _, about, there in planned]


def _check_shares(request: SplitRequest, given: bool) -> None:
    if request.test is not None and (given or request.folds):
        why = "the test split is given" if given else "each fold tests its share"
        raise UserError(f"--test must not be given where {why}, got {request.test:g}; leave it out")
    if given and request.folds:
        raise UserError(
            f"--folds must be of images without a test split, got one in {str(request.source)!r}; leave --folds out, "
            "or give a table of paths and labels"
        )
    test = 1 / request.folds if request.folds else 0 if given else _TEST if request.test is None else request.test
    if request.val + test >= 1:
        raise UserError(
            f"--val and the test split must leave images to train, got shares of {request.val:g} and {test:g}; "
            "choose smaller ones"
        )


def _pixel_digests(images: Sequence[OwnImage], request: SplitRequest, on_progress: Progress) -> list[str]:
    """What each image shows: identical ones must not lie in two splits."""
    unreadable: list[str] = []
    scale = scale_of(
        common_extent(in_order(lambda image: _tried(file_extent, image.file), images)),
        stated_depth(_root(request.source)),
    )
    digests = []
    for image, facts in zip(
        images, in_order(lambda image: _tried(lambda file: inspect_image(file, scale), image.file), images), strict=True
    ):
        if facts is None:
            unreadable.append(str(image.file))
        digests.append(facts.pixels if facts is not None else "")
        on_progress(len(digests), len(images))
    if unreadable:
        raise UserError(
            f"images must be readable, got {len(unreadable)} that are not: {first(unreadable)}; replace them or take "
            "them out"
        )
    return digests


def _tried(read: Any, file: Path) -> Any:
    try:
        return read(file)
    except (UserError, OSError):
        return None  # all such files are named together


def _root(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _entries(images: Sequence[OwnImage], pixels: Sequence[str], assignment: Assignment) -> dict[Entry, Path]:
    """The file of each entry; without those that are left out, as an identical one is in the given test split."""
    entries = {}
    for number, (image, digest) in enumerate(zip(images, pixels, strict=True)):
        split = assignment.splits.get(str(number))
        if split is not None:
            path, group = f"{split}/{image.shown}", assignment.groups[str(number)]
            entries[Entry(path, split, image.label, group, image.source, digest)] = image.file
    return entries


def _check_entries(entries: list[Entry], classes: list[str], request: SplitRequest) -> None:
    spanning = spanning_groups(entries)
    if spanning:
        raise UserError(
            f"groups must lie in one split each, got {len(spanning)} in the given train and test splits: "
            f"{first(spanning)}; give a table of paths and labels to split them anew"
        )
    if request.findings:
        table = Findings(request.findings, tuple(rows_of(entries, request.findings)), True)
        for fault in number_faults(table):
            raise UserError(
                f"the splits of {str(request.source)!r} must {fault.rule}, got {fault.got}; add images, or take a "
                "column out"
            )
        return
    counts = count(entries)
    empty = [f"{split}/{name}" for split in SPLITS for name in classes if not counts.get(split, {}).get(name)]
    if empty:
        needed = f"{max(3, request.folds)} groups for {request.folds} folds" if request.folds else "3 groups"
        raise UserError(
            f"each class must have images in each split, got none in {', '.join(empty[:9])}; a class needs at least "
            f"{needed} (by {request.group_key}): add images, join it with another class, or take it out; if these are "
            "no classes, give a table with a path and a label in each row"
        )


def _about(request: SplitRequest, entries: list[Entry], assignment: Assignment, given: bool) -> dict[str, Any]:
    notes = []
    if assignment.identical:
        notes.append(
            f"{assignment.identical} images have an identical one: kept in one split, {len(assignment.dropped)} left "
            f"out of the given train split; {assignment.contradictory} of them differ in what they are labelled"
        )
    parts = {"train": "ours", "val": "ours", "test": "user" if given else "ours"}
    origin = SplitOrigin("ours", parts, request.group_key, request.seed, split_digest(entries))
    return {
        "dataset": request.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "raw": request.source.resolve().name,
        "settings": {"val": request.val, "test": request.test, "folds": request.folds, "copy": request.copy},
        "complete": True,
        "split": origin.as_json(),
        "num_groups": len({entry.group for entry in entries}),
        "counts": counts_of(entries, request.findings),
        "images": dict(Counter(entry.split for entry in entries)),
        "notes": notes,
        "excluded": [],
    }


def _is_there(target: Path, entries: list[Entry], about: dict[str, Any], overwrite: bool) -> bool:
    """Whether a dataset is there and the same; one that differs is replaced only where that is asked for.

    Raises:
        UserError: There is something else.
    """
    if not target.exists():
        return False
    if not has_manifest(target):
        raise UserError(
            f"{str(target)!r} must be absent or made by bench.py split, got a folder without a manifest; choose "
            "another --name or --data-root"
        )
    old = read_about(target)
    intact = all((target / entry.path).is_file() for entry in entries)
    if intact and old["settings"] == about["settings"] and read_entries(target) == sorted(entries):
        return True
    if not overwrite or "folds" not in old["settings"]:
        made = "made" if "folds" in old["settings"] else "made by bench.py split and not by prepare, nor"
        raise UserError(
            f"{str(target)!r} must not have been {made} with other settings or from other images; give --overwrite to "
            "replace it, or choose another --name"
        )
    return False


def _write(target: Path, files: dict[Entry, Path], about: dict[str, Any], request: SplitRequest) -> None:
    """Makes the folder under another name and renames it, so that one that was killed leaves no half a dataset."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made, old = Path(scratch) / "made", Path(scratch) / "old"
        for entry, file in files.items():
            place = made / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if request.copy:
                shutil.copyfile(file, place)
            else:
                place.symlink_to(file.resolve())
        if request.findings:
            write_findings(made, request.findings, rows_of(list(files), request.findings))
        write_manifest(made, list(files), about)
        names = (BIT_DEPTH,) if request.findings else (CLASSES, BIT_DEPTH)
        beside = [(_root(request.source), name) for name in names]
        for folder, name in [*beside, (target, KEY_FILE)]:  # stored results were hashed with the key
            if (folder / name).is_file():
                shutil.copy2(folder / name, made / name)
        if target.exists():
            target.rename(old)
        try:
            made.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
