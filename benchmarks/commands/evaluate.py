"""bench.py evaluate: kept models on other labelled images, or on corrupted ones, stored beside the runs."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_data_root, check_named
from benchmarks.commands.predict import add_model_options, load_stored
from benchmarks.errors import UserError

if TYPE_CHECKING:
    from benchmarks.inference.labelled_folder import LabelledFolder
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
        metavar="FOLDER|TABLE",
        help="labelled images of the same classes: <class>/<images>, or the same below test/; of findings a csv table "
        "with path and a column each, or a folder with labels.csv (default with --corruptions: the run's own dataset)",
    )
    parser.add_argument(
        "--corruptions",
        metavar="SET",
        help="measure on corrupted images: basic (brightness, contrast, noise, blur, JPEG, resolution at five "
        "severities)",
    )
    parser.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        help="text with a line 'folder: class' for each folder, where folders are named otherwise; without a class, "
        "its images are left out; of findings 'column: finding'",
    )
    parser.add_argument(
        "--all-seeds",
        action="store_true",
        help="evaluate also the kept models of runs that differ from those named in the seed alone",
    )
    add_data_root(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates each model, and prints the AUC there and before; what is stored is not done again."""
    from benchmarks.inference.labelled_folder import open_labelled, read_class_map
    from benchmarks.inference.labelled_table import open_labelled_table
    from benchmarks.storage.notes import say
    from benchmarks.tasks import task_of

    check_named(args.results, "results")
    if args.data is None and (args.corruptions is None or args.class_map is not None):
        raise UserError("data must be named with --data FOLDER, got none; --corruptions alone is of the run's dataset")
    if args.corruptions is not None:
        from benchmarks.inference.corruptions import check_suite

        check_suite(args.corruptions)
    class_map = None if args.class_map is None else read_class_map(args.class_map)
    for record in _records(args):
        place = _own_folder(record, args) if args.data is None else args.data
        classes = record["run"]["dataset"]["classes"]
        notes: list[str] = []
        if task_of(record["run"]["config"]).has_findings:
            data, notes = open_labelled_table(place, classes, class_map, args.cache)
        else:
            data = open_labelled(place, classes, class_map, args.cache)
        for note in notes:
            say(note)
        (_other_data if args.corruptions is None else _corrupted)(args, record, data)
    print("bench.py tables shows intervals and the drop", file=sys.stderr)
    return 0


def _progress(done: int, total: int) -> None:
    print(f"{done}/{total} images", file=sys.stderr)


def _other_data(args: argparse.Namespace, record: "Record", data: "LabelledFolder") -> None:
    """Measures a run's model on a folder."""
    from benchmarks.inference.evaluate import evaluate, evaluation_id, stored_evaluation

    run_id = record["run_id"]
    found = stored_evaluation(args.results, record, evaluation_id(run_id, data))
    if found is None:
        model = load_stored(args, run_id)
        found = evaluate(args.results, record, model, data, args.batch_size, _progress)
    else:
        print(f"{run_id} is evaluated on {data.name}: stored", file=sys.stderr)
    (before, inside), (now, outside) = (_auc_and_findings(entry) for entry in (record, found))
    print(f"{run_id}: AUC {now:.4f} on {len(data.names)} images of {data.name}, {before:.4f} on its test split")
    if inside != outside:
        print(
            f"  means over {outside} and {inside} findings: see bench.py tables for those that are scored on both",
            file=sys.stderr,
        )


def _auc_and_findings(record: "Record") -> tuple[float, int]:
    """The AUC of a record, and over how many classes or findings it is a mean."""
    test = record["measurements"]["test"]
    return test["auc"], sum(auc is not None for auc in test["auc_per_class"].values())


def _corrupted(args: argparse.Namespace, record: "Record", data: "LabelledFolder") -> None:
    """Measures a run's model on corrupted images of a folder."""
    from benchmarks.analysis.robustness import mean_drop, read_conditions
    from benchmarks.inference.robustness import evaluate_corrupted, stored_robustness
    from benchmarks.records.record import predictions_path
    from benchmarks.records.stored import evaluation_results
    from benchmarks.storage.files import read_regular

    run_id = record["run_id"]
    found = stored_robustness(args.results, record, data)
    if found is None:
        model = load_stored(args, run_id)
        found = evaluate_corrupted(args.results, record, model, data, args.batch_size, _progress)
    else:
        print(f"{run_id} is evaluated on corrupted images of {data.name}: stored", file=sys.stderr)
    path = predictions_path(evaluation_results(args.results), found["run_id"])
    drop, worst, most = mean_drop(read_conditions(read_regular(path)))
    clean = found["measurements"]["test"]["auc"]
    print(
        f"{run_id}: AUC {clean:.4f} on {len(data.names)} clean images of {data.name}, lower by {drop:.4f} in the mean "
        f"over all corruptions, by {most:.4f} of {worst}"
    )


def _own_folder(record: "Record", args: argparse.Namespace) -> Path:
    """The folder of the dataset that a run was trained on.

    Raises:
        UserError: It is not there, or holds other images now.
    """
    from benchmarks.data.dataset import open_dataset

    config = record["run"]["config"]
    dataset = open_dataset(config["dataset"], args.data_root, args.cache)
    if dataset.digest != config["dataset_digest"]:
        raise UserError(
            f"dataset must be that on which {record['run_id']} was trained, got other images in {str(dataset.root)!r}; "
            "name its folder with --data"
        )
    return dataset.root


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
    "measure kept models on another folder, or on corrupted images",
    "python bench.py evaluate best --all-seeds --data path/to/other_hospital",
    add_arguments,
    run,
)
