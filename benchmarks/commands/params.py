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
    chosen_methods,
    print_frame,
)
from benchmarks.model.choose import method_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_methods(parser)
    add_plugins(parser)
    add_backbone(parser)
    add_num_classes(parser)
    add_set(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a row a method: `percent` is trainable / (trainable + frozen), both without the new head."""
    import pandas as pd

    from benchmarks.model.build import count_parameters
    from benchmarks.model.method_config import make_config

    backbone = backbone_of(args)
    methods = chosen_methods(args, backbone)
    options = method_options(args.set, methods)
    rows = []
    for method in methods:
        config = make_config(method, options.get(method, {}))
        counts = count_parameters(method, config, backbone, args.num_classes)
        columns = ("trainable", "trainable_head", "frozen", "percent")
        rows.append({"method": method} | {column: counts[column] for column in columns})
    frame = pd.DataFrame(rows)
    if args.format != "json":
        frame["percent"] = frame["percent"].map("{:.2f}".format)
    print_frame(frame, args.format)
    return 0


COMMAND = Command(
    "params",
    "count trainable and frozen parameters",
    "python bench.py params --methods full vpt adapter lora fpt fpt_plus --format csv",
    add_arguments,
    run,
)
