"""What a short run takes beside training, evaluating and storing: in fresh processes, and in one that serves them all.

    python -m benchmarks.speed.short_runs [--runs 8] [--methods linear] [--repeats 3]

Runs of a method on the demo that differ in their seed alone, features preloaded before. Each suite is run with one run
and with all of them; the difference, by the number of further runs, is what one more run takes. On a busy machine go by
processor seconds: of this process, which plans and waits, and of those that it starts.
"""

import argparse
import contextlib
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd

from benchmarks.bounds import positive
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.plan import make_plan
from benchmarks.suite.processes import Workers
from benchmarks.suite.suite import Work, run_suite

PARTS = {  # of a run, by the names of its clock
    "training": ("prepare", "train"),
    "evaluating": ("validate", "test"),
    "storing": ("checkpoint", "keep", "store"),
}
CLOCKS = {"seconds": "wall", "processor": "processor"}  # by the names of `Taken`
HANG_MINUTES = 60
Done = dict[str, Any]  # what a process says at the end of a run


class Taken(NamedTuple):
    """What a suite took.

    Attributes:
        seconds, processor: Of all of it.
        runs: What the process of each run said.
    """

    seconds: float
    processor: float
    runs: list[Done]


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, default=8, metavar="N", help="two or more (default: 8)")
    parser.add_argument("--methods", nargs="+", default=["linear"], metavar="M")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="the median is shown (default: 3)")
    parser.add_argument("--datasets", default="demo", metavar="D")
    parser.add_argument("--res", type=positive, default=224, metavar="PX")
    parser.add_argument("--epochs", type=positive, default=10, metavar="N")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="default: the dataset's")
    parser.add_argument("--backbone", default="vit_base_patch16_384", metavar="B")
    parser.add_argument("--weights", default="wheel", metavar="W")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR")
    args = parser.parse_args(arguments)
    if args.runs < 2:
        parser.error(f"argument --runs: must be 2 or more, got {args.runs}")
    print(setting(), flush=True)
    rows = [row for method in args.methods for row in compare(method, args)]
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".2f"))
    return 0


def setting() -> str:
    """Where this is measured: cores, load, how threads wait, and whose memory allocator."""
    waiting = os.environ.get("OMP_WAIT_POLICY", "PASSIVE, as the suite sets it")
    changed = [
        f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith(("MALLOC_", "LD_PRELOAD"))
    ]
    allocator = " ".join(changed) or f"default of {' '.join(platform.libc_ver())}"
    return (
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS "
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}, waiting policy {waiting}, allocator {allocator}\n"
    )


def compare(method: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What one more run takes, a row for each kind of process."""
    with tempfile.TemporaryDirectory() as folder:
        suite(method, args, 1, fresh=True, results=Path(folder) / "preloaded")
    for process in ("fresh", "reused"):
        found = [one_more(method, args, process == "fresh") for _ in range(args.repeats)]
        for clock in ("seconds", "processor"):
            values = {name: statistics.median(each[clock][name] for each in found) for name in found[0][clock]}
            yield {"method": method, "process": process, "clock": CLOCKS[clock]} | values


def one_more(method: str, args: argparse.Namespace, fresh: bool) -> dict[str, dict[str, float]]:
    """By clock the seconds of one more run: its parts, the rest and what of that the run itself knows, and the sum."""
    with tempfile.TemporaryDirectory() as folder:
        one = suite(method, args, 1, fresh, Path(folder) / "one")
        several = suite(method, args, args.runs, fresh, Path(folder) / "several")
    further = args.runs - 1
    found = {}
    for clock in CLOCKS:
        whole = (getattr(several, clock) - getattr(one, clock)) / further
        parts = {part: sum(_mean(several.runs[1:], clock, name) for name in names) for part, names in PARTS.items()}
        within = sum(_mean(several.runs[1:], clock, name) for name in ("images", "setup", "preload", "predict"))
        rest = whole - sum(parts.values())
        found[clock] = parts | {"rest": rest, "of it data and model": within, "together": whole}
    return found


def _mean(runs: list[Done], clock: str, part: str) -> float:
    return statistics.fmean(run[clock].get(part, 0.0) for run in runs)


def suite(method: str, args: argparse.Namespace, num_runs: int, fresh: bool, results: Path) -> Taken:
    """Runs a suite and says what it took."""
    options = SuiteOptions(
        methods=(method,), datasets=(args.datasets,), res=(args.res,), seeds=tuple(range(num_runs)), device=("cpu",),
        epochs=args.epochs, batch_size=args.batch_size, backbone=args.backbone, weights=args.weights,
        cache=args.cache, results=results,
    )  # fmt: skip
    work = Work.make(make_plan(options), results, options.policy, HANG_MINUTES)
    runs: list[Done] = []
    follow = Workers.follow

    def followed(self: Workers, *given: Any, **named: Any) -> Done:
        runs.append(follow(self, *given, **named))
        return runs[-1]

    started, used = time.perf_counter(), _processor_seconds()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Workers, "follow", followed))
        if fresh:
            stack.enter_context(mock.patch("benchmarks.suite.suite.process_kind", lambda _: None))
        run_suite(work)
    taken = Taken(time.perf_counter() - started, _processor_seconds() - used, runs)
    _check(runs)
    return taken


def _check(runs: Sequence[Done]) -> None:
    for run in runs:
        if run["state"] != "ok":
            raise SystemExit(f"a run must end well to be timed, got {run['state']}: {run['message']}")


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
