"""bench.py tables and bench.py plots: from stored results only."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_results
from benchmarks.plots import write_plots
from benchmarks.records import load_records, runs_frame
from benchmarks.tables import write_tables


def writer(write: Callable[[Path, pd.DataFrame], list[Path]]) -> Callable[[argparse.Namespace], int]:
    """A command that writes files from the records and prints their paths; damaged records make its status 1."""

    def run(args: argparse.Namespace) -> int:
        records, problems = load_records(args.results)
        for problem in problems:
            print(problem, file=sys.stderr)
        if not records:
            raise FileNotFoundError(f"no records under {args.results / 'runs'}; run bench.py --methods ... first")
        for path in write(args.results, runs_frame(records)):
            print(path)
        return 1 if problems else 0

    return run


TABLES = Command(
    "tables", "write tables of stored runs: md, csv, tex", "python bench.py tables", add_results, writer(write_tables)
)
PLOTS = Command(
    "plots", "write plots of stored runs: png, pdf", "python bench.py plots", add_results, writer(write_plots)
)
