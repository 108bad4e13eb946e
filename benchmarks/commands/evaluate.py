"""bench.py evaluate: kept models on the labelled images of another folder, stored beside the runs."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import check_named
from benchmarks.commands.predict import add_model_options, load_stored

if TYPE_CHECKING:
    from benchmarks.records.schema import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="RUN",
        help="runs with a model (bench.py list runs), or best for that of the best validation AUC",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="labelled images of the same classes: <class>/<images>, or the same below test/",
    )
    parser.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        help="text with a line 'folder: class' for each folder, where folders are named otherwise; without a class, "
        "its images are left out",
    )
    parser.add_argument(
        "--all-seeds",
        action="store_true",
        help="evaluate also the kept models of runs that differ from those named in the seed alone",
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates each model on the folder, and prints the AUC there and before; what is stored is not done again."""
    from benchmarks.inference.evaluate import evaluate, evaluation_id, stored_evaluation
    from benchmarks.inference.labelled_folder import open_labelled, read_class_map

    check_named(args.results, "results")
    class_map = None if args.class_map is None else read_class_map(args.class_map)

    def progress(done: int, total: int) -> None:
        print(f"{done}/{total} images", file=sys.stderr)

    for record in _records(args):
        run_id, classes = record["run_id"], record["run"]["dataset"]["classes"]
        data = open_labelled(args.data, classes, class_map, args.cache)
        found = stored_evaluation(args.results, record, evaluation_id(run_id, data))
        if found is None:
            model = load_stored(args, run_id)
            found = evaluate(args.results, record, model, data, args.batch_size, progress)
        else:
            print(f"{run_id} is evaluated on {data.name}: stored", file=sys.stderr)
        before, now = (entry["measurements"]["test"]["auc"] for entry in (record, found))
        print(f"{run_id}: AUC {now:.4f} on {len(data.names)} images of {data.name}, {before:.4f} on its test split")
    print("bench.py tables shows intervals and the drop", file=sys.stderr)
    return 0


def _records(args: argparse.Namespace) -> "Iterator[Record]":
    """The runs that are meant, each once."""
    from benchmarks.inference.evaluate import same_but_for_the_seed
    from benchmarks.inference.stored_models import BEST, best_run, run_with_model

    done: set[str] = set()
    for name in args.models:
        record = best_run(args.results) if name == BEST else run_with_model(args.results, name)
        for found in same_but_for_the_seed(args.results, record) if args.all_seeds else [record]:
            if found["run_id"] not in done:
                done.add(found["run_id"])
                yield found


COMMAND = Command(
    "evaluate",
    "measure kept models on labelled images of another folder",
    "python bench.py evaluate best --all-seeds --data path/to/other_hospital",
    add_arguments,
    run,
)
