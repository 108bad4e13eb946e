"""bench.py reproduce: what a whole table still needs, then its runs, then the table in the papers' layout."""

import argparse
import sys

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_suite_options
from benchmarks.commands.run import run_options
from benchmarks.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the suite, `--yes` and the options of `run`, which win over the suite's."""
    parser.add_argument(
        "suite", metavar="SUITE", help="YAML of options; a file, or one of benchmarks/suites, like paper"
    )
    parser.add_argument("--yes", action="store_true", help="start the runs that are missing (default: only list them)")
    add_suite_options(parser)


def reproduce(args: argparse.Namespace) -> int:
    """Shows runs, memory, disk and time; with `--yes` does what is missing and writes the papers' table."""
    from benchmarks.suite.suite_file import read_options

    options = read_options(vars(args))
    if options.dry_run and args.yes:
        raise UserError("yes must be used without --dry-run, got both")
    shown = run_options(options.model_copy(update={"dry_run": True}))
    if shown or not args.yes:
        print("nothing was started; the same command with --yes starts what is to do", file=sys.stderr)
        return shown
    status = run_options(options)

    from benchmarks.records.frame import load_frame
    from benchmarks.report.paper_layout import write_paper_tables

    frame, _ = load_frame(options.results)  # records that are damaged were named, and count in the status
    paths = write_paper_tables(options.results, frame, published=True, mix_code=options.mix_code)
    print(*paths, sep="\n", file=sys.stderr)
    return status


COMMAND = Command(
    "reproduce",
    "run what a table lacks: first a dry run, with --yes the runs",
    "python bench.py reproduce paper --data-root data",
    add_arguments,
    reproduce,
)
