"""bench.py clean: removes feature caches, which the next run computes again."""

import argparse
import sys

from benchmarks.bounds import typed
from benchmarks.choices import one_of
from benchmarks.commands.contract import Command
from benchmarks.commands.options import add_cache, add_results, check_named
from benchmarks.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("what", choices=("caches",), help="feature caches; see bench.py list caches")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.add_argument("--unused", action="store_true", help="only those that no stored run used")
    parser.add_argument(
        "--older-than", type=typed("older_than"), metavar="DAYS", help="only those unchanged for so long"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and stop")
    add_cache(parser)
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Removes caches and says which, and how much room that makes."""
    from benchmarks.features.inventory import remove_caches, stored_caches
    from benchmarks.records.record import load_records, runs_by_cache

    check_named(args.cache, "cache")
    check_named(args.results, "results")  # else all would count as unused
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
    size = sum(cache.num_bytes for cache in removed) / 2**30
    print(f"{len(removed)} caches, {size:.2f} GiB {'would be ' if args.dry_run else ''}removed", file=sys.stderr)
    return 1 if left else 0


COMMAND = Command("clean", "remove feature caches", "python bench.py clean caches --unused", add_arguments, run)
