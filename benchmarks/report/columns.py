"""The columns of the shown tables and their entries: cells of a summary as text, with marks, best and second best."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import pandas as pd

from benchmarks.analysis.ensembles import ENSEMBLE
from benchmarks.choices import FEW_UNITS
from benchmarks.records.schema import DAMAGED
from benchmarks.report.baselines import BASELINE, of_methods
from benchmarks.report.captions import BAD_STATES, CODE, EDGE, FEW, INCIDENT, LOST, MODELS, PREDICTED, auc_marks
from benchmarks.report.cost_columns import COST_COLUMNS, has_costs
from benchmarks.report.entries import Column, Entry
from benchmarks.report.score_columns import HEADLINE, score_columns
from methods import IDEA_TITLES, idea_of

MANY = 12  # rows of a resolution from which ideas have headings
BASELINE_TITLE, ENSEMBLE_TITLE = "Without an image", "Ensembles"


class Part(NamedTuple):
    """The rows of one resolution, and what stands above each of them: the idea that begins there, or nothing."""

    resolution: str
    rows: list[list[Entry]]
    headings: list[str]


def _method(row: pd.Series) -> Entry:
    at_edge = row.get("tuned_at_edge")  # a row of the papers' layout stands for many cells
    return Entry(row["label"], "" if pd.isna(at_edge) or not at_edge else EDGE)


def _percent(row: pd.Series) -> Entry:
    value = row["percent"]
    if pd.isna(value):
        return Entry("–")
    return Entry("<0.01" if 0 < value < 0.005 else f"{value:.2f}")


def _memory(part: str) -> Callable[[pd.Series], Entry]:
    """The entry of a phase, or of the `whole` run, which is out of memory wherever a phase of it is."""
    prefix = "" if part == "whole" else f"{part}_"

    def entry(row: pd.Series) -> Entry:
        where = row["phase"] if row["phase"] == "preload" else "train"
        if row["state"] == "oom" and part in ("whole", where):
            return Entry("OOM", INCIDENT)
        value = row[f"{prefix}memory_bytes"]
        mark = PREDICTED if row[f"{prefix}memory_source"] == "predicted" else ""
        return Entry("–") if pd.isna(value) else Entry(_mebibytes(value), mark)

    return entry


def _host(row: pd.Series) -> Entry:
    return Entry("–" if pd.isna(row["host_peak_bytes"]) else _mebibytes(row["host_peak_bytes"]))


def auc_entry(row: pd.Series) -> Entry:
    """The mean AUC of a cell with its deviation and marks, or what stands in its place."""
    if row["state"] in (*BAD_STATES, DAMAGED):
        return without_auc(row["state"], row[f"seeds_{DAMAGED}"] > 0)
    mark = "" if pd.isna(row["code_mix"]) else CODE
    if pd.isna(row["auc_mean"]):
        return Entry("–", mark)
    spread = "" if pd.isna(row["auc_sd"]) else f" ± {100 * row['auc_sd']:.2f}"
    return Entry(f"{100 * row['auc_mean']:.2f}{spread}", mark + auc_marks(row), competes=row["complete"])


def without_auc(state: str, lost: bool) -> Entry:
    """What stands in the place of an AUC where no run has one; `lost` where some were left out."""
    incident = "" if state == DAMAGED else INCIDENT
    return Entry("OOM" if state == "oom" else state, incident + LOST * lost)


def _accuracy(row: pd.Series) -> Entry:
    return Entry("–" if pd.isna(row["accuracy_mean"]) else f"{100 * row['accuracy_mean']:.2f}")


def interval_of(name: str) -> Callable[[pd.Series], Entry]:
    """The interval of a score, marked where it rests on few units."""

    def entry(row: pd.Series) -> Entry:
        if pd.isna(row[f"{name}_low"]):
            return Entry("–")
        mark = FEW if row[f"{name}_fewest_units"] < FEW_UNITS else ""
        return Entry(f"{100 * row[f'{name}_low']:.2f} to {100 * row[f'{name}_high']:.2f}", mark)

    return entry


def _errors(row: pd.Series) -> Entry:
    if pd.isna(row["auc_se_images"]):
        return Entry("–")
    seeds = "–" if pd.isna(row["auc_se_seeds"]) else f"{100 * row['auc_se_seeds']:.2f}"
    return Entry(f"{100 * row['auc_se_images']:.2f}, {seeds}")


def _against(name: str, *, mark: bool) -> Callable[[pd.Series], Entry]:
    """The difference to full fine-tuning, with its interval, or to the best; one of single seeds maybe marked."""

    def entry(row: pd.Series) -> Entry:
        if row[f"is_{name}"] is True:
            return Entry(name)
        if pd.isna(row[f"vs_{name}_p"]):
            return Entry("–")
        parts = {part: row.get(f"vs_{name}_{part}") for part in ("change", "low", "high")}
        change, *ends = (f"{100 * value:+.2f}" for value in parts.values() if value is not None)
        text = f"{', '.join(filter(None, [change, ' to '.join(ends)]))} ({shown_p(row[f'vs_{name}_p'])})"
        return Entry(text.replace("-", "−"), MODELS if mark and row[f"vs_{name}_seeds"] == 1 else "")

    return entry


def _wins(row: pd.Series) -> Entry:
    if pd.isna(row["vs_full_wins"]):
        return Entry("–")
    share, low, high = (f"{100 * row[f'vs_full_{name}']:.0f}" for name in ("wins", "wins_low", "wins_high"))
    return Entry(f"{share} ({low} to {high})")


def shown_p(p: float) -> str:
    """A p value for reading."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(row: pd.Series) -> Entry:
    if row["state"] == BASELINE:
        return Entry("–")
    if row["state"] == ENSEMBLE:
        return Entry("1 model" if row["members"] == 1 else f"{row['seeds_ok']} × {row['members']} models")
    partial = row["state"] == "ok" and sum(row[f"seeds_{state}"] for state in BAD_STATES)
    some = row["seeds_ok"] < row["seeds_asked"]
    text = f"{row['seeds_ok']} of {row['seeds_asked']}" if some else f"{row['seeds_ok']}"
    return Entry(text, INCIDENT if partial else "")


