"""bench.py split: from class folders, or a table of labels or findings, to splits with no patient in two of them."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bounds import Fault, typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_data_root, folder
from benchmarks.errors import UserError
from benchmarks.names import printable

if TYPE_CHECKING:
    from benchmarks.prepare.own_groups import Grouping
    from benchmarks.prepare.own_images import OwnImage
    from benchmarks.prepare.own_split import Made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="FOLDER|TABLE",
        help="a folder with a folder of images per class, maybe below train and test, which then stays the test split; "
        "or a csv or xlsx table with a path and a label, or a column for each finding, in each row",
    )
    groups = parser.add_mutually_exclusive_group(required=True)
    groups.add_argument(
        "--groups",
        metavar="COLUMN",
        help="images with one value there stay in one split: a column of the table, or of DICOM files a keyword such "
        "as PatientID",
    )
    groups.add_argument(
        "--group-pattern",
        type=_pattern,
        metavar="REGEX",
        help=r"the same for what it finds first in the path of an image below its class folder: '(\d+)_' takes the "
        "number before a low line",
    )
    groups.add_argument("--image-level", action="store_true", help="each image is another patient's, so split by image")
    parser.add_argument(
        "--val", type=typed("val"), default=0.1, metavar="SHARE", help="of the images (default: %(default)s)"
    )
    parser.add_argument("--test", type=typed("test"), metavar="SHARE", help="of the images (default: 0.2)")
    parser.add_argument(
        "--folds",
        type=typed("folds"),
        metavar="K",
        help="make K datasets, NAME-fold1 and so on, of a cross-validation: each image is tested in one",
    )
    parser.add_argument("--seed", type=typed("seed"), default=0, metavar="N", help="of the splits (default: 0)")
    parser.add_argument("--images", type=folder("images"), metavar="DIR", help="of a table, default: where it lies")
    parser.add_argument("--paths", metavar="COLUMN", help="of the table, where it is not named path, file, image, ...")
    parser.add_argument("--labels", metavar="COLUMN", help="of the table, where it is not named label, class, ...")
    parser.add_argument(
        "--findings",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="of the table, which hold 1 with a finding, 0 without, -1 uncertain, nothing where it is unknown (default "
        "without a column of labels: all but path, group and split)",
    )
    parser.add_argument("--name", metavar="NAME", help="of the dataset (default: that of FOLDER or TABLE and '-split')")
    add_data_root(parser)
    parser.add_argument("--copy", action="store_true", help="copy the images instead of making links to them")
    parser.add_argument("--overwrite", action="store_true", help="replace a split that was made with other settings")
    parser.add_argument("--dry-run", action="store_true", help="show the classes and groups, and write nothing")


def run(args: argparse.Namespace) -> int:
    """Shows the groups on stderr, splits, and prints what was made."""
    from benchmarks.prepare.own_findings import said_findings
    from benchmarks.prepare.own_groups import find_groups, shown_groups
    from benchmarks.prepare.own_split import SplitRequest, split_own
    from benchmarks.suite.progress import CountProgress

    source = args.source.expanduser()
    name = _name(args.name or f"{source.resolve().stem if source.is_file() else source.resolve().name}-split")
    images, findings = _images(source, args)
    grouping = _grouping(args)
    groups = find_groups(images, grouping)
    said = said_findings(images, findings) if findings else []
    said += shown_groups(images, groups, grouping.key, len(findings))
    print("\n".join(map(printable, said)), file=sys.stderr)
    if args.dry_run:
        return 0
    request = SplitRequest(
        source, args.data_root, name, args.val, args.test, args.folds, args.seed, grouping.key, args.copy,
        args.overwrite, findings,
    )  # fmt: skip
    with CountProgress("decoding images") as progress:
        made = split_own(images, groups, request, progress)
    print("\n".join(printable(line) for dataset in made for line in _summary(dataset)))
    return 0


def _images(source: Path, args: argparse.Namespace) -> "tuple[list[OwnImage], tuple[str, ...]]":
    """The images, and the findings that a table tells of them, if it does."""
    from benchmarks.prepare.own_findings import find_own_findings, finding_columns
    from benchmarks.prepare.own_images import find_own_images

    if args.findings and (args.labels is not None or not source.is_file()):
        raise UserError(
            "--findings must be of a table without --labels, got "
            f"{'both' if args.labels is not None else repr(str(source))}; leave one out, or name the table"
        )
    if source.is_file() and args.labels is None:
        findings = finding_columns(source, [args.groups] if args.groups else [], args.paths, args.findings)
        if findings:
            return find_own_findings(source, args.images, args.paths, findings), findings
    return find_own_images(source, args.images, args.paths, args.labels), ()


def _pattern(text: str) -> str | Fault:
    try:
        re.compile(text)
    except re.error as error:
        return Fault(rf"group_pattern must be a regular expression such as '(\d+)_', got {text!r} ({error})")
    return text


def _grouping(args: argparse.Namespace) -> "Grouping":
    from benchmarks.prepare.own_groups import Grouping

    if args.groups is not None:
        return Grouping("groups", args.groups)
    return Grouping("image") if args.image_level else Grouping("pattern", args.group_pattern)


def _name(name: str) -> str:
    from datasets import DATASETS

    if name in DATASETS or name.startswith(".") or Path(name).name != name:
        raise UserError(
            f"--name must be that of a new folder and of no dataset that is known ({', '.join(DATASETS)}), got {name!r}"
        )
    return name


def _summary(made: "Made") -> list[str]:
    from benchmarks.data.findings import has_findings

    about = made.about
    done = "made of links" if made.new and not about["settings"]["copy"] else "copied" if made.new else "already there"
    images = about["images"]
    lines = [f"{made.root.name}: {sum(images.values()):,} images in {made.root}, {done}"]
    for split in ("train", "val", "test"):
        counts = ", ".join(f"{name} {number:,}" for name, number in about["counts"][split].items())
        several = f"{images[split]:,} images, " if has_findings(made.root) else ""
        lines.append(f"  {split:5} ({about['split']['parts'][split]}): {several}{counts}")
    lines.append(
        f"  {about['num_groups']:,} groups ({about['split']['group_key']}), none in two splits; "
        f"split {about['split']['digest'][:12]}"
    )
    return [*lines, *(f"  note: {note}" for note in about["notes"])]


COMMAND = Command(
    "split",
    "split your own images into train, val and test by patient",
    "python bench.py split my_images --group-pattern '(\\d+)_' --val 0.1 --test 0.2",
    add_arguments,
    run,
)
