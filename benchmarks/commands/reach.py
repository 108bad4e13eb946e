"""bench.py reach: what stored runs took to reach a validation AUC, in seconds, hours, joules and money."""

import argparse
import textwrap
from typing import TYPE_CHECKING

from benchmarks.bounds import typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import FORMATS, add_mix_code, add_results
from benchmarks.commands.printing import print_frame
from benchmarks.errors import MissingError

if TYPE_CHECKING:
    import pandas as pd

SAID = (
    "Medians over seeds, of which one that never gets there counts as later than any, with the fastest and the slowest "
    "that do. Set-up, features (also where a run found them computed), preparation, training and validation are in it; "
    "trials of learning rates are not."
)
NO_ENERGY = "Energy: none of these runs was on a GPU that counts it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("val_auc", type=typed("val_auc"), metavar="AUC", help="of validation, like 0.9")
    parser.add_argument("--price", type=typed("price"), metavar="P", help="of an hour of the device, in any currency")
    parser.add_argument("--format", choices=FORMATS, help="all columns, without a caption (default: a table to read)")
    add_mix_code(parser)
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from benchmarks.analysis.reach import reach_table
    from benchmarks.analysis.summary import summary
    from benchmarks.commands.stored import stored_runs
    from benchmarks.records.record import each_record

    frame, num_problems = stored_runs(args.results, args.mix_code)
    problems: list[str] = []  # those that `stored_runs` has named
    records = {record["run_id"]: record for record in each_record(args.results, problems)}
    table = reach_table(summary(frame, args.mix_code), records, args.val_auc, args.price)
    if table.empty:
        raise MissingError("no stored run has a history of epochs, of which a validation AUC could be reached")
    if args.format:
        print_frame(table, args.format, wide=True)
    else:
        _print(table, args.val_auc, args.price)
    return 1 if num_problems else 0


def _print(table: "pd.DataFrame", val_auc: float, price: float | None) -> None:
    """A small table for each dataset, protocol and resolution."""
    from tabulate import tabulate

    energy = bool(table["joules"].notna().any())
    for place, rows in table.groupby(["dataset", "protocol", "resolution"], sort=False):
        dataset, protocol, resolution = place
        print(f"{dataset}, {resolution} px, protocol {protocol}: validation AUC {val_auc:g}\n")
        headers = ["Method", "Seeds", "Epoch", "Seconds", "Hours"]
        headers += ["kJ"] if energy else []
        headers += [] if price is None else [f"Cost at {price:g}/h"]
        lines = []
        for row in rows.to_dict("records"):
            spread = "–" if row["seconds"] != row["seconds"] else f"{row['seconds']:,.1f}"
            if row["reached"] > 1:
                spread += f" ({row['least_seconds']:,.1f}–{row['most_seconds']:,.1f})"
            cells = [row["method"], f"{row['reached']} of {row['seeds']}", _shown(row["epoch"], "g"), spread]
            cells += [_shown(row["hours"], ".3g")]
            cells += [_shown(row["joules"] / 1000, ".3g")] if energy else []
            lines.append(cells + ([_shown(row["cost"], ".3g")] if price is not None else []))
        align = ["left", *["right"] * (len(headers) - 1)]
        print(tabulate(lines, headers, tablefmt="simple", colalign=align, disable_numparse=True), end="\n\n")
    print(textwrap.fill(SAID if energy else f"{SAID} {NO_ENERGY}", 80))


def _shown(value: float, layout: str) -> str:
    return "–" if value != value else format(value, layout)


COMMAND = Command(
    "reach",
    "what runs took to reach a validation AUC: seconds, joules, money",
    "python bench.py reach 0.9 --price 2.5",
    add_arguments,
    run,
)
