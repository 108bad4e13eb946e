"""The table of trained models on other images: what they score there, on their own test split, and the drop."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from benchmarks.analysis.evaluations import evaluation_rows, load_evaluations
from benchmarks.analysis.evidence import Evidence, load_evidence, load_finding_evidence
from benchmarks.analysis.summary import blocks, summary
from benchmarks.choices import FEW_UNITS
from benchmarks.records.stored import evaluation_results
from benchmarks.report.captions import FEW, title
from benchmarks.report.columns import interval_of, shown_p
from benchmarks.report.entries import Column, Entry
from benchmarks.report.table_parts import TablePart, write_parts

KIND = "data"  # of evaluations that this table is about
NAME = "other_data"
HOW = (
    "AUC: macro one-vs-rest, of findings their mean, over those that can be scored on both; mean ± sample standard "
    "deviation over the seeds that were evaluated, with a 95 % interval over images and seeds. Own test split: the "
    "same models on the test images of the dataset that they were trained on. Drop: own test split less other images, "
    "with a 95 % interval and two-sided p: the two sets of images are independent samples, seeds are paired. With one "
    "seed, interval and p are of that trained model alone. Nothing here ranks methods: what is chosen by these images "
    "is no longer tested on them."
)


def _auc(side: str) -> Column:
    def entry(row: pd.Series) -> Entry:
        mean, deviation = row[f"{side}_mean"], row[f"{side}_sd"]
        if pd.isna(mean):
            return Entry("–")
        return Entry(f"{100 * mean:.2f}" + ("" if pd.isna(deviation) else f" ± {100 * deviation:.2f}"))

    headers = {"external": "AUC on other images (%)", "internal": "AUC on own test split (%)"}
    return Column(headers[side], "", 0, entry)


def _drop(row: pd.Series) -> Entry:
    if pd.isna(row["drop_p"]):
        return Entry("–")
    change, low, high = (f"{100 * row[f'drop_{name}']:+.2f}" for name in ("change", "low", "high"))
    return Entry(f"{change}, {low} to {high} ({shown_p(row['drop_p'])})".replace("-", "−"))


METHOD = Column("Method", "Method", 0, lambda row: Entry(str(row["label"])))
COLUMNS = (
    METHOD,
    _auc("external"),
    Column("95 % CI (%)", "", 0, interval_of("external")),
    _auc("internal"),
    Column("Drop, 95 % CI (p)", "", 0, _drop),
    Column("Seeds", "", 0, lambda row: Entry(f"{row['seeds_evaluated']} of {row['seeds_ok']}")),
)


_FINDING = Column("Finding", "Finding", 0, lambda row: Entry(str(row["finding"])))


def write_other_data(
    results: Path, frame: pd.DataFrame, evidence: Mapping[str, Evidence], mix_code: bool = False
) -> tuple[list[Path], list[str]]:
    """Writes other_data.md, other_data.csv and other_data.tex to `results/tables`; nothing where nothing was evaluated.

    Args:
        results: The results root.
        frame: Its runs, as `records.runs_frame` gives them.
        evidence: Theirs.
        mix_code: Whether runs that different code has trained are averaged.

    Returns:
        The paths, and a line for each evaluation that is damaged or of a model that is there no more.
    """
    table, problems = other_data(results, frame, evidence, mix_code)
    if table.empty:
        return [], problems
    parts = list(parts_of(table))
    return write_parts(results, NAME, "Trained models on other images", HOW, table, parts), problems


def other_data(
    results: Path, frame: pd.DataFrame, evidence: Mapping[str, Evidence], mix_code: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of evaluations, as `evaluation_rows` gives them, and problems; arguments as of `write_other_data`."""
    evaluations, problems = load_evaluations(results, frame, KIND)
    if evaluations.empty:
        return pd.DataFrame(), problems
    outside, unread = load_evidence(evaluation_results(results), evaluations)
    theirs = evaluations[evaluations["loss_name"] == "bce"]
    findings = load_finding_evidence(results, theirs["evaluation_run_id"])
    findings |= load_finding_evidence(evaluation_results(results), theirs["run_id"])
    return evaluation_rows(summary(frame, mix_code), evidence, evaluations, outside, findings), problems + unread


def parts_of(table: pd.DataFrame) -> Iterator[TablePart]:
    """A table for each dataset, protocol and set of other images; of findings one more, of each of them."""
    for block in blocks(table):
        for name, rows in block.groupby("data_label", sort=True):
            heading, means, single = f"{title(block)} → {name}", rows[rows["finding"].isna()], rows["finding"].notna()
            yield TablePart(heading, means, COLUMNS, [*_over_findings(means), *_few_units(means)])
            if single.any():
                by_finding = rows[single].sort_values("finding", kind="stable")
                yield TablePart(f"{heading}, by finding", by_finding, (_FINDING, *COLUMNS), _few_units(by_finding))


def _over_findings(rows: pd.DataFrame) -> list[str]:
    scored = rows["scored_findings"].dropna().unique()
    return [f"AUCs are means over the findings that can be scored on both: {each}." for each in scored]


def _few_units(rows: pd.DataFrame) -> list[str]:
    return few_units_note(rows["external_fewest_units"])


def few_units_note(fewest: pd.Series) -> list[str]:
    """What is said where the rarest class has few units."""
    few = fewest.dropna()
    if not (few < FEW_UNITS).any():
        return []
    return [f"{FEW} The rarest class has {few.min():.0f} images or patients: under {FEW_UNITS}, intervals are rough."]
