"""bench.py clean: removes feature caches, which the next run computes again, or the models of runs."""

import argparse
import sys
import time

from benchmarks.bounds import typed
from benchmarks.choices import one_of
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_results, check_named
from benchmarks.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "what",
        choices=("caches", "models"),
        help="feature caches, or models of runs",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which caches, or models of which runs (default: all)")
    parser.add_argument("--unused", action="store_true", help="only caches that no stored run used")
    parser.add_argument(
        "--older-than", type=typed("older_than"), metavar="DAYS", help="only those unchanged for so long"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and stop")
    add_cache(parser)
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Removes what was asked for and says which, and how much room that makes."""
    check_named(args.cache, "cache")
    check_named(args.results, "results")  # else all would count as unused
    return _models(args) if args.what == "models" else _caches(args)


def _caches(args: argparse.Namespace) -> int:
    from benchmarks.features.inventory import remove_caches, stored_caches
    from benchmarks.records.record import load_records, runs_by_cache

    root = args.cache / "features"
    records, problems = load_records(args.results)
    if problems and args.unused:
        raise UserError(f"results must be readable to tell which caches are unused: {problems[0]}")
    caches = stored_caches(root, runs_by_cache(records))
    for name in args.names:
        one_of("cache", [cache.folder.name for cache in caches], name)
    chosen = [
        cache
        for cache in caches
        if (not args.names or cache.folder.name in args.names)
        and not (args.unused and cache.used_by)
        and (args.older_than is None or cache.age_days > args.older_than)
    ]
    removed, left = (chosen, []) if args.dry_run else remove_caches(root, chosen)
    for cache in removed:
        print(cache.folder.name)
    for cache in left:
        print(f"{cache.folder.name} is being computed by a running process: left", file=sys.stderr)
    _say_sum("caches", [cache.num_bytes for cache in removed], args.dry_run)
    return 1 if left else 0


def _models(args: argparse.Namespace) -> int:
    from benchmarks.inference.inventory import remove_models, stored_models

    if args.unused:
        raise UserError("unused must be used with clean caches, got it with clean models; name runs or --older-than")
    models = stored_models(args.results)
    for name in args.names:
        one_of("run", [model.run_id for model in models], name)
    chosen = [
        model
        for model in models
        if (not args.names or model.run_id in args.names)
        and (args.older_than is None or time.time() - model.changed > 86400 * args.older_than)
    ]
    if not args.dry_run:
        remove_models(args.results, chosen)
    for model in chosen:
        print(model.run_id)
    _say_sum("models", [model.num_bytes for model in chosen], args.dry_run)
    return 0


def _say_sum(what: str, sizes: list[int], dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    print(f"{len(sizes)} {what}, {sum(sizes) / 2**30:.2f} GiB {would}removed", file=sys.stderr)


COMMAND = Command(
    "clean", "remove feature caches or kept models", "python bench.py clean caches --unused", add_arguments, run
)
