"""bench.py explain: what a trained model looks at, as pictures, maps and tables."""

import argparse
import sys
from pathlib import Path

from benchmarks.bounds import typed
from benchmarks.choices import MAPS, one_of
from benchmarks.commands.contract import Command
from benchmarks.commands.options import folder
from benchmarks.commands.predict import add_model, add_model_options, load
from benchmarks.commands.printing import print_narrow
from benchmarks.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model(parser)
    parser.add_argument("files", nargs="+", type=Path, metavar="IMAGES", help="images, DICOM too, or folders of them")
    parser.add_argument(
        "--out",
        type=folder("out"),
        default=Path("explained"),
        metavar="FOLDER",
        help="a new or empty folder for pictures, maps and tables (default: explained)",
    )
    parser.add_argument(
        "--target", metavar="CLASS", help="the class to explain (default: the most probable one of each image)"
    )
    parser.add_argument(
        "--how",
        choices=MAPS,
        metavar="WAY",
        help=f"{', '.join(MAPS)} (default: the first of these that suits the model; grad-cam needs captum)",
    )
    parser.add_argument(
        "--steps",
        type=typed("steps"),
        default=16,
        metavar="N",
        help="of insertion and deletion curves, six passes of the model each; 0 leaves them out (default: 16)",
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Explains each image; one that cannot be read is named, and the others are explained."""
    from benchmarks.inference.maps.explain import Folder, check_empty, explain
    from benchmarks.inference.maps.ways import WAYS, choose_way
    from benchmarks.inference.predict import image_files

    paths, problems = image_files(args.files)
    check_empty(args.out)
    model = load(args)
    if args.batch_size is not None:
        model.batch_size = args.batch_size
    target = None
    if args.target is not None:
        target = model.classes.index(one_of("target", model.classes, args.target))
    way = choose_way(model, args.how)
    note = "" if WAYS[way].of_class else "; the map is the same for every class"
    print(f"maps by {way} ({WAYS[way].unit}){note}", file=sys.stderr)

    def progress(done: int, total: int) -> None:
        print(f"{done}/{total} images", file=sys.stderr)

    made = Folder(args.out, model, way)
    for found in explain(model, paths, way, target, args.steps, progress):
        if isinstance(found, str):
            problems.append(found)
        else:
            made.add(found)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not made.found:
        raise UserError("images must be readable, got none that is; see the lines above")
    made.finish()
    if args.steps:
        print_narrow(made.summary())
    print(f"pictures, maps and tables: {args.out}", file=sys.stderr)
    return 1 if problems else 0


COMMAND = Command(
    "explain",
    "what a model looks at, and whether that means anything",
    "python bench.py explain best path/to/images --out explained",
    add_arguments,
    run,
)
