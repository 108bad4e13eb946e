"""What tables, plots and report share, which are made from stored results only: their options, and the runs."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.choices import SCORE_FAMILIES
from benchmarks.errors import MissingError

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.analysis.evidence import Evidence

NO_RECORDS = "no records under {}; run bench.py --methods ... first"


def add_metrics(parser: argparse.ArgumentParser) -> None:
    """--metrics"""
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="M",
        help=f"scores to show beside AUC, with intervals: {', '.join(SCORE_FAMILIES)} or all",
    )


def add_ensemble_options(parser: argparse.ArgumentParser) -> None:
    """--ensembles"""
    parser.add_argument(
        "--ensembles",
        nargs="+",
        default=[],
        metavar="E",
        help="rows of the mean of stored probabilities: seeds (of each method all of its own), methods like "
        "lora+fpt_plus (one a seed); soups for those that bench.py soup has made",
    )


def add_across_backbones(parser: argparse.ArgumentParser) -> None:
    """--across-backbones"""
    parser.add_argument(
        "--across-backbones",
        action="store_true",
        help="compare all backbones with each other: one block for runs that differ in backbone and weights alone",
    )


def stored_runs(results: Path, mix_code: bool, across: bool = False) -> "tuple[pd.DataFrame, int]":
    """All stored runs, and how many records cannot be read or cells averaged; a line on stderr names each of those.

    Args:
        results: The results root.
        mix_code: Whether runs that different code has trained are averaged.
        across: Whether runs on different backbones stand side by side.
    """
    from benchmarks.analysis.backbones import across_backbones
    from benchmarks.analysis.summary import refusals
    from benchmarks.records.frame import load_frame

    frame, problems = load_frame(results)
    frame = across_backbones(frame) if across else frame
    problems += [] if mix_code else refusals(frame)
    for problem in problems:
        print(problem, file=sys.stderr)
    if frame.empty:
        raise MissingError(NO_RECORDS.format(results / "runs"))
    return frame, len(problems)


def with_ensembles(
    table: "pd.DataFrame", args: argparse.Namespace, frame: "pd.DataFrame", evidence: "Mapping[str, Evidence]"
) -> "pd.DataFrame":
    """A summary with rows of the ensembles that `args` ask for.

    Args:
        table: As `summary.summary` gives it.
        args: With `results` and `ensembles`.
        frame: The runs.
        evidence: Theirs.
    """
    from benchmarks.analysis.ensembles import SOUPS, add_ensembles
    from benchmarks.analysis.soups import load_soups

    soups = load_soups(args.results, frame) if SOUPS in args.ensembles else None
    return add_ensembles(table, args.results, evidence, args.ensembles, _is_meant, soups)


def _is_meant(name: str, row: "pd.Series") -> bool:
    """Whether a name of `--methods` is that of a row."""
    from benchmarks.model.choose import is_asked_for

    return is_asked_for([name], row["method"], json.loads(row["variant"]))
