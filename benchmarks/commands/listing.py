"""bench.py list: methods, datasets, backbones, stored runs and feature caches."""

import argparse
import sys
from pathlib import Path

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_format, add_plugins, add_results, print_frame

TABLES = ("methods", "datasets", "backbones", "runs", "caches")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("what", nargs="?", choices=TABLES, default="methods", help="default: methods")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    add_plugins(parser)
    add_cache(parser)
    add_results(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one of the tables."""
    import pandas as pd

    problems: list[str] = []
    if args.what == "methods":
        from methods import METHODS

        rows = [
            {"method": name, "title": m.title, "lr": m.config().lr, "source": m.paper} for name, m in METHODS.items()
        ]
    elif args.what == "datasets":
        from benchmarks.commands.prepare import expected_images, split_kinds
        from datasets import DATASETS

        rows = [
            {
                "dataset": name,
                "title": info.title,
                "classes": ", ".join(info.classes),
                "images": expected_images(info),
                "splits": split_kinds(info),
                "prepared": "made at first use"
                if info.generate
                else "yes"
                if (args.data_root / name).is_dir()
                else "no",
                "source": info.url,
                "licence": info.licence,
            }
            for name, info in DATASETS.items()
        ]
    elif args.what == "backbones":
        from benchmarks.model.backbone import known_backbones

        rows = [{"backbone": name} for name in known_backbones()]
    elif args.what == "caches":
        from benchmarks.features.inventory import stored_caches
        from benchmarks.records.record import load_records, runs_by_cache

        records, problems = load_records(args.results)
        rows = [
            {"cache": cache.folder.name, "state": cache.state, **cache.about}
            | {"mib": round(cache.num_bytes / 2**20, 1), "age_days": round(cache.age_days, 2)}
            | {"used_by": ", ".join(cache.used_by)}
            for cache in stored_caches(args.cache / "features", runs_by_cache(records))
        ]
    else:
        from benchmarks.suite.run_status import list_runs

        rows, problems = list_runs(args.results)
    for problem in problems:
        print(problem, file=sys.stderr)
    print_frame(pd.DataFrame(rows), args.format)
    return 1 if problems else 0


COMMAND = Command(
    "list", "show methods, datasets, backbones, runs or caches", "python bench.py list datasets", add_arguments, run
)
