"""bench.py predict: what a trained model says about images, as CSV."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bounds import typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_plugins, add_results, check_named
from benchmarks.errors import UserError
from benchmarks.storage.csv_cells import csv_text

if TYPE_CHECKING:
    from benchmarks.inference.trained import TrainedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model(parser)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILES", help="images, DICOM too, or folders of them")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the table there (default: stdout)")
    add_model_options(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model that a command uses."""
    parser.add_argument(
        "model",
        metavar="RUN",
        help="a run with a model (bench.py list runs), best for that of the best validation AUC, or a model's file",
    )


def add_model_options(parser: argparse.ArgumentParser, batches: bool = True) -> None:
    """What loading a model needs, which `load` reads, and running it on `batches`."""
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda:<n> (default: auto)")
    if batches:
        parser.add_argument(
            "--batch-size", type=typed("batch_size"), metavar="N", help="images at a time (default: the run's)"
        )
    parser.add_argument(
        "--weights", metavar="FILE", help="of the backbone (default: from where the run had them; a file must be named)"
    )
    add_plugins(parser)
    add_cache(parser)
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Predicts, and writes a row an image; one that cannot be read is named, and the others are predicted."""
    from benchmarks.inference.predict import image_files, predict
    from benchmarks.storage.files import write_atomic

    paths, problems = image_files(args.files)
    if args.out is not None and args.out.is_dir():
        raise UserError(f"out must be a file, got the folder {str(args.out)!r}")
    model = load(args)

    def progress(done: int, total: int) -> None:
        print(f"{done}/{total} images", file=sys.stderr)

    frame, unreadable = predict(model, paths, args.batch_size, progress)
    for problem in [*problems, *unreadable]:
        print(problem, file=sys.stderr)
    text = csv_text(frame)
    if args.out is None:
        print(text, end="")
    else:
        write_atomic(args.out, text.encode(), "out", private=True)
    return 1 if problems or unreadable else 0


def load(args: argparse.Namespace, merge: bool = True) -> "TrainedModel":
    """The model that was named; says which, and that it is not for clinical use.

    Args:
        args: With what `add_model` and `add_model_options` add.
        merge: As of `load_model`.

    Raises:
        UserError: There is none, or it cannot be used.
    """
    from benchmarks.inference.stored_models import BEST, best_run
    from benchmarks.inference.trained import load_model
    from benchmarks.suite.devices import resolve_device

    check_named(args.results, "results")
    if args.model.endswith(".safetensors"):
        device = resolve_device(args.device)
        return _introduced(load_model(args.model, device, args.cache, args.weights, merge))
    return load_stored(args, best_run(args.results)["run_id"] if args.model == BEST else args.model, merge)


def load_stored(args: argparse.Namespace, run_id: str, merge: bool = True) -> "TrainedModel":
    """The model of a run; says what it is, as `load` does, and raises what that does."""
    from benchmarks.inference.trained import load_run
    from benchmarks.suite.devices import resolve_device

    device = resolve_device(args.device)
    return _introduced(load_run(args.results, run_id, device, args.cache, args.weights, merge))


def _introduced(model: "TrainedModel") -> "TrainedModel":
    config, val = model.config, model.card["scores"]["val"]
    print(
        f"{model.card['run_id']}: {config.method} on {config.dataset} at {config.resolution} px, validation AUC "
        f"{val['auc']:.3f}; not for clinical use",
        file=sys.stderr,
    )
    return model


COMMAND = Command(
    "predict",
    "class probabilities of images by a trained model",
    "python bench.py predict best path/to/images --out predictions.csv",
    add_arguments,
    run,
)
