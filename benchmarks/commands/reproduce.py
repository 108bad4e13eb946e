"""bench.py reproduce: what a whole table still needs, then its runs, then the table in the papers' layout."""

import argparse
import sys

from benchmarks.commands import run as run_command
from benchmarks.commands.contract import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the suite, `--yes` and the options of `run`, which win over the suite's."""
    parser.add_argument(
        "suite", metavar="SUITE", help="YAML of options; a file, or one of benchmarks/suites, like paper"
    )
    parser.add_argument("--yes", action="store_true", help="start the runs that are missing (default: only list them)")
    run_command.add_suite_options(parser)


def reproduce(args: argparse.Namespace) -> int:
    """Shows runs, memory, disk and time; with `--yes` does what is missing and writes the papers' table."""
    if args.dry_run and args.yes:
        raise ValueError("yes must be used without --dry-run, got both")
    shown = run_command.run(argparse.Namespace(**{**vars(args), "dry_run": True}))
    if shown or not args.yes:
        print("nothing was started; the same command with --yes starts what is to do", file=sys.stderr)
        return shown
    status = run_command.run(argparse.Namespace(**{**vars(args), "predict_all": False}))

    from benchmarks.records.frame import load_frame
    from benchmarks.report.paper_layout import write_paper_tables

    frame, _ = load_frame(args.results)  # records that are damaged were named, and count in the status
    print(*write_paper_tables(args.results, frame, published=True), sep="\n", file=sys.stderr)
    return status


COMMAND = Command(
    "reproduce",
    "run what a whole table lacks, and write it: first a dry run, with --yes the runs",
    "python bench.py reproduce paper --data-root data",
    add_arguments,
    reproduce,
)
