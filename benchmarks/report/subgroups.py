"""Tables of subgroups of the test images: a column each, the worst, and the gap."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.analysis.folds import FoldRuns, fold_groups
from benchmarks.analysis.subgroups import ALL_SCORES, load_groups, subgroup_rows
from benchmarks.analysis.summary import blocks, summary
from benchmarks.choices import AUC, FEW_UNITS
from benchmarks.data.manifest import read_column
from benchmarks.errors import UserError
from benchmarks.names import shortened
from benchmarks.report.captions import title
from benchmarks.report.entries import Column, Entry
from benchmarks.report.table_parts import TablePart, write_parts
from benchmarks.storage.name_key import hashed, read_key

HOW = (
    "A score is the mean over the seeds that are averaged in the other tables. In brackets its interval over patients "
    "(or images, where no groups are known; resampled within the subgroup) and seeds. All subgroups of a method hold "
    "together at 95 % (each has the level of 5 % by their number), so that of the worst does too, whichever it is. "
    "Gap: by how much the best is better than the worst; its interval is that of one of all pairs of subgroups "
    "(Bonferroni), and leaves 0 out where they are told apart. Neither is corrected over methods and scores. "
    "Subgroups differ in more than their name, as in how often a class occurs, on which AUPRC, Brier and MCC depend. "
    f"A subgroup with fewer than {FEW_UNITS} patients or images of a class is named and not scored."
)

OVER_FOLDS = (
    "Here a score is the mean over folds, each of other patients; a subgroup is scored that is large enough in each."
)


def column_values(frame: pd.DataFrame, data_root: Path, column: str) -> tuple[dict[str, Mapping[str, str]], list[str]]:
    """The subgroup of each image by the id of the run that was tested on it, and a line for each dataset without.

    Args:
        frame: Runs, as `records.runs_frame` gives them.
        data_root: Where the folders of datasets lie, which are read alone.
        column: Of their manifests.
    """
    found: dict[str, Mapping[str, str]] = {}
    problems = []
    finished = frame[frame["state"] == "ok"]
    for (dataset, is_hashed), runs in finished.groupby(["dataset", finished["names_key"].notna()]):
        root = data_root / str(dataset)
        try:
            values: Mapping[str, str] = read_column(root, column)
            if is_hashed:
                secret = read_key(root)
                values = {hashed(path, "image", secret): value for path, value in values.items()}
        except UserError as error:
            problems.append(str(error))
        else:
            found |= dict.fromkeys(runs["run_id"], values)
    return found, problems


class Subgroups(NamedTuple):
    """Tables of subgroups: what stands before their files' name, their rows, tables, and how to read them."""

    prefix: str
    rows: pd.DataFrame
    parts: list[TablePart]
    how: str


def make_subgroups(
    results: Path,
    frame: pd.DataFrame,
    column: str,
    data_root: Path,
    scores: Sequence[str],
    mix_code: bool = False,
    folds: FoldRuns | None = None,
) -> tuple[list[Subgroups], list[str]]:
    """The tables of subgroups by a column, with folds those over folds too; none where nothing can be scored.

    Args:
        results: The results root.
        frame: Its runs, as `records.runs_frame` gives them.
        column: Of the manifests.
        data_root: Where the folders of datasets lie.
        scores: Names of scores beside AUC.
        mix_code: Whether runs that different code has trained are averaged.
        folds: The runs averaged over folds, where that is asked for.

    Returns:
        The tables, and a line for each dataset or run that has no subgroups.
    """
    values, problems = column_values(frame, data_root, column)
    groups, unread = load_groups(results, frame, values)
    asked = [("", frame, groups, HOW)]
    if folds is not None and len(folds.frame):
        asked.append(("folds-", folds.frame, folds.averaged(groups, fold_groups), f"{HOW} {OVER_FOLDS}"))
    made = []
    for prefix, runs, found, how in asked:
        rows = subgroup_rows(summary(runs, mix_code), found, [AUC, *scores])
        if len(rows):
            made.append(Subgroups(prefix, rows, list(_parts(rows, column)), how))
    return made, problems + unread


