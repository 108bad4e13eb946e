"""bench.py fit: what trains on a card, predicted."""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import Fault, typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import (
    add_backbone,
    add_cache,
    add_format,
    add_methods,
    add_plugins,
    add_results,
    add_savers,
    backbone_of,
    chosen_savers,
    chosen_variants,
)
from benchmarks.commands.printing import print_frame
from benchmarks.errors import UserError
from benchmarks.storage.notes import say

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.memory.point import MemoryPoint

RESOLUTION = 512
BATCH_SIZE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--gpu-memory",
        type=_card,
        metavar="SIZE",
        help="of the card, like 24GB, or its name; without it: which card the settings need",
    )
    add_methods(parser)
    add_plugins(parser)
    parser.add_argument("--res", type=typed("res"), default=RESOLUTION, metavar="PX", help="image side (default: 512)")
    parser.add_argument("--batch-size", type=typed("batch_size"), default=BATCH_SIZE, metavar="N", help="default: 16")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"], help="default: fp32 bf16"
    )
    parser.add_argument(
        "--attention", nargs="+", choices=("eager", "sdpa"), default=["sdpa"], help="default: sdpa (fused)"
    )
    parser.add_argument(
        "--grad-checkpointing", nargs="+", choices=("off", "on"), default=["off", "on"], help="default: off on"
    )
    parser.add_argument(
        "--any-savers",
        action="store_true",
        help="which methods train on the card at --res, with the least combination of savers; best stored AUC first",
    )
    add_savers(parser)
    add_backbone(parser)
    add_results(parser)
    add_cache(parser)
    add_format(parser)


def _card(text: str) -> int | Fault:
    """Bytes of a card."""
    from benchmarks.memory.needs import parse_memory

    try:
        return parse_memory(text)
    except UserError as error:
        return Fault(error)


def run(args: argparse.Namespace) -> int:
    """Prints a row for each method or variant and set of factors."""
    import pandas as pd

    from benchmarks.memory.card_fit import RESOLUTIONS
    from benchmarks.memory.needs import CONTEXT_BYTES, MARGIN
    from benchmarks.memory.predict import map_points
    from benchmarks.memory.table import MIB

    if args.any_savers:
        return _any_savers(args)
    context = CONTEXT_BYTES["train"] / MIB
    note = (
        f"the whole run, predicted, not measured; with a margin of {MARGIN:.0%} and {context:,.0f} MiB of CUDA context"
    )
    if args.gpu_memory:
        memory = args.gpu_memory
        jobs = [(point, memory, args.cache) for point in grid(args)]
        rows = _collect(map_points(_limits_row, jobs), len(jobs))
        tried = ", ".join(map(str, RESOLUTIONS))
        note += f"; largest resolution of {tried} px at batch {args.batch_size}"
        note += f"; largest batch of 1 to 31, then multiples of 8, from 128 on of 32, at {args.res} px"
    else:
        settings = [(point, args.cache) for point in grid(args)]
        rows = _collect(map_points(_cards_row, settings), len(settings))
    print(note, file=sys.stderr)
    frame = pd.DataFrame(rows)
    print_frame(_readable(frame) if args.format == "md" and not args.wide else frame, args.format, args.wide)
    return 0


def _any_savers(args: argparse.Namespace) -> int:
    from benchmarks.commands.fit_stored import answers, check_asked, stored_rows

    check_asked(args)
    plain = argparse.Namespace(**vars(args) | {"grad_checkpointing": ["off"], "precision": args.precision[:1]})
    rows = stored_rows(args, grid(plain), chosen_variants(args, backbone_of(args)))
    print("the whole run, predicted, not measured", file=sys.stderr)
    for line in answers(rows, args.gpu_memory):
        print(line, file=sys.stderr)
    print_frame(rows, args.format, args.wide, ("seeds", "batch_size", "precision"))
    return 0


