"""bench.py tables, bench.py plots and bench.py report: from stored results only."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_results

if TYPE_CHECKING:
    import pandas as pd


_NO_RECORDS = "no records under {}; run bench.py --methods ... first"


def tables(args: argparse.Namespace) -> int:
    """Writes the tables and prints their paths."""
    frame, num_damaged = _stored_runs(args.results)
    from benchmarks.tables import write_tables

    print(*write_tables(args.results, frame), sep="\n")
    return 1 if num_damaged else 0


def plots(args: argparse.Namespace) -> int:
    """Writes the plots and prints their paths."""
    frame, num_damaged = _stored_runs(args.results)
    from benchmarks.plots import write_plots

    print(*write_plots(args.results, frame), sep="\n")
    return 1 if num_damaged else 0


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the page."""
    add_results(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the results folder")


def report(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from benchmarks.records import load_records
    from benchmarks.report import write_report

    records, problems = load_records(args.results)
    if not records and not problems and not any((args.results / "measured").glob("*/*.json")):
        raise FileNotFoundError(_NO_RECORDS.format(args.results / "runs"))
    path, problems = write_report(args.results, args.output or args.results / "report.html", records, problems)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(path)
    return 1 if problems else 0


def _stored_runs(results: Path) -> "tuple[pd.DataFrame, int]":
    """All stored runs, and how many records cannot be read; a line on stderr names each of those."""
    from benchmarks.records import load_records, runs_frame

    records, problems = load_records(results)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not records:
        raise FileNotFoundError(_NO_RECORDS.format(results / "runs"))
    return runs_frame(records), len(problems)


TABLES = Command("tables", "write tables of stored runs: md, csv, tex", "python bench.py tables", add_results, tables)
PLOTS = Command("plots", "write plots of stored runs: png, pdf", "python bench.py plots", add_results, plots)
REPORT = Command(
    "report",
    "write one HTML page of stored runs, to open in any browser",
    "python bench.py report --results results",
    add_report_arguments,
    report,
)
