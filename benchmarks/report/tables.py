"""Tables of stored results: markdown, csv, LaTeX, and one for the terminal, all from the same entries."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.findings import finding_table
from benchmarks.analysis.headline import NOTHING, Wanted, with_scores
from benchmarks.analysis.label_curves import label_curves, overtakings
from benchmarks.analysis.ranks import DatasetsComparison, Ranking, ToFull, compare_over_datasets
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import blocks, summary
from benchmarks.analysis.verdict import Limits, Verdict, verdicts
from benchmarks.errors import UserError
from benchmarks.report.advice import NOT_EQUAL, heading, sentences
from benchmarks.report.baselines import add_baselines, of_methods
from benchmarks.report.captions import (
    definitions,
    footnotes,
    majority,
    preloading,
    protocol,
    rank_marks,
    spread,
    title,
)
from benchmarks.report.columns import auc_entry, columns_of, rows_by_resolution, shown_p
from benchmarks.report.entries import Column, Entry
from benchmarks.report.finding_rows import finding_sections
from benchmarks.report.label_captions import LABELS_SAID, overtaken, steps_said
from benchmarks.report.latex import latex
from benchmarks.report.rank_captions import TO_FULL, difference, lacking, least_p, ranks, unranked
from benchmarks.report.score_columns import brief_columns
from benchmarks.storage.csv_cells import csv_text
from benchmarks.storage.files import write_atomic

SCORES_A_ROW = 4  # of a terminal's tables
Addition = Callable[[pd.DataFrame], pd.DataFrame]
NO_EVIDENCE: Mapping[str, Evidence] = MappingProxyType({})
_RANKS_MD = ("{}", "**{}**", "<u>{}</u>")
_RANKS_CONSOLE = ("", "bold", "underline")


def write_tables(
    results: Path,
    frame: pd.DataFrame,
    evidence: Mapping[str, Evidence] = NO_EVIDENCE,
    mix_code: bool = False,
    name: str = "results",
    wanted: Wanted = NOTHING,
    additions: Sequence[Addition] = (),
) -> list[Path]:
    """Write results.md, results.csv and results.tex to `results/tables`; of findings results.findings.csv too.

    Args:
        results: the results root.
        frame: the runs to show, as `records.runs_frame` gives them.
        evidence: their probabilities, as `evidence.load_evidence` gives them; a run without has no interval.
        mix_code: whether to average runs that different code has trained.
        name: of the files, in the place of `results`.
        wanted: the scores to show, as `headline.load_wanted` gives them, headline metrics among them.
        additions: what gives the summary more columns and rows, once all is compared.

    Raises:
        UserError: there are no runs to show.
        MachineError: the folder cannot be written.
    """
    table = summary(frame, mix_code)
    if table.empty:
        raise UserError(
            f"results must hold at least one run, got none in {str(results / 'runs')!r}: run bench.py first"
        )
    table = add_significance(table, evidence)
    found = list(verdicts(table, evidence, Limits()))
    of_findings = finding_table(table, results, frame)
    table = with_scores(table, wanted)
    for addition in additions:
        table = addition(table)
    table = add_baselines(table)
    texts = {
        f"{name}.md": _markdown(table, found, evidence, of_findings),
        f"{name}.csv": csv_text(table),
        f"{name}.tex": latex(table),
    }
    if len(of_findings):
        texts[f"{name}.findings.csv"] = csv_text(of_findings)
    return [write_atomic(results / "tables" / name, text.encode()) for name, text in texts.items()]


def console_table(
    frame: pd.DataFrame, mix_code: bool = False, among: pd.DataFrame | None = None, wanted: Wanted = NOTHING
) -> Table:
    """The same tables for a terminal, one under the other, made for 100 columns.

    Args:
        frame: the runs to show, as `records.runs_frame` gives them.
        mix_code: whether to average runs that different code has trained.
        among: the runs beside which variants are told apart, so that they are called as in the files; None for `frame`.
        wanted: the scores to show below each, without their intervals.
    """
    stack = Table.grid()
    for block in blocks(with_scores(summary(frame, mix_code, among), wanted)):
        stack.add_row(_console_block(block))
        stack.add_row("")
        columns = brief_columns(block)
        for i in range(0, len(columns), SCORES_A_ROW):
            shown = [*columns_of(block)[:1], *columns[i : i + SCORES_A_ROW]]
            stack.add_row(_console_rows(block, shown, Text(title(block), style="bold"), Text("")))
            stack.add_row("")
    return stack


def escape_markdown(text: str) -> str:
    """Text, such as a folder's name, that must not act as markup inside a markdown table."""
    plain = re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", re.sub(r"\s+", " ", text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown(
    table: pd.DataFrame, found: Sequence[Verdict], evidence: Mapping[str, Evidence], of_findings: pd.DataFrame
) -> str:
    parts = ["# Results\n", "## What to use\n"]
    for verdict in found:
        said = "\n".join(f"- {escape_markdown(sentence)}" for sentence in sentences(verdict, Limits()))
        parts.append(f"**{escape_markdown(heading(verdict))}**, protocol {verdict.place['block']}\n\n{said}\n")
    parts.append(f"{NOT_EQUAL}\n")
    for block in blocks(table):
        parts += [
            f"## {escape_markdown(title(block))}\n",
            f"{escape_markdown(protocol(block))}. {spread(block)}. Protocol {block['block'].iloc[0]}.\n",
            markdown_rows(block, columns_of(block)),
            *(f"{escape_markdown(line)}\n" for line in footnotes(block)),
        ]
    parts += _over_labels(table, evidence)
    for place, rows, said in finding_sections(of_findings):
        parts += [f"## Findings of {escape_markdown(place)}\n", rows, f"{escape_markdown(said)}\n"]
    parts += _over_datasets(table)
    return "\n".join([*parts, "## How to read\n", f"{definitions(table)}\n"])


