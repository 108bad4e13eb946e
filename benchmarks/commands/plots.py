"""bench.py plots: from stored results only."""

import argparse
import sys

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_mix_code, add_results
from benchmarks.commands.stored import add_across_backbones, stored_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--option", metavar="NAME", help="draw AUC and memory over this option of methods, like rank, and nothing else"
    )
    add_across_backbones(parser)
    add_mix_code(parser)
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the plots and prints their paths."""
    frame, num_problems = stored_runs(args.results, args.mix_code, args.across_backbones)
    from benchmarks.analysis.evidence import load_evidence
    from benchmarks.report.plots import write_plots

    evidence, problems = load_evidence(args.results, frame)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(*write_plots(args.results, frame, evidence, args.mix_code, args.option), sep="\n")
    return 1 if num_problems or problems else 0


COMMAND = Command("plots", "write plots of stored runs: png, pdf", "python bench.py plots", add_arguments, run)
