"""bench.py soup: the mean of the weights of the seeds of a method, as one model, chosen on validation."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.choices import SOUP_WAYS
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_data_root, check_named
from benchmarks.commands.predict import add_model_options
from benchmarks.errors import UserError

if TYPE_CHECKING:
    from benchmarks.inference.soup import Kitchen, Member


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="RUN",
        help="runs with a model that differ in their seed alone (bench.py list runs), or best for that of the best "
        "validation AUC; one stands for all its seeds",
    )
    parser.add_argument(
        "--way",
        nargs="+",
        choices=SOUP_WAYS,
        default=SOUP_WAYS,
        help="uniform: the mean of all; greedy: from the best on validation on, each that does not lower it (default: "
        "both)",
    )
    parser.add_argument(
        "--data", metavar="D", help="the dataset of the runs: its name or folder (default: its name then)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the model there, for predict, export and others; of one --way"
    )
    add_model_options(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> int:
    """Makes, scores and stores each soup, and says what validation says of it; what is stored is not done again."""
    from benchmarks.inference.soup import cook, soup_file, soup_members
    from benchmarks.inference.stored_models import BEST, best_run
    from benchmarks.storage.files import write_atomic

    check_named(args.results, "results")
    if args.out is not None and (len(args.way) > 1 or args.out.suffix != ".safetensors"):
        raise UserError(
            f"out must be a file *.safetensors, with one --way, got {str(args.out)!r}, {' '.join(args.way)}"
        )
    names = [best_run(args.results)["run_id"] if name == BEST else name for name in args.models]
    members = soup_members(args.results, names)
    kitchen = _kitchen(args, members)
    for way in dict.fromkeys(args.way):
        record = cook(kitchen, members, way)
        print(_told(record["evaluation"]["soup"], record["measurements"], members))
        if args.out is not None:
            write_atomic(args.out, soup_file(args.results, members, record), "out", private=True)
    print("bench.py tables --ensembles soups shows intervals", file=sys.stderr)
    return 0


def _kitchen(args: argparse.Namespace, members: "list[Member]") -> "Kitchen":
    from benchmarks.data.dataset import open_dataset
    from benchmarks.inference.soup import Kitchen
    from benchmarks.suite.devices import resolve_device

    trained_on = members[0].record["run"]["dataset"]
    dataset = open_dataset(args.data or trained_on["name"], args.data_root, args.cache)
    if dataset.digest != trained_on["digest"]:
        raise UserError(
            f"data must be what the runs were trained on, {trained_on['name']} as it was then, got other images, "
            f"labels or splits in {str(dataset.root)!r}"
        )

    def progress(what: str, done: int, total: int) -> None:
        print(f"{what}: {done}/{total} images", file=sys.stderr)

    device = resolve_device(args.device)
    return Kitchen(args.results, dataset, device, args.cache, args.weights, args.batch_size, progress)


def _told(soup: dict[str, str], scores: dict[str, dict[str, float]], members: "list[Member]") -> str:
    """What came out, beside single seeds."""
    used, best, now = soup["used"].split(), float(soup["best_val_auc"]), scores["val"]["auc"]
    singles = [member.record["measurements"]["test"]["auc"] for member in members]
    verdict = (
        "averaging lowered it: these seeds have weights of their own, whose mean is none of them"
        if round(now, 12) < round(best, 12)
        else f"{len(members) - len(used)} left out, as they lower it"
        if len(used) < len(members)
        else "averaging did not lower it"
    )
    return (
        f"{soup['way']} soup of {len(used)} of {len(members)} seeds ({', '.join(used)}): validation AUC {now:.4f}, "
        f"best seed alone {best:.4f}; {verdict}; test AUC {scores['test']['auc']:.4f}, mean of the single seeds "
        f"{sum(singles) / len(singles):.4f}"
    )


COMMAND = Command(
    "soup",
    "one model of the mean weights of a method's seeds",
    "python bench.py soup best --way greedy --out soup.safetensors",
    add_arguments,
    run,
)
