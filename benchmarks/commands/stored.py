"""bench.py tables and bench.py plots: from stored results only."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_results

if TYPE_CHECKING:
    import pandas as pd


def tables(args: argparse.Namespace) -> int:
    """Writes the tables and prints their paths."""
    frame, num_damaged = _stored_runs(args.results)
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


TABLES = Command("tables", "write tables of stored runs: md, csv, tex", "python bench.py tables", add_results, tables)
PLOTS = Command("plots", "write plots of stored runs: png, pdf", "python bench.py plots", add_results, plots)