def write_subgroups(results: Path, column: str, made: Sequence[Subgroups]) -> list[Path]:
    """Writes subgroups-<column>.md, .csv and .tex to `results/tables`, those over folds as folds-subgroups-<column>."""
    name = f"subgroups-{shortened(re.sub(r'[^A-Za-z0-9_-]', '_', column))}"
    paths: list[Path] = []
    for prefix, rows, parts, how in made:
        label = f"{prefix}subgroups"
        paths += write_parts(results, prefix + name, f"Subgroups by {column}", how, rows, parts, label=label)
    return paths


def _parts(rows: pd.DataFrame, column: str) -> Iterator[TablePart]:
    """The table of each dataset and protocol, and score, a row a cell."""
    for block in blocks(rows):
        for name, part in block.groupby("score", sort=False):
            values = list(dict.fromkeys(part.loc[~part["is_gap"] & part["scored"].astype(bool), "subgroup"]))
            cells = part.drop_duplicates(["resolution", "label"])
            yield TablePart(
                f"{title(block)} by {column}: {ALL_SCORES[str(name)].title}",
                cells,
                _columns(part, values),
                _notes(part),
            )


def _columns(part: pd.DataFrame, values: Sequence[str]) -> list[Column]:
    name = str(part["score"].iloc[0])
    unit = " (%)" if ALL_SCORES[name].percent else ""
    places = {(row["resolution"], row["label"], row["is_gap"], row["subgroup"]): row for _, row in part.iterrows()}
    worst = {(row["resolution"], row["label"]): row for _, row in part[part["is_worst"].astype(bool)].iterrows()}

    def of(value: str, is_gap: bool) -> Callable[[pd.Series], Entry]:
        return lambda row: _entry(name, places.get((row["resolution"], row["label"], is_gap, value)), is_gap)

    def worst_of(row: pd.Series) -> Entry:
        found = worst.get((row["resolution"], row["label"]))
        return Entry("–" if found is None else str(found["subgroup"]))

    return [
        Column("Method", "Method", 0, lambda row: Entry(str(row["label"]))),
        *(Column(f"{value}{unit}", "", 0, of(value, False)) for value in values),
        Column("Worst", "", 0, worst_of),
        Column("Gap", "", 0, of("gap", True)),
        Column("Seeds", "", 0, lambda row: Entry(str(row["seeds_ok"]))),
    ]


def _entry(name: str, found: "pd.Series | None", signed: bool) -> Entry:
    if found is None or pd.isna(found["group_mean"]):
        return Entry("–")
    scale, digits = (100, 1) if ALL_SCORES[name].percent else (1, 3)
    sign = "+" if signed else ""
    mean, low, high = (f"{scale * found[f'group_{end}']:{sign}.{digits}f}" for end in ("mean", "low", "high"))
    return Entry(f"{mean} ({low} to {high})".replace("-", "−"))


def _notes(part: pd.DataFrame) -> list[str]:
    groups = part[~part["is_gap"]].drop_duplicates("subgroup")
    sizes = {row["subgroup"]: (int(row["num_images"]), int(row["fewest_units"])) for _, row in groups.iterrows()}
    enough = set(groups.loc[groups["scored"].astype(bool), "subgroup"])
    counts = [f"{name}: {number} images" for name, (number, _) in sizes.items() if name in enough]
    small = [
        f"{name} ({number} images, {fewest} patients or images of its rarest class)"
        for name, (number, fewest) in sizes.items()
        if name not in enough
    ]
    notes = [f"{', '.join(counts)}."] if counts else []
    return notes + ([f"Too small to be scored, under {FEW_UNITS} of a class: {', '.join(small)}."] if small else [])