def _score(name: str) -> Callable[[pd.Series], Entry]:
    def entry(row: pd.Series) -> Entry:
        mark = PREDICTED if name != "ppe" and row[f"{name}_source"] == "predicted" else ""
        return Entry("–") if pd.isna(row[name]) else Entry(f"{100 * row[name]:.2f}", mark, competes=row["complete"])

    return entry


def _number(name: str) -> Callable[[pd.Series], Entry]:
    def entry(row: pd.Series) -> Entry:
        value = row[name]
        return Entry("–" if pd.isna(value) else f"{value:,.1f}" if value < 100 else f"{value:,.0f}")

    return entry


def _disk(row: pd.Series) -> Entry:
    return Entry("–" if pd.isna(row["cache_bytes"]) else _mebibytes(row["cache_bytes"]))


COLUMNS = (
    Column("Method", "Method", 0, _method),
    Column("Trainable (%)", "Train\n%", -1, _percent),
    Column("Memory (MiB)", "Memory\nMiB", -1, _memory("whole")),
    Column("Training (MiB)", "Training\nMiB", 0, _memory("train")),
    Column("Preload (MiB)", "", 0, _memory("preload")),
    Column("Host (MiB)", "", 0, _host),
    Column("AUC (%)", "AUC\n%", 1, auc_entry),
    Column("Seeds", "Seeds", 0, _seeds),
    Column("PPE", "PPE", 1, _score("ppe")),
    Column("PME", "PME", 1, _score("pme")),
    Column("PME, training", "", 0, _score("train_pme")),
    Column("Accuracy (%)", "", 0, _accuracy),
    Column("Train (s)", "", 0, _number("seconds_train")),
)
# What the stored predictions add.
EVIDENCE_COLUMNS = (
    Column("AUC 95 % CI (%)", "", 0, interval_of("auc")),
    Column("SE by images, seeds", "", 0, _errors),
    Column("To full, 95 % CI (p)", "", 0, _against("full", mark=True)),
    Column("Beats full (%)", "", 0, _wins),
    Column("To best (p)", "", 0, _against("best", mark=True)),
)
# The same of one seed, which supports no claim about a method.
ONE_SEED_COLUMNS = (
    *EVIDENCE_COLUMNS[:2],
    Column("These models to full, 95 % CI (p)", "", 0, _against("full", mark=False)),
    Column("These models to best (p)", "", 0, _against("best", mark=False)),
)
# What training on preloaded features took before it began.
PRELOAD_COLUMNS = (
    Column("Preload (s)", "", 0, _number("preload_seconds")),
    Column("Preload (images/s)", "", 0, _number("images_per_second_preload")),
    Column("Disk (MiB)", "", 0, _disk),
)


