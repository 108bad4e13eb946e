"""bench.py list: methods, datasets, backbones, stored runs and feature caches."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_data_root, add_format, add_plugins, add_results, check_named
from benchmarks.commands.printing import print_frame
from benchmarks.errors import UserError

MOST_DETAILED = 40  # networks that `list backbones` makes: a minute or two


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("what", nargs="?", choices=_ROWS, default="methods", help="default: methods")
    parser.add_argument("part", nargs="?", metavar="PART", help="of a backbone's name: those alone, and more of each")
    add_data_root(parser)
    add_plugins(parser)
    add_cache(parser)
    add_results(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one of the tables."""
    import pandas as pd

    if args.part is not None and args.what != "backbones":
        raise UserError(f"part of a name must be used with list backbones, got {args.part!r} with list {args.what}")
    for folder in ("data_root", "cache", "results"):
        check_named(getattr(args, folder), folder)
    rows, problems = _ROWS[args.what](args)
    for problem in problems:
        print(problem, file=sys.stderr)
    frame = pd.DataFrame(rows, dtype="object")  # a whole number stays one beside what is missing
    print_frame(frame, args.format, args.wide, _DETAILS.get(args.what, ()))
    return 1 if problems else 0


Rows = tuple[list[dict[str, Any]], list[str]]  # with a line for each file that cannot be read


def _methods(args: argparse.Namespace) -> Rows:
    from benchmarks.model.groups import COSTS, GROUPS
    from methods import METHODS, idea_of

    return [
        {"method": name, "title": method.title, "idea": idea_of(name)}
        | {"groups": ", ".join(group for group in COSTS if GROUPS[group](name))}
        | {"lr": getattr(method.config(), "lr", None), "source": method.paper}
        for name, method in METHODS.items()
    ], []


def _datasets(args: argparse.Namespace) -> Rows:
    from benchmarks.commands.prepare import expected_images, split_kinds
    from datasets import DATASETS

    def prepared(name: str) -> str:
        if DATASETS[name].generate:
            return "made at first use"
        return "yes" if (args.data_root / name).is_dir() else "no"

    return [
        {
            "dataset": name,
            "title": info.title,
            "classes": ", ".join(info.classes),
            "images": expected_images(info),
            "splits": split_kinds(info),
            "prepared": prepared(name),
            "source": info.url,
            "licence": info.licence,
        }
        for name, info in DATASETS.items()
    ], []


def _backbones(args: argparse.Namespace) -> Rows:
    from benchmarks.model.catalogue import details, entries

    found = entries(args.part or "", args.cache)
    if not found:
        raise UserError(f"part must be in the name of a backbone, got {args.part!r}, which is in none")
    known = [
        {"backbone": entry.name, "module": entry.module, "resolution": entry.resolution}
        | {"licence": entry.licence, "weights": entry.weights}
        for entry in found
    ]
    num_networks = len({entry.architecture for entry in found})
    if num_networks <= MOST_DETAILED:
        return [row | details(entry) for row, entry in zip(known, found, strict=True)], []
    print(
        f"{num_networks:,} networks, a row for each set of weights; name a part of at most {MOST_DETAILED} to see "
        "their family, size, patch, parameters, methods, in a second each, e.g. bench.py list backbones dinov3",
        file=sys.stderr,
    )
    return known, []


def _caches(args: argparse.Namespace) -> Rows:
    from benchmarks.features.inventory import stored_caches
    from benchmarks.records.record import load_records, runs_by_cache

    records, problems = load_records(args.results)
    return [
        {"cache": cache.folder.name, "state": cache.state, **cache.about}
        | {"mib": round(cache.num_bytes / 2**20, 1), "age_days": round(cache.age_days, 2)}
        | {"used_by": ", ".join(cache.used_by)}
        for cache in stored_caches(args.cache / "features", runs_by_cache(records))
    ], problems


def _runs(args: argparse.Namespace) -> Rows:
    from benchmarks.suite.run_status import list_runs

    return list_runs(args.results)


_ROWS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "methods": _methods,
    "datasets": _datasets,
    "backbones": _backbones,
    "runs": _runs,
    "caches": _caches,
}
# What is left out first where the terminal is narrow.
_DETAILS = {
    "methods": ("source", "groups"),
    "datasets": ("source", "splits", "classes", "licence"),
    "backbones": ("methods", "licence", "module", "depth", "width", "resolution"),
    "runs": ("where", "job", "kind", "model_mib"),
    "caches": ("used_by", "age_days"),
}

COMMAND = Command(
    "list", "show methods, datasets, backbones, runs or caches", "python bench.py list datasets", add_arguments, run
)