def _readable(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame for people: the smallest card instead of all, and the largest that was tried as a bound."""
    from benchmarks.choices import CARDS_GB
    from benchmarks.memory.card_fit import BATCHES, RESOLUTIONS

    cards = [f"{card}GB" for card in CARDS_GB]
    if cards[0] in frame:
        smallest = [
            "-" if row["needed_gib"] == "-" else next((card for card in cards if row[card] == "fits"), "none of these")
            for row in frame.to_dict("records")
        ]
        return frame.drop(columns=cards).assign(smallest_card=smallest)
    most = {"largest_resolution": (RESOLUTIONS[-1], " px"), "largest_batch": (BATCHES[-1], "")}
    return frame.assign(
        **{
            name: [f"{'>= ' * (value == largest)}{value}{unit * (value != '-')}" for value in _shown(frame[name])]
            for name, (largest, unit) in most.items()
        }
    )


def _shown(values: "pd.Series") -> list[Any]:
    """Whole numbers, and `-` for what not even the smallest fits."""
    return ["-" if isinstance(value, str) or value != value else int(value) for value in values]


def _collect(rows: Iterable[dict[str, Any]], total: int) -> list[dict[str, Any]]:
    """All rows, with a line on stderr for each and the time left: predictions of large images take their time."""
    from benchmarks.suite.progress import in_words

    collected, started = [], time.monotonic()
    for number, row in enumerate(rows, start=1):
        left = (time.monotonic() - started) / number * (total - number)
        print(f"{number}/{total} {row['method']}, about {in_words(left)} left", file=sys.stderr, flush=True)
        if "note" in row:
            say(row.pop("note"))
        collected.append(row)
    return collected


def grid(args: argparse.Namespace) -> "list[MemoryPoint]":
    """A point for each method or variant and set of factors."""
    from benchmarks.memory.point import MemoryPoint

    backbone = backbone_of(args)
    variants = chosen_variants(args, backbone)
    savers = chosen_savers(args, args.precision, variants, backbone)
    # Selective checkpointing is one way of checkpointing.
    checkpointing = args.grad_checkpointing if args.recompute == "none" else ["off"]
    factors = itertools.product(variants, args.precision, args.attention, checkpointing)
    return [
        MemoryPoint(
            variant.method,
            args.res,
            args.batch_size,
            backbone,
            precision=precision,
            attention=attention,
            grad_checkpointing=checkpointing == "on",
            options=variant.changed,
            **savers,
        )
        for variant, precision, attention, checkpointing in factors
    ]


def _factors(point: "MemoryPoint") -> dict[str, Any]:
    from benchmarks.memory.table import savers_text

    factors = ("precision", "attention", "grad_checkpointing")
    found = {"method": point.variant} | {name: getattr(point, name) for name in factors}
    return found | {"savers": savers_text(point)} if point.used_savers else found


def _limits_row(job: "tuple[MemoryPoint, int, Path]") -> dict[str, Any]:
    from benchmarks.memory.card_fit import limits
    from benchmarks.memory.predict import PredictionError

    try:
        found = limits(*job)
    except PredictionError as error:
        return _factors(job[0]) | {"largest_resolution": "-", "largest_batch": "-", "note": str(error)}
    return _factors(job[0]) | {"largest_resolution": found.resolution, "largest_batch": found.batch_size}


def _cards_row(job: "tuple[MemoryPoint, Path]") -> dict[str, Any]:
    from benchmarks.choices import CARDS_GB
    from benchmarks.memory.needs import GIB, needed_bytes
    from benchmarks.memory.predict import PredictionError
    from benchmarks.memory.prediction_cache import predict_point

    point, cache = job
    try:
        needed = needed_bytes(predict_point(point, cache).highest.allocated)
    except PredictionError as error:
        unknown = dict.fromkeys(["needed_gib", *(f"{card}GB" for card in CARDS_GB)], "-")
        return _factors(point) | unknown | {"note": str(error)}
    cards = {f"{card}GB": "fits" if needed <= card * GIB else "-" for card in CARDS_GB}
    return _factors(point) | {"needed_gib": round(needed / GIB, 1)} | cards


COMMAND = Command(
    "fit",
    "what trains on a card: largest resolution and batch of each method",
    "python bench.py fit --gpu-memory 24GB --methods full lora fpt_plus",
    add_arguments,
    run,
)