def _mebibytes(value: float) -> str:
    """Bytes as MiB for reading."""
    return f"{value / 2**20:,.0f}"


def columns_of(block: pd.DataFrame) -> list[Column]:
    """The columns a block needs: host memory only where training ran on the host, costs of preloading where any did.

    Scores that were asked for stand behind AUC, the headline metric of the dataset before it; what using the models
    costs, where that was asked for, behind all else.
    """
    on_host = (block["device_type"] == "cpu").any()
    columns = [column for column in COLUMNS if column.entry is not _host or on_host]
    if "auc_low" in block and block["auc_low"].notna().any():
        place = next(i for i, column in enumerate(columns) if column.entry is auc_entry) + 1
        several = (block[["vs_full_seeds", "vs_best_seeds"]] > 1).any(axis=None)
        columns[place:place] = EVIDENCE_COLUMNS if several else ONE_SEED_COLUMNS
    columns = _with_scores(columns, list(score_columns(block)))
    costs = COST_COLUMNS if has_costs(block) else ()
    return [*columns, *costs, *(PRELOAD_COLUMNS if block["cache_bytes"].notna().any() else ())]


def _with_scores(columns: Sequence[Column], scores: Sequence[Column]) -> list[Column]:
    """Columns with those of scores, which take the place of a column of the same score."""
    titles = {column.header.removesuffix(HEADLINE) for column in scores}
    headline = [column for column in scores if column.header.endswith(HEADLINE)]
    others = [column for column in scores if not column.header.endswith(HEADLINE)]
    kept = [column for column in columns if column.header not in titles]
    place = next(i for i, column in enumerate(kept) if column.entry is auc_entry)
    behind = next(i for i, column in enumerate(kept) if column.header == "Seeds")
    return [*kept[:place], *headline, *kept[place:behind], *others, *kept[behind:]]


def rows_by_resolution(block: pd.DataFrame, columns: Sequence[Column]) -> Iterator[Part]:
    """The rows of a block by resolution, with best and second best of each column marked; many have headings."""
    for resolution, group in block.groupby("resolution", sort=True):
        effective = group["effective_resolution"].dropna()
        runs_at = f" (runs at {int(effective.iloc[0])})" if len(effective) and effective.iloc[0] != resolution else ""
        rows = [[column.entry(row) for column in columns] for _, row in group.iterrows()]
        usable = [i for i, state in enumerate(group["state"]) if state == "ok"]
        for j, column in enumerate(columns):
            for i, rank in _ranks([rows[i][j] for i in usable], column.better):
                rows[usable[i]][j] = rows[usable[i]][j]._replace(rank=rank)
        yield Part(f"{resolution} px{runs_at}", rows, headings(group))


def headings(rows: pd.DataFrame) -> list[str]:
    """The title of its idea above the first row of each; nothing above any where rows are few."""
    ideas = [idea_title(row) for _, row in rows.iterrows()]
    if of_methods(rows).sum() <= MANY:
        return [""] * len(ideas)
    return [idea if idea != before else "" for before, idea in pairwise(["", *ideas])]


def idea_title(row: pd.Series) -> str:
    """What a row's heading says."""
    apart = {BASELINE: BASELINE_TITLE, ENSEMBLE: ENSEMBLE_TITLE}
    return apart.get(row["state"]) or IDEA_TITLES[idea_of(row["method"])]


def _ranks(entries: Sequence[Entry], better: int) -> Iterator[tuple[int, int]]:
    """Index and rank of the best and second-best entries, by the value shown: what reads the same ranks the same."""
    # A prediction does not compete with measurements.
    known = {i: (value, entry.mark) for i, entry in enumerate(entries) if (value := _value(entry)) is not None}
    measured = any(mark != PREDICTED for _, mark in known.values())
    values = {i: value * better for i, (value, mark) in known.items() if not (measured and mark == PREDICTED)}
    if better and len(values) > 1:
        order = sorted(set(values.values()), reverse=True)
        for i, value in values.items():
            if value in order[:2]:
                yield i, order.index(value) + 1


def _value(entry: Entry) -> float | None:
    if not entry.competes:
        return None
    number = re.match(r"<?(−?[\d,.]+)", entry.text)
    return float(number[1].replace(",", "").replace("−", "-")) if number else None
