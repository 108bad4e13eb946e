"""bench.py advise: what stored results say to use, how sure that is, and what would decide more."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from benchmarks.bounds import Fault, typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_mix_code, add_results
from benchmarks.errors import UserError

if TYPE_CHECKING:
    from benchmarks.analysis.verdict import Verdict

FORMATS = ("text", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--gpu-memory", type=_card, metavar="SIZE", help="only what a card can train, like 8GB or RTX 4090"
    )
    parser.add_argument(
        "--margin",
        type=typed("margin"),
        metavar="AUC",
        help="shown to be no worse than full fine-tuning by more than this, like 0.02 (default: not told apart from "
        "the best)",
    )
    parser.add_argument(
        "--train-hours",
        type=typed("train_hours"),
        metavar="H",
        help="only what trains a run in so many hours, extraction of features included",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: text")
    add_mix_code(parser)
    add_results(parser)


def _card(text: str) -> int | Fault:
    """Bytes of a card."""
    from benchmarks.memory.needs import parse_memory

    try:
        return parse_memory(text)
    except UserError as error:
        return Fault(error)


def run(args: argparse.Namespace) -> int:
    """Prints the verdict of each dataset and resolution."""
    from benchmarks.analysis.evidence import load_evidence
    from benchmarks.analysis.significance import add_significance
    from benchmarks.analysis.summary import summary
    from benchmarks.analysis.verdict import Limits, verdicts
    from benchmarks.commands.stored import stored_runs
    from benchmarks.memory.needs import needed_bytes
    from benchmarks.report.advice import as_data, in_terminal

    frame, num_problems = stored_runs(args.results, args.mix_code)
    evidence, problems = load_evidence(args.results, frame)
    for problem in problems:
        print(problem, file=sys.stderr)
    limits = Limits(args.margin, args.gpu_memory, needed_bytes, args.train_hours)
    table = add_significance(summary(frame, args.mix_code), evidence)
    found = list(verdicts(table, evidence, limits))
    if args.format == "json":
        print(json.dumps([as_data(verdict, limits) for verdict in found], indent=1, allow_nan=False))
    else:
        print(*in_terminal(found, limits, list(map(_command, found))), sep="\n")
    return 1 if num_problems or problems else 0


def _command(verdict: "Verdict") -> str | None:
    """The command lines of the next step."""
    step = verdict.next_step
    if step is None or step.need.seeds_to_run is None:
        return None
    from benchmarks.report.missing_runs import seed_commands  # imports torch

    rows = verdict.rows[verdict.rows["label"].isin(step.labels)]
    return " && ".join(seed_commands(rows, step.need.seeds_to_run))


COMMAND = Command(
    "advise",
    "say which method to use, how sure that is, and what would decide",
    "python bench.py advise --gpu-memory 8GB --margin 0.02",
    add_arguments,
    run,
)
