"""bench.py prepare: from the raw download of a dataset to a folder that the suite trains on."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import typed
from benchmarks.choices import one_of
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_data_root, add_plugins
from benchmarks.errors import UserError
from benchmarks.names import printable
from benchmarks.storage.files import file_in_the_way

if TYPE_CHECKING:
    from benchmarks.prepare.build import Outcome
    from benchmarks.raw.files import RawFiles
    from datasets.info import DatasetInfo

FORMS = {
    "medmnist": "a .npz file of a two-dimensional set of MedMNIST, official splits",
    "huggingface": "an image folder (train, validation and test, with class folders or metadata.csv or .jsonl), or "
    "parquet files; nothing is downloaded",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, and where to download each dataset."""
    from benchmarks.prepare.request import MAX_SIDE

    parser.add_argument("dataset", metavar="NAME", help="see below")
    parser.add_argument(
        "--raw",
        type=Path,
        required=True,
        metavar="DIR|FILE",
        help="holds the download, in any tree, zipped or not; of medmnist its .npz file, of huggingface a folder or a "
        ".parquet file",
    )
    parser.add_argument(
        "--label",
        metavar="COLUMN",
        help="of huggingface: the classes in metadata.csv, metadata.jsonl or parquet files (default: label, or the "
        "only one that is named as such columns are)",
    )
    add_data_root(parser)
    parser.add_argument(
        "--max-side",
        type=_side,
        default=MAX_SIDE,
        metavar="PX",
        help="reduce images whose shorter side is longer, or 'none' (default: %(default)s; training squeezes images "
        "to squares, so this keeps every detail up to this resolution). Nothing is enlarged",
    )
    parser.add_argument(
        "--bit-depth",
        type=typed("bit_depth"),
        metavar="N",
        help="bits of images of more than 8 that do not say what is black and white; what lies above becomes white "
        "(default: the dataset's, else the smallest that holds the values of all images)",
    )
    parser.add_argument(
        "--seed", type=typed("seed"), default=0, metavar="N", help="of splits that are ours (default: 0)"
    )
    parser.add_argument(
        "--split-file", type=Path, metavar="CSV", help="your own split: columns id,split and at will group"
    )
    parser.add_argument(
        "--image-level", action="store_true", help="split by image where groups are not known: leaks between splits"
    )
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="go on without what is missing or not listed; it is named"
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="go on without images that cannot be read; they are named"
    )
    parser.add_argument("--overwrite", action="store_true", help="prepare again what was prepared with other settings")
    parser.add_argument(
        "--link",
        action="store_true",
        help="hard-link images that need no conversion instead of copying them: saves space, but whoever edits one in "
        "place then edits your download too",
    )
    add_plugins(parser)
    _describe_datasets(parser)


def run(args: argparse.Namespace) -> int:
    """Prepares one dataset; the summary goes to stdout."""
    from benchmarks.prepare.build import prepare
    from benchmarks.prepare.request import Request
    from benchmarks.suite.progress import CountProgress
    from datasets import DATASETS

    raw = args.raw.expanduser()
    print(f"looking through {raw}", file=sys.stderr)
    info, files = _dataset(args.dataset, raw, args.label, args.split_file is not None)
    request = Request(
        raw, args.data_root / info.name, args.max_side, args.seed, args.split_file, args.allow_incomplete,
        args.skip_unreadable, args.image_level, args.overwrite, args.link, args.bit_depth, args.label, files,
    )  # fmt: skip
    with CountProgress(f"converting images of {info.name}") as progress:
        outcome = prepare(info, request, progress, DATASETS)
    print("\n".join(map(printable, _summary(info, outcome))))
    return 0


