"""bench.py run: train, measure, store, then show the table."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_suite_options
from benchmarks.errors import UserError, mendable, one_line
from benchmarks.suite.crash import report_crash
from benchmarks.suite.signals import Stop

if TYPE_CHECKING:
    from benchmarks.suite.options import SuiteOptions
    from benchmarks.suite.rounds import Rounds
    from benchmarks.suite.slurm_settings import SlurmSettings
    from benchmarks.suite.suite import Work


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a suite."""
    parser.add_argument("--suite", metavar="FILE", help="YAML of these options; a file, or one of benchmarks/suites")
    add_suite_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the suite, then writes and shows its tables and plots."""
    from benchmarks.suite.suite_file import read_options

    options = read_options(vars(args))
    for name in ("predict_all", "probe"):
        if getattr(options, name) and not options.dry_run:
            raise UserError(f"{name} must be used with --dry-run, got it alone")
    return run_options(options)


def run_options(options: "SuiteOptions") -> int:
    """Runs a suite, or shows what it has to do."""
    from benchmarks.storage.files import check_writable, make_results
    from benchmarks.suite.plan import make_plan

    make_results(options.results)
    check_writable(options.results / "runs")
    if options.track is not None:
        from benchmarks.suite.tracking import check_tracker

        check_tracker(options.track)
    rounds = _make_rounds(options) if options.until_decided else None
    plan = rounds.plan([0]) if rounds else make_plan(options)
    if options.dry_run:
        from benchmarks.commands.dry_run import show_plan

        show_plan(plan, options.results, options.policy, options.predict_all, options.probe, options.verbose)
        if rounds:
            rounds.say_most()
        return 0

    from benchmarks.suite.devices import devices_of
    from benchmarks.suite.suite import Work, announce

    work = Work.make(
        plan, options.results, options.policy, options.hang_minutes, options.verbose, options.track,
        options.disclosure, options.keep_models,
    )  # fmt: skip
    if options.hash_names:
        from benchmarks.suite.name_hashing import make_keys, say_named

        make_keys(plan)
        say_named(work)
    announce(work)
    devices = devices_of(options)
    return _do(work, devices, options, rounds) if options.slurm is None else _submit(work, options.slurm)


def _make_rounds(options: "SuiteOptions") -> "Rounds":
    from benchmarks.suite.rounds import Rounds  # and with it all that statistics need

    return Rounds(options)


def _do(work: "Work", devices: list[str], options: "SuiteOptions", rounds: "Rounds | None") -> int:
    """Does what is due on this machine, then shows all results of the suite."""
    from benchmarks.suite.suite import say_states

    try:
        if rounds is None:
            _run_on(work, devices)
        else:
            _run_rounds(work, devices, rounds)
    except Stop as stop:
        print(f"stopped by {stop}; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return stop.status
    except Exception as error:
        if not mendable(error):
            raise
        print(f"bench.py: {one_line(error)}", file=sys.stderr)
    status, run_ids = say_states(replace(work, plan=rounds.plan()) if rounds else work)
    try:
        return max(status, show_results(options.results, run_ids, options.mix_code))
    except Exception as error:  # of a table or plot: the runs are done, and how they ended has been said
        say_again = "`bench.py tables` and `bench.py plots` write them again"
        print(f"not all tables and plots are written: the runs are stored, {say_again}", file=sys.stderr)
        if not mendable(error):
            return max(status, report_crash(error, options.results))
        print(f"bench.py: {one_line(error)}", file=sys.stderr)
        return max(status, 1)


def _run_on(work: "Work", devices: list[str]) -> None:
    if len(devices) == 1:
        from benchmarks.suite.suite import run_suite

        run_suite(work)
        return
    from benchmarks.suite.local import run_in_processes

    run_in_processes(work, devices)


def _run_rounds(work: "Work", devices: list[str], rounds: "Rounds") -> None:
    """Does round after round, until the answer stands."""
    plan = rounds.begin(work, len(devices))
    while plan is not None:
        _run_on(replace(work, plan=plan, deadline=rounds.deadline), devices)
        plan = rounds.next(work, len(devices))


def _submit(work: "Work", settings: "SlurmSettings") -> int:
    from benchmarks.suite.slurm import submit_suite

    entries, before = submit_suite(work, settings)
    for entry in entries:
        print(f"job {entry.job}: {entry.name}", file=sys.stderr)
    num_jobs, num_before = (len({entry.job for entry in found}) for found in (entries, before))
    packed = f" for {len(entries)} runs" if num_jobs < len(entries) else ""
    already = f", {num_before} were queued or running already" if before else ""
    print(
        f"{num_jobs} jobs submitted{packed}{already}; `bench.py list runs` shows how they stand, `bench.py tables` "
        "writes the tables, and the same command submits again what was lost",
        file=sys.stderr,
    )
    return 0


def show_results(results: Path, run_ids: set[str], mix_code: bool) -> int:
    """Writes tables and plots of all stored runs, and prints what some say to use, and their table."""
    from rich.console import Console

    from benchmarks.analysis.evidence import load_evidence
    from benchmarks.analysis.headline import load_wanted
    from benchmarks.analysis.significance import add_significance
    from benchmarks.analysis.summary import refusals, summary
    from benchmarks.analysis.verdict import Limits, verdicts
    from benchmarks.records.frame import load_frame
    from benchmarks.report.advice import first_lines
    from benchmarks.report.plots import write_plots
    from benchmarks.report.tables import console_table, write_tables

    frame, problems = load_frame(results)
    problems += [] if mix_code else refusals(frame)
    evidence, damaged = load_evidence(results, frame)
    own = frame[frame["run_id"].isin(run_ids)]
    found = list(verdicts(add_significance(summary(own, mix_code, frame), evidence), evidence, Limits()))
    print(*first_lines(found), "", sep="\n")
    wanted = load_wanted(results, frame)
    damaged = list(dict.fromkeys([*damaged, *wanted.problems]))
    Console().print(console_table(own, mix_code, frame, wanted))
    for problem in (*problems, *damaged):
        print(problem, file=sys.stderr)
    paths = write_tables(results, frame, evidence, mix_code, wanted=wanted)
    paths += write_plots(results, frame, evidence, mix_code)
    folders = sorted({str(path.parent) for path in paths})
    print(f"tables and plots: {', '.join(folders)}", file=sys.stderr)
    return 1 if problems or damaged else 0


COMMAND = Command(
    "run",
    "train and measure methods (the default command)",
    "python bench.py --methods fpt lora --res 512",
    add_arguments,
    run,
)
