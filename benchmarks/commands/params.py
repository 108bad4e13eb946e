"""bench.py params: exact parameter counts, without weights."""

import argparse

from benchmarks.commands.contract import Command
from benchmarks.commands.options import (
    add_backbone,
    add_format,
    add_methods,
    add_num_classes,
    add_plugins,
    add_set,
    backbone_of,
    chosen_variants,
)
from benchmarks.commands.printing import print_frame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_methods(parser)
    add_plugins(parser)
    add_backbone(parser)
    add_num_classes(parser)
    add_set(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a row a method or variant: `percent` is trainable / (trainable + frozen), both without the new head."""
    import pandas as pd

    from benchmarks.model.build import count_parameters

    backbone = backbone_of(args)
    rows = []
    for variant in chosen_variants(args, backbone):
        counts = count_parameters(variant.method, variant.config, backbone, args.num_classes)
        columns = ("trainable", "trainable_head", "frozen", "percent")
        rows.append({"method": variant.name} | {column: counts[column] for column in columns})
    frame = pd.DataFrame(rows)
    if args.format != "json":
        frame["percent"] = frame["percent"].map("{:.2f}".format)
    print_frame(frame, args.format, args.wide)
    return 0


COMMAND = Command(
    "params",
    "count trainable and frozen parameters",
    "python bench.py params --methods full vpt adapter lora fpt fpt_plus --format csv",
    add_arguments,
    run,
)