def _dataset(name: str, raw: Path, label: str | None, own_split: bool) -> "tuple[DatasetInfo, RawFiles | None]":
    """The dataset of the table, or the one that a file or folder of a known form makes, with what that holds."""
    from benchmarks.prepare.huggingface import open_huggingface
    from benchmarks.prepare.medmnist import open_medmnist
    from datasets import DATASETS

    known = [name for name, info in DATASETS.items() if info.find is not None]
    one_of("dataset", [*known, *FORMS], name)
    if label is not None and name != "huggingface":
        raise UserError(f"--label must be given for huggingface alone, got {label!r} for {name}; leave it out")
    if name in known:
        if file := file_in_the_way(raw):
            raise UserError(f"raw must be a folder and no file ({file} is one), got {str(raw)!r}")
        return DATASETS[name], None
    opened = open_medmnist(raw) if name == "medmnist" else open_huggingface(raw, label, own_split)
    made = opened.info.name
    if made in DATASETS or not made or made.startswith("."):
        raise UserError(
            f"--raw names the dataset, so its name must be none that is known ({', '.join(DATASETS)}) and must not "
            f"begin with a dot, got {str(raw)!r}; rename it"
        )
    return opened.info, opened.files


def _side(text: str) -> Any:
    return None if text == "none" else typed("max_side")(text)


def _describe_datasets(parser: argparse.ArgumentParser) -> None:
    """Appends to the help what each dataset is and where to get it."""
    from datasets import DATASETS

    lines = ["forms of files, which become the dataset that --raw names:"]
    lines += [f"  {name}: {text}" for name, text in FORMS.items()]
    lines += ["datasets:"]
    for info in DATASETS.values():
        if info.find is None:
            continue
        size = f"{expected_images(info):,} images, {len(info.classes)} {'findings' if info.findings else 'classes'}"
        lines += [f"  {info.name}: {info.title}, {size}; {split_kinds(info)}", f"    {info.url}"]
        lines += [f"    - {step}" for step in info.download]
        lines += [f"    licence: {info.licence}", f"    cite: {info.citation}"]
    parser.epilog = "\n".join(lines) + "\n\n" + (parser.epilog or "")


def expected_images(info: "DatasetInfo") -> int:
    """How many images a dataset has once prepared."""
    return info.expected.get("total") or sum(info.expected[split] for split in info.official)


def split_kinds(info: "DatasetInfo") -> str:
    """Who makes its splits, for people."""
    if info.find is None:
        return "generated"
    ours = [split for split in ("train", "val", "test") if split not in info.official]
    if not ours:
        return "official splits"
    if info.official:
        return f"official {' and '.join(info.official)}, {' and '.join(ours)} is ours"
    return f"no official split: 70/10/20 by {info.group_key}, ours"


def _summary(info: "DatasetInfo", outcome: "Outcome") -> list[str]:
    about = outcome.about
    num_images = about.get("num_images") or sum(sum(classes.values()) for classes in about["counts"].values())
    if outcome.num_new is None:
        return [f"{info.name}: already prepared in {outcome.root}, {num_images:,} images; nothing to do"]
    lines = [f"{info.name}: {num_images:,} images in {outcome.root} ({outcome.num_new:,} converted now)"]
    for split, kind in about["split"]["parts"].items():
        counts = ", ".join(f"{name} {about['counts'][split][name]:,}" for name in info.classes)
        lines.append(f"  {split:5} ({kind}): {counts}")
    lines.append(
        f"  {about['num_groups']:,} groups ({about['split']['group_key']}), none in two splits; "
        f"split {about['split']['digest'][:12]}, {len(about['excluded']):,} images left out"
    )
    lines += _left_out(about["excluded"])
    lines += [f"  note: {note}" for note in about["notes"]]
    return [*lines, f"  licence: {info.licence}", f"  cite: {info.citation}"]


def _left_out(excluded: Sequence[Mapping[str, str]]) -> list[str]:
    """What of the download is not in the dataset, a line a reason; of many images the first five."""
    from benchmarks.prepare.find import first

    by_reason: dict[str, list[str]] = {}
    for item in excluded:
        reason, _, detail = item["reason"].partition(":")
        kind = "identical to an image that is kept" if reason.startswith("identical to ") else reason
        by_reason.setdefault(kind, []).append(item["id"] + (f" ({detail.strip()})" if detail else ""))
    return [
        f"  left out, {reason}: {len(names):,} ({first(names)}{' all in manifest.json' if len(names) > 5 else ''})"
        for reason, names in by_reason.items()
    ]


COMMAND = Command(
    "prepare",
    "turn a raw download into a folder to train on, with leak-free splits",
    "python bench.py prepare messidor2 --raw ~/downloads/messidor2",
    add_arguments,
    run,
)
