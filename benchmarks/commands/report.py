"""bench.py report: one HTML page, from stored results only."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bounds import typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_data_root, add_mix_code, add_results
from benchmarks.commands.stored import NO_RECORDS, add_ensemble_options, add_metrics, with_ensembles
from benchmarks.errors import MissingError

if TYPE_CHECKING:
    from benchmarks.report.page_panels import MakeSections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_metrics(parser)
    add_mix_code(parser)
    add_results(parser)
    add_cache(parser)
    parser.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="also subgroups, by columns (sex, site, scanner, ...) of the manifest of each dataset's folder",
    )
    parser.add_argument(
        "--images",
        type=typed("images"),
        metavar="N",
        help="also thumbnails of N test images that each method gets wrong: they are part of the page then",
    )
    add_data_root(parser)
    add_ensemble_options(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the results folder")
    parser.add_argument(
        "--anonymous", action="store_true", help="leave out machine, user and commit, for a double-blind review"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from benchmarks.analysis.headline import chosen_scores
    from benchmarks.records.record import record_paths
    from benchmarks.report.html_page import write_report

    if not record_paths(args.results) and not any((args.results / "measured").glob("*/*.json")):
        raise MissingError(NO_RECORDS.format(args.results / "runs"))
    chosen_scores(args.metrics)  # a wrong name is told before thousands of records are read
    output = args.output or args.results / "report.html"
    further = _panels(args)
    path, problems = write_report(
        args.results, output, args.mix_code, args.anonymous, args.metrics, args.cache, further
    )
    for problem in problems:
        print(problem, file=sys.stderr)
    print(path)
    return 1 if problems else 0


def _panels(args: argparse.Namespace) -> "list[MakeSections]":
    """What makes the sections of the page that were asked for."""
    from benchmarks.report.page_panels import ensemble_panels, subgroup_panels

    found: list[MakeSections] = []
    if args.by:
        found.append(subgroup_panels(args.by, args.data_root))
    if args.ensembles:
        found.append(ensemble_panels(lambda shown: with_ensembles(shown.table, args, shown.frame, shown.evidence)))
    if args.images is not None:
        from benchmarks.report.page_wrong import wrong_images  # imports torch

        found.append(wrong_images(args.images, args.data_root, args.cache))
    return found


COMMAND = Command(
    "report",
    "write one HTML page of stored runs, to open in any browser",
    "python bench.py report --results results",
    add_arguments,
    run,
)
