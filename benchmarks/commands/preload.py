"""bench.py preload: makes the feature caches of a suite ahead of its runs."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from benchmarks.commands import run as run_command
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_format
from benchmarks.commands.printing import print_frame
from benchmarks.errors import UserError

if TYPE_CHECKING:
    from benchmarks.suite.planned import PlannedRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options: those of the run that will use the caches, and the format of the table."""
    run_command.add_arguments(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Computes what is missing, and prints what each cache took."""
    import pandas as pd

    from benchmarks.environment import describe_code
    from benchmarks.storage.files import make_results
    from benchmarks.suite.devices import devices_of
    from benchmarks.suite.plan import make_plan
    from benchmarks.suite.processes import Job, Workers
    from benchmarks.suite.progress import SuiteProgress
    from benchmarks.suite.suite_file import read_options
    from methods import METHODS

    options = read_options(vars(args))
    if options.launcher != "local" or len(devices_of(options)) > 1:
        raise UserError("preload must have one device, got several processes; leave --jobs and --launcher out")
    plan = make_plan(options)
    runs = distinct([planned for planned in plan.runs if planned.config.preload])
    if not runs:
        able = ", ".join(name for name, method in METHODS.items() if method.has_extractor)
        raise UserError(f"methods must include one whose features can be preloaded ({able}), got none")
    if options.dry_run:
        print_frame(pd.DataFrame([_place(planned) for planned in runs]), args.format, args.wide)
        return 0
    make_results(options.results)
    code, rows = describe_code(), []
    with SuiteProgress(len(runs), options.verbose) as progress, Workers() as workers:
        for note in plan.notes:
            progress.note(f"note: {note}")
        for number, planned in enumerate(runs, start=1):
            config = planned.config
            log = options.results / "logs" / f"preload-{config.run_id}.log"
            progress.start(number, f"{planned.name} {config.dataset} {config.resolution} px", log)
            job = Job("preload", planned, options.results, log, code, options.hang_minutes * 60)
            done = workers.follow(job, progress, another=number < len(runs))
            progress.finish(done, len(runs) - number)
            rows.append(_row(planned, done))
    print_frame(pd.DataFrame(rows), args.format, args.wide)
    return int(any(row["state"] != "ok" for row in rows))


def distinct(runs: "list[PlannedRun]") -> "list[PlannedRun]":
    """One run for all that differ only in what features do not depend on."""
    found: dict[str, PlannedRun] = {}
    for planned in runs:
        config = planned.config
        seed = config.seed if config.weights_sha256 is None else 0  # random weights come from the seed
        alike = dataclasses.replace(
            config, seed=seed, epochs=1, lr=1.0, lr_grid=(), weight_decay=0.0, grad_checkpointing=False
        )
        found.setdefault(alike.run_id, planned)
    return list(found.values())


def _place(planned: "PlannedRun") -> dict[str, Any]:
    config = planned.config
    return {"method": planned.name, "dataset": config.dataset, "res": config.resolution}


def _row(planned: "PlannedRun", done: dict[str, Any]) -> dict[str, Any]:
    preload = done.get("preload", {})
    size, seconds = preload.get("cache_bytes"), preload.get("seconds")
    return _place(planned) | {
        "state": done["state"],
        "cache": preload.get("cache"),
        "reused": preload.get("reused"),
        "seconds": None if seconds is None else round(seconds, 1),
        "images_per_second": None if seconds is None else round(preload["images_per_second"], 2),
        "mib": None if size is None else round(size / 2**20, 1),
        "bytes_per_image": preload.get("bytes_per_image"),
    }


COMMAND = Command(
    "preload",
    "compute the frozen features of a suite ahead of its runs",
    "python bench.py preload --methods fpt linear --res 512",
    add_arguments,
    run,
)
