"""A table of findings that a model was not trained on, with the findings that the model knows."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.choices import FEW_UNITS, not_one_of
from benchmarks.data.findings import FILE, OWN_COLUMNS, check_files, parse_table, read_header, targets_of
from benchmarks.data.hashes import content_hashes
from benchmarks.errors import MissingError, UserError
from benchmarks.inference.labelled_folder import TEST, ClassMap, LabelledFolder
from benchmarks.storage.files import why_no_file
from benchmarks.tasks import scored_findings


def open_labelled_table(
    place: Path, findings: Sequence[str], class_map: ClassMap | None, cache: Path
) -> tuple[LabelledFolder, list[str]]:
    """Lists and hashes the images of a table: those of its test split, or all where it has no splits.

    What is not known of an image, or uncertain, is masked; so is all of a finding that the table lacks.

    Args:
        place: A csv table with `path` and a column for each finding, or a folder that holds one called labels.csv.
        findings: Of the model, in its order.
        class_map: Which finding each column is, where they are named otherwise; None leaves a column out.
        cache: Content hashes are kept there.

    Returns:
        The images, and what a user should know, a line each.

    Raises:
        UserError: It is no such table, none of its findings can be scored, or the map is not about them.
    """
    path = place / FILE if place.is_dir() else place
    if not path.is_file():
        raise MissingError(
            f"data must be a table of findings, or a folder with {FILE}, got {str(place)!r}; {why_no_file(path)}"
        )
    columns = [name for name in read_header(path) if name not in OWN_COLUMNS]
    named = _named(path, columns, findings, class_map)
    table = parse_table(path, list(named), TEST)
    rows = table.split(TEST)
    if not rows:
        raise UserError(f"data must have images whose split is test, got none in {str(path)!r}; add some")
    check_files(path, rows)
    known = pd.DataFrame(targets_of([row.values for row in rows]), columns=list(named.values()))
    targets = known.reindex(columns=list(findings))
    scored = scored_findings(targets.to_numpy())
    if not scored.any():
        raise UserError(
            f"data must have a finding of the model that at least {FEW_UNITS} images have and {FEW_UNITS} do not, got "
            f"none in {str(path)!r}; add images"
        )
    names = [row.path for row in rows]
    hashes = content_hashes(path.parent, names, cache)
    total = hashlib.sha256("\0".join(["findings", *findings]).encode() + b"\n")
    for name, values in zip(names, targets.to_numpy(), strict=True):
        said = ",".join("" if np.isnan(value) else str(int(value)) for value in values)
        total.update("\0".join([said, name, hashes[name]]).encode() + b"\n")
    unscored = [name for name, own in zip(findings, scored, strict=True) if not own]
    number_of = {value: {name: int((targets[name] == value).sum()) for name in findings} for value in (1, 0)}
    about = {
        "images": len(rows),
        "known": {name: number_of[1][name] + number_of[0][name] for name in findings},
        "unscored": unscored,
    }
    labels = {f"target_{name}": targets[name].astype("Int64").array for name in findings}
    groups = [row.group for row in rows] if table.has_groups else None
    title = path.parent.resolve().name if path.name == FILE else path.stem
    found = LabelledFolder(
        path.parent, names, labels, groups, number_of[1], class_map, total.hexdigest(), title, about,
    )  # fmt: skip
    return found, list(_notes(found.name, findings, columns, named, unscored))


def _named(path: Path, columns: Sequence[str], findings: Sequence[str], class_map: ClassMap | None) -> dict[str, str]:
    """The finding of each column that is one of the model."""
    for column, name in (class_map or {}).items():
        if column not in columns:
            raise UserError(not_one_of(f"column in the class map of {str(path)!r}", columns, column))
        if name is not None and name not in findings:
            raise UserError(not_one_of(f"finding of {column!r} in the class map", findings, name))
    meant = {column: column if column in findings else None for column in columns} | (class_map or {})
    named = {column: name for column, name in meant.items() if name is not None}
    twice = [name for name in named.values() if list(named.values()).count(name) > 1]
    if twice:
        both = [column for column, name in named.items() if name == twice[0]]
        raise UserError(
            f"each finding must be one column of {str(path)!r}, got {' and '.join(both)} for {twice[0]}; leave one out "
            "with --class-map FILE, a line 'column:'"
        )
    if not named:
        raise UserError(
            f"columns must be named as findings of the model ({', '.join(findings)}), got "
            f"{', '.join(columns) or 'none'} in {str(path)!r}; say with --class-map FILE which finding each is, a line "
            "'column: finding' each"
        )
    return named


def _notes(
    name: str, findings: Sequence[str], columns: Sequence[str], named: dict[str, str], unscored: Sequence[str]
) -> Iterator[str]:
    absent = [finding for finding in findings if finding not in named.values()]
    unused = [column for column in columns if column not in named]
    few = [finding for finding in unscored if finding not in absent]
    if absent:
        yield f"{name} says nothing of {', '.join(absent)}"
    if few:
        yield f"not scored, as fewer than {FEW_UNITS} images of {name} have them, or fewer do not: {', '.join(few)}"
    if unused:
        yield f"columns of {name} that are no findings of the model are not used: {', '.join(unused)}"
