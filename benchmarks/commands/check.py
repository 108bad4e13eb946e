"""bench.py check: everything that is wrong with a prepared dataset or a folder of one's own."""

import argparse
import dataclasses
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import typed
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_data_root, add_format, add_plugins
from benchmarks.commands.printing import markdown_table, print_narrow, terminal_width
from benchmarks.errors import MachineError
from benchmarks.names import printable, shortened
from benchmarks.storage.csv_cells import csv_text

if TYPE_CHECKING:
    import pandas as pd


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("dataset", metavar="NAME|PATH", help="see bench.py list datasets; or a folder of your own")
    parser.add_argument(
        "--res",
        type=typed("res"),
        nargs="+",
        default=[],
        metavar="PX",
        help="resolutions that you mean to train at: images that are smaller are counted",
    )
    add_data_root(parser)
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="image sheet (default: one in CACHE/check)")
    parser.add_argument(
        "--samples",
        type=typed("samples"),
        default=4,
        metavar="N",
        help="a class, or finding, and split, there (default: 4)",
    )
    parser.add_argument("--seed", type=typed("seed"), default=0, metavar="N", help="which samples (default: 0)")
    parser.add_argument(
        "--full", action="store_true", help="also hash every image again, and tell what differs from what runs know"
    )
    add_plugins(parser)
    add_cache(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what there is and what is wrong with it; status 1 when there is a problem."""
    import pandas as pd

    from benchmarks.check.finding import LEVELS, Finding
    from benchmarks.check.problems import findings
    from benchmarks.check.sheet import draw_sheet
    from benchmarks.check.shortcuts import probes
    from benchmarks.check.survey import survey
    from benchmarks.check.tables import tables
    from benchmarks.data.dataset import find_root
    from benchmarks.data.hashes import differences, path_key
    from benchmarks.suite.progress import CountProgress

    info, root = find_root(args.dataset, args.data_root)
    with CountProgress("decoding images") as progress:
        found = survey(root, info, progress)
    name = printable(root.resolve().name)
    if args.full:
        paths = [file.path for file in found.files if (root / file.path).is_file()]
        different, known = differences(root, paths, args.cache)
        found = dataclasses.replace(found, differences=different)
        print(f"hashed {len(paths)} files again; of {known} known to runs, {len(different)} differ", file=sys.stderr)
    told = probes(found)
    faults = findings(found, told, args.res)
    everything = tables(found, told) | {"findings": pd.DataFrame(faults, columns=Finding._fields, dtype=object)}
    print_tables(everything, args.format, args.wide)
    sheet = args.sheet or args.cache / "check" / f"{info.name if info else f'{shortened(name)}-{path_key(root)}'}.png"
    write_sheet(sheet, draw_sheet(found, info.title if info else name, args.samples, args.seed))
    counts = {level: sum(fault.level == level for fault in faults) for level in LEVELS}
    listed = ", ".join(f"{level}s: {number}" for level, number in counts.items())
    print(f"{name}: {len(found.images)} images; {listed}; look at {sheet}", file=sys.stderr)
    return 1 if counts["problem"] else 0


def write_sheet(path: Path, png: bytes) -> None:
    """Writes the image sheet.

    Raises:
        MachineError: It cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    except OSError as error:
        raise MachineError(
            f"image sheet must go to a file that can be written, got {str(path)!r} ({error.strerror}); "
            "choose another with --sheet"
        ) from error


def print_tables(tables: "dict[str, pd.DataFrame]", layout: str, wide: bool = False) -> None:
    """Prints several tables to stdout: under headings, as one JSON object, or as one csv with a column `table`."""
    import pandas as pd

    tables = {name: frame.map(_in_one_line) for name, frame in tables.items()}
    if layout == "json":
        shown = {name: json.loads(frame.to_json(orient="records")) for name, frame in tables.items()}
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    elif layout == "csv":
        rows = [{"table": name, **row} for name, frame in tables.items() for row in frame.to_dict("records")]
        print(csv_text(pd.DataFrame(rows, dtype=object)), end="")
    else:
        for name, frame in tables.items():
            text = frame.astype(object).where(frame.notna(), "")
            print(f"## {name}\n")
            if frame.empty:
                print("none")
            elif wide:
                print(markdown_table(text))
            elif "detail" in text:  # longer than any terminal is wide, and what it is all about
                print_narrow(text.drop(columns="detail"))
                for _, row in text.iterrows():
                    said = f"- {row['check']}, {row['where']}: {row['detail']}"
                    print(f"\n{textwrap.fill(said, terminal_width(), subsequent_indent='  ')}")
            else:
                print_narrow(text)
            print()


def _in_one_line(cell: Any) -> Any:
    return printable(cell) if isinstance(cell, str) else cell


COMMAND = Command(
    "check", "look for faults in a dataset", "python bench.py check data/my_images --format json", add_arguments, run
)
