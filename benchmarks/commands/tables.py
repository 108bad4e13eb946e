"""bench.py tables: from stored results only."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import FORMATS, add_cache, add_data_root, add_mix_code, add_results, add_wide
from benchmarks.commands.printing import print_frame
from benchmarks.commands.stored import (
    add_across_backbones,
    add_ensemble_options,
    add_metrics,
    stored_runs,
    with_ensembles,
)
from benchmarks.errors import UserError
from benchmarks.storage.notes import say

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.analysis.evidence import Evidence
    from benchmarks.report.tables import Addition

LAYOUTS = ("results", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="results: a row a cell, all that is known (default); paper: methods x datasets, as the FPT papers have it",
    )
    parser.add_argument(
        "--published", action="store_true", help="with --layout paper: the published figures beside ours"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        help="print what changed from the results in DIR to those in --results, with significance; writes no tables",
    )
    add_metrics(parser)
    parser.add_argument(
        "--by",
        metavar="COLUMN",
        help="also tables of subgroups, by a column (sex, site, scanner, ...) of the manifest of each dataset's folder",
    )
    add_data_root(parser)
    parser.add_argument(
        "--folds", action="store_true", help="also tables averaged over the folds that bench.py split --folds made"
    )
    _add_cost_options(parser)
    add_ensemble_options(parser)
    parser.add_argument("--format", choices=FORMATS, help="with --compare: of the data on stdout (default: md)")
    add_wide(parser)
    add_across_backbones(parser)
    add_mix_code(parser)
    add_results(parser)


def _add_cost_options(parser: argparse.ArgumentParser) -> None:
    """--inference and --cache"""
    parser.add_argument(
        "--inference",
        action="store_true",
        help="show what using each model costs: memory (predicted), computation, bytes to store; see bench.py cost",
    )
    add_cache(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the tables and prints their paths."""
    if args.published and args.layout != "paper":
        raise UserError(f"published must be used with --layout paper, got --layout {args.layout or LAYOUTS[0]}")
    if args.format and not args.compare:
        raise UserError(f"format must be used with --compare DIR, got --format {args.format} alone")
    if args.wide and not args.compare:
        raise UserError("wide must be used with --compare DIR, got --wide alone")
    if args.across_backbones and (args.compare or args.layout == "paper"):
        raise UserError("across-backbones must be used without --compare and --layout paper, which name no backbone")
    if args.metrics and (args.compare or args.layout == "paper"):
        raise UserError(f"metrics must be used without --compare and --layout paper, got {' '.join(args.metrics)}")
    if args.ensembles and (args.compare or args.layout == "paper"):
        raise UserError("ensembles must be used without --compare and --layout paper, which have no rows for them")
    for name in ("by", "folds"):
        if getattr(args, name) and (args.compare or args.layout == "paper" or args.across_backbones):
            raise UserError(f"{name} must be used without --compare, --layout paper and --across-backbones")
    if args.inference and (args.compare or args.layout == "paper"):
        raise UserError("inference must be used without --compare and --layout paper, which have no room for it")
    if args.compare:
        if args.layout:
            raise UserError(f"compare must be used without --layout, got --layout {args.layout}")
        return _compare(args.compare, args.results, args.format or FORMATS[0], args.mix_code, args.wide)
    from benchmarks.analysis.headline import chosen_scores

    chosen_scores(args.metrics)  # a wrong name is told before thousands of records are read
    frame, num_problems = stored_runs(args.results, args.mix_code, args.across_backbones)
    if args.layout == "paper":
        from benchmarks.report.paper_layout import write_paper_tables

        print(*write_paper_tables(args.results, frame, args.published, args.mix_code), sep="\n")
        return 1 if num_problems else 0
    from benchmarks.analysis.evidence import load_evidence
    from benchmarks.analysis.headline import load_wanted
    from benchmarks.report.other_data import write_other_data
    from benchmarks.report.robustness import write_robustness
    from benchmarks.report.tables import console_table, write_tables

    evidence, problems = load_evidence(args.results, frame)
    wanted = load_wanted(args.results, frame, args.metrics)
    others: list[Path] = []
    faults: list[str] = []
    if not args.across_backbones:
        for paths, found in (
            write_other_data(args.results, frame, evidence, args.mix_code),
            write_robustness(args.results, frame, args.mix_code),
        ):
            others += paths
            faults += found
    folds = None
    if args.folds:
        from benchmarks.analysis.folds import fold_scores, folds_together

        folds = folds_together(frame, evidence)
        if folds.frame.empty and not folds.problems:
            raise UserError(
                "folds must have runs on datasets called NAME-fold1 and so on, as bench.py split makes them"
            )
        faults += folds.problems
        if len(folds.frame):
            scores = wanted._replace(runs=folds.averaged(wanted.runs, fold_scores))
            others += write_tables(args.results, folds.frame, folds.evidence, args.mix_code, "folds", scores)
    if args.by is not None:
        from benchmarks.report.subgroups import make_subgroups, write_subgroups

        made, found = make_subgroups(args.results, frame, args.by, args.data_root, wanted.names, args.mix_code, folds)
        others += write_subgroups(args.results, args.by, made)
        faults += found
    problems = list(dict.fromkeys([*problems, *wanted.problems, *faults]))
    for problem in problems:
        print(problem, file=sys.stderr)
    if args.metrics:
        from rich.console import Console

        Console(stderr=True).print(console_table(frame, args.mix_code, wanted=wanted))
    name = "backbones" if args.across_backbones else "results"
    written = write_tables(
        args.results, frame, evidence, args.mix_code, name, wanted, _additions(args, frame, evidence)
    )
    print(*written, *others, sep="\n")
    return 1 if num_problems or problems else 0


def _additions(args: argparse.Namespace, frame: "pd.DataFrame", evidence: "Mapping[str, Evidence]") -> "list[Addition]":
    """What was asked for beside what runs say: costs first, which those of ensembles are made of."""
    found: list[Addition] = []
    if args.inference:
        from benchmarks.inference.cost_table import add_costs  # imports torch

        found.append(lambda table: add_costs(table, args.cache, say))
    if args.ensembles:
        found.append(lambda table: with_ensembles(table, args, frame, evidence))
    return found


def _compare(before: Path, after: Path, layout: str, mix_code: bool, wide: bool) -> int:
    """Prints what changed between two folders; what was resampled is kept in the second."""
    from benchmarks.analysis.evidence import load_evidence
    from benchmarks.report.compare import NOTE, Side, compare_results, in_words, readable

    sides, num_problems = [], 0
    for results in (before, after):
        frame, found = stored_runs(results, mix_code)
        evidence, problems = load_evidence(results, frame, after)
        for problem in problems:
            print(problem, file=sys.stderr)
        sides.append(Side(frame, evidence))
        num_problems += found + len(problems)
    table = compare_results(sides[0], sides[1], mix_code)
    details = ("settings", "test", "trainable", "protocol", "seeds", "in", "state", "memory MiB", "AUC")
    print_frame(readable(table) if layout == "md" else table, layout, wide, details)
    print(f"{before} to {after}: {in_words(table)}", NOTE, sep="\n", file=sys.stderr)
    return 1 if num_problems else 0


COMMAND = Command("tables", "write tables of stored runs: md, csv, tex", "python bench.py tables", add_arguments, run)
