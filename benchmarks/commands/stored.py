"""bench.py tables and bench.py plots: from stored results only."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_results

if TYPE_CHECKING:
    import pandas as pd


LAYOUTS = ("results", "paper")


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `tables`."""
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="results: a row a cell, all that is known (default); paper: methods x datasets, as the FPT papers have it",
    )
    parser.add_argument(
        "--published", action="store_true", help="with --layout paper: the published figures beside ours"
    )
    add_results(parser)


def tables(args: argparse.Namespace) -> int:
    """Writes the tables and prints their paths."""
    if args.published and args.layout != "paper":
        raise ValueError(f"published must be used with --layout paper, got --layout {args.layout or LAYOUTS[0]}")
    frame, num_damaged = _stored_runs(args.results)
    if args.layout == "paper":
        from benchmarks.paper_layout import write_paper_tables

        print(*write_paper_tables(args.results, frame, args.published), sep="\n")
        return 1 if num_damaged else 0
    from benchmarks.evidence import load_evidence
    from benchmarks.tables import write_tables

    evidence, problems = load_evidence(args.results, frame)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(*write_tables(args.results, frame, evidence), sep="\n")
    return 1 if num_damaged or problems else 0


def plots(args: argparse.Namespace) -> int:
    """Writes the plots and prints their paths."""
    frame, num_damaged = _stored_runs(args.results)
    from benchmarks.plots import write_plots

    print(*write_plots(args.results, frame), sep="\n")
    return 1 if num_damaged else 0


def _stored_runs(results: Path) -> "tuple[pd.DataFrame, int]":
    """All stored runs, and how many records cannot be read; a line on stderr names each of those."""
    from benchmarks.records import load_records, runs_frame

    records, problems = load_records(results)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not records:
        raise FileNotFoundError(f"no records under {results / 'runs'}; run bench.py --methods ... first")
    return runs_frame(records), len(problems)


TABLES = Command(
    "tables", "write tables of stored runs: md, csv, tex", "python bench.py tables", add_table_arguments, tables
)
PLOTS = Command("plots", "write plots of stored runs: png, pdf", "python bench.py plots", add_results, plots)