def markdown_rows(block: pd.DataFrame, columns: Sequence[Column]) -> str:
    """A block as a markdown table."""
    headers = ["Resolution", *(escape_markdown(column.header) + column.arrow for column in columns)]
    rows: list[list[str]] = []
    for resolution, group, ideas in rows_by_resolution(block, columns):
        for i, (entries, idea) in enumerate(zip(group, ideas, strict=True)):
            rows += [["", f"*{idea}*", *[""] * (len(columns) - 1)]] if idea else []
            rows.append([resolution if i == 0 else "", *map(_entry_md, entries)])
    align = ["left", "left", *["right"] * (len(columns) - 1)]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True) + "\n"


def _over_labels(table: pd.DataFrame, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    """AUC of methods by the number of training labels, and where one overtakes another."""
    found = list(label_curves(table[of_methods(table)]))
    if found:
        yield f"## Over training labels\n\nAUC (%) by the number of images that were trained on. {LABELS_SAID}\n"
    for curves in found:
        for resolution, rows in curves.rows.groupby("resolution"):
            said = [steps_said(curves.keep_steps), overtaken(overtakings(rows, evidence), rows["num_train"])]
            yield f"### {escape_markdown(title(rows))}, {resolution} px\n"
            yield f"{escape_markdown(' '.join(said))}\n"
            yield _labels_rows(rows)


def _labels_rows(rows: pd.DataFrame) -> str:
    sizes = sorted(set(rows["num_train"]))
    by_place = {(row["curve"], row["num_train"]): _entry_md(auc_entry(row)) for _, row in rows.iterrows()}
    cells = [
        [escape_markdown(curve), *(by_place.get((curve, size), "–") for size in sizes)]
        for curve in dict.fromkeys(rows["curve"])
    ]
    align = ["left", *["right"] * len(sizes)]
    return tabulate(cells, ["Method", *map(str, sizes)], tablefmt="pipe", colalign=align, disable_numparse=True) + "\n"


def _over_datasets(table: pd.DataFrame) -> Iterator[str]:
    """The methods of each protocol and resolution compared over datasets, or why they are not."""
    parts: list[str] = []
    own = table[of_methods(table)]
    for name, group in own.groupby("block", sort=False):
        comparisons = list(compare_over_datasets(group))
        for found in comparisons:
            if isinstance(found.ranking, Ranking) or found.to_full:
                ranked = ranks(found.ranking, found.metrics) if isinstance(found.ranking, Ranking) else ""
                said = " ".join(filter(None, [ranked, least_p(found), lacking(found)]))
                parts += [
                    f"### {found.resolution} px, protocol {name}\n",
                    f"{escape_markdown(said)}\n",
                    _datasets_rows(found, rank_marks(group[group["resolution"] == found.resolution])),
                ]
        parts += [f"No average ranks in protocol {name}: {escape_markdown(why)}.\n" for why in unranked(comparisons)]
    if parts:
        yield "## Over datasets\n"
        yield f"A row is a dataset; resolutions are never taken together. {TO_FULL}\n"
        yield from parts


def _datasets_rows(found: DatasetsComparison, marks: Mapping[str, str]) -> str:
    ranked = found.ranking if isinstance(found.ranking, Ranking) else None
    own = dict(zip(ranked.labels, ranked.ranks, strict=True)) if ranked else {}
    labels = [*own, *(label for label in found.labels if label in found.to_full and label not in own)]
    rows = [
        [
            escape_markdown(label) + marks.get(label, ""),
            f"{own[label]:.2f}" if label in own else "–",
            *_to_full_md(found.to_full.get(label)),
        ]
        for label in labels
    ]
    headers = ["Method", "Average rank ↓", "To full ↑", "p", "Datasets with both"]
    align = ["left", *["right"] * 4]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True) + "\n"


def _to_full_md(entry: ToFull | None) -> list[str]:
    return [difference(entry), shown_p(entry.p_holm), str(entry.num_datasets)] if entry else ["–"] * 3


def _entry_md(entry: Entry) -> str:
    return _RANKS_MD[entry.rank].format(escape_markdown(entry.text)) + entry.mark


def _console_block(block: pd.DataFrame) -> Table:
    scores = {column.short for column in brief_columns(block)}
    columns = [column for column in columns_of(block) if column.short and column.short not in scores]
    said = f"{protocol(block)}. {spread(block)}. {preloading(block)}{majority(block)}"
    return _console_rows(block, columns, Text(title(block), style="bold"), Text("\n".join([said, *footnotes(block)])))


def _console_rows(block: pd.DataFrame, columns: Sequence[Column], above: Text, below: Text) -> Table:
    view = Table(
        title=above,
        caption=below,
        title_justify="left",
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    view.add_column("Side\npx", no_wrap=True)
    for column in columns:
        left = column.better == 0 and column.header == "Method"
        header = Text(column.short + column.arrow)
        view.add_column(
            header,
            justify="left" if left else "right",
            no_wrap=not left,
            min_width=8 if left else None,
            overflow="fold",
        )
    for resolution, group, ideas in rows_by_resolution(block, columns):
        for i, (entries, idea) in enumerate(zip(group, ideas, strict=True)):
            if idea:
                view.add_row("", Text(idea, style="italic"))
            side = resolution.replace(" px", "").replace("runs at ", "") if i == 0 else ""
            view.add_row(side, *map(_entry_console, entries), end_section=i == len(group) - 1)
    return view


def _entry_console(entry: Entry) -> Text:
    return Text(entry.text, style=_RANKS_CONSOLE[entry.rank]).append(entry.mark, style="not bold not underline")
