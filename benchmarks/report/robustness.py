"""The table of trained models on corrupted images: what they lose to clean ones."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.analysis.evaluations import load_evaluations
from benchmarks.analysis.robustness import ALL, KIND, load_conditions, robustness_rows
from benchmarks.analysis.summary import blocks, summary
from benchmarks.records.stored import evaluation_results
from benchmarks.report.captions import title
from benchmarks.report.entries import Column, Entry
from benchmarks.report.other_data import few_units_note
from benchmarks.report.table_parts import TablePart, write_parts

NAME = "robustness"
TITLES = {
    **{ALL: "All", "brighter": "Brighter", "darker": "Darker", "contrast": "Less contrast", "noise": "Noise"},
    **{"blur": "Blur", "jpeg": "JPEG", "resolution": "Resolution"},
}
HOW = (
    "AUC: macro one-vs-rest of clean images, mean ± sample standard deviation over the seeds that were evaluated. "
    "Under each corruption the drop of AUC in points, clean less corrupted, in the mean over five severities, with a "
    "95 % interval over images and seeds: same models, same images, so both are paired. All: the mean over "
    "corruptions. Intervals are of one method and corruption each, corrected for no others. With one seed they are of "
    "that trained model alone. What each severity gives is in the csv, and in the figure."
)


def load_robustness(results: Path, frame: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """What is known of corrupted images, as `robustness_rows` has it, and a line for each record that is left out.

    Args:
        results: The results root.
        frame: Its runs, as `records.runs_frame` gives them.
        table: Their summary.
    """
    evaluations, problems = load_evaluations(results, frame, KIND)
    if evaluations.empty or table.empty:
        return pd.DataFrame(), problems
    conditions, unread = load_conditions(evaluation_results(results), evaluations)
    return robustness_rows(table, evaluations, conditions), problems + unread


def write_robustness(results: Path, frame: pd.DataFrame, mix_code: bool = False) -> tuple[list[Path], list[str]]:
    """Writes robustness.md, .csv and .tex to `results/tables`; nothing where nothing was evaluated.

    Args:
        results: The results root.
        frame: Its runs, as `records.runs_frame` gives them.
        mix_code: Whether runs that different code has trained are averaged.

    Returns:
        The paths, and a line for each evaluation that is damaged or of a model that is there no more.
    """
    rows, problems = load_robustness(results, frame, summary(frame, mix_code))
    if rows.empty:
        return [], problems
    return write_parts(results, NAME, "Trained models on corrupted images", HOW, rows, list(_parts(rows))), problems


def _parts(rows: pd.DataFrame) -> Iterator[TablePart]:
    """The table of each dataset and protocol, and set of images, a row a cell."""
    for block in blocks(rows):
        for name, part in block.groupby("data_label", sort=True):
            heading, table = f"{title(block)}, corrupted images of {name}", _wide(part)
            yield TablePart(heading, table, _columns(table), few_units_note(table["fewest_units"]))


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: that of its clean images, with the drops of each corruption averaged over severities."""
    clean = part[part["severity"] == 0].set_index(["resolution", "label"], drop=False)
    means = part[part["severity"].isna()]
    for name, group in means.groupby("corruption", sort=False):
        found = group.set_index(["resolution", "label"])
        clean = clean.assign(**{f"{name}_{end}": found[f"drop_{end}"] for end in ("change", "low", "high")})
    return clean.reset_index(drop=True)


def _columns(rows: pd.DataFrame) -> Sequence[Column]:
    names = [str(name) for name in rows]
    drops = [name.removesuffix("_change") for name in names if name.endswith("_change") and name != "drop_change"]
    return [
        Column("Method", "Method", 0, lambda row: Entry(str(row["label"]))),
        Column("AUC, clean (%)", "", 0, _clean),
        *(Column(TITLES.get(name, name), "", 0, _drop(name)) for name in sorted(drops, key=lambda name: name != ALL)),
        Column("Seeds", "", 0, lambda row: Entry(f"{row['seeds_evaluated']} of {row['seeds_ok']}")),
    ]


def _clean(row: pd.Series) -> Entry:
    deviation = row["corrupted_sd"]
    spread = "" if pd.isna(deviation) else f" ± {100 * deviation:.2f}"
    return Entry(f"{100 * row['corrupted_mean']:.2f}{spread}")


def _drop(name: str) -> Callable[[pd.Series], Entry]:
    def entry(row: pd.Series) -> Entry:
        if pd.isna(row[f"{name}_change"]):
            return Entry("–")
        change, low, high = (f"{100 * row[f'{name}_{end}']:+.1f}" for end in ("change", "low", "high"))
        return Entry(f"{change} ({low} to {high})".replace("-", "−"))

    return entry
