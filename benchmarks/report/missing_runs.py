"""What a comparison lacks, and the command lines that would run it."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.config import SAID
from benchmarks.model.method_config import make_config
from benchmarks.model.variants import written
from datasets import DATASETS
from methods import METHODS


class MissingCell(NamedTuple):
    """A method without a result on a dataset at a resolution, or without some seed.

    `method` has its options behind it; with `flags` it is set up as elsewhere.
    """

    method: str
    dataset: str
    resolution: int
    flags: tuple[str, ...]


def missing_cells(block: pd.DataFrame) -> list[MissingCell]:
    """The gaps in methods x datasets x resolutions of one protocol.

    Args:
        block: rows of a summary, labelled across datasets. Out of memory and divergence are results; what failed or
            was interrupted is missing, and so is a seed that other cells have, unless a stopping rule left it out.
    """
    places = block[["dataset_label", "dataset", "resolution"]].drop_duplicates()
    cells = []
    for label, group in block.groupby("label", sort=False):
        method = str(group["method"].iloc[0])
        if method not in METHODS:
            continue  # a stored record may know a method that this version has not
        variant, flags = _as_asked(method, group)
        for _, place in places.iterrows():
            there = block[
                (block["label"] == label)
                & (block["dataset_label"] == place["dataset_label"])
                & (block["resolution"] == place["resolution"])
            ]
            again = len(there) > 0 and there["seeds_failed"].sum() > 0
            done = sum(int(there[f"seeds_{state}"].sum()) for state in ("ok", "oom", "diverged"))
            by_rule = there["stopping_looks"].notna().any()  # which may have asked for fewer seeds than of others
            if done < (there["seeds_asked"].max() if by_rule else len(_seeds(block))):
                retry = ("--retry-failed",) if again else ()
                where = (str(place["dataset"]), int(place["resolution"]))
                cells.append(MissingCell(variant, *where, (*flags, *retry)))
    return cells


def commands(block: pd.DataFrame) -> list[str]:
    """Command lines that fill the gaps of one protocol, as few as their settings allow; empty when it is complete."""
    methods: dict[tuple[Any, ...], list[str]] = {}
    for cell in missing_cells(block):
        methods.setdefault((cell.flags, cell.dataset, cell.resolution), []).append(cell.method)
    sides: dict[tuple[Any, ...], list[int]] = {}
    for (flags, dataset, resolution), names in methods.items():
        sides.setdefault((flags, tuple(dict.fromkeys(names)), dataset), []).append(resolution)
    names_of_sets: dict[tuple[Any, ...], list[str]] = {}
    for (flags, names, dataset), resolutions in sides.items():
        names_of_sets.setdefault((flags, names, tuple(sorted(resolutions))), []).append(dataset)
    protocol = _protocol_flags(block, _seeds(block))
    return [
        _line(
            ["--methods", *names, "--datasets", *map(_place, sets), "--res", *map(str, resolutions), *protocol, *flags]
        )
        for (flags, names, resolutions), sets in names_of_sets.items()
    ]


def seed_commands(rows: pd.DataFrame, num_seeds: int) -> list[str]:
    """Command lines that give rows of one place so many seeds, the next whole numbers after those they have."""
    seeds = [int(seed) for seed in _seeds(rows)]
    missing = num_seeds - len(seeds)
    seeds += [seed for seed in range(num_seeds + max(seeds) + 1) if seed not in seeds][: max(missing, 0)]
    first = rows.iloc[0]
    methods: dict[tuple[str, ...], list[str]] = {}
    for _, row in rows.iterrows():
        variant, flags = _as_asked(str(row["method"]), rows[rows["label"] == row["label"]])
        methods.setdefault(flags, []).append(variant)
    place = ["--datasets", _place(str(first["dataset"])), "--res", str(first["resolution"])]
    protocol = _protocol_flags(rows, sorted(seeds))
    return [_line(["--methods", *names, *place, *protocol, *flags]) for flags, names in methods.items()]


def _line(words: Iterable[str]) -> str:
    return f"python bench.py {' '.join(map(shlex.quote, words))}"


def _place(dataset: str) -> str:
    return dataset if dataset in DATASETS else f"PATH/{dataset}"  # a user's folder: records do not know where it lay


def _seeds(block: pd.DataFrame) -> list[str]:
    return sorted({seed for seeds in block["seeds"] for seed in str(seeds).split()}, key=int)


def _protocol_flags(block: pd.DataFrame, seeds: Iterable[Any]) -> list[str]:
    first = block.iloc[0]
    flags = ["--seeds", *map(str, seeds)]
    for name in ("backbone", "epochs", "batch_size", "precision", "attention"):
        if not pd.isna(first[name]):
            flags += [f"--{name.replace('_', '-')}", str(first[name])]
    if not pd.isna(first["weights_source"]):
        flags += ["--weights", "FILE" if first["weights_source"] == "file" else str(first["weights_source"])]
    if not pd.isna(first["grad_checkpointing"]) and first["grad_checkpointing"]:
        flags.append("--grad-checkpointing")
    if first["warmup_epochs"]:
        flags += ["--warmup-epochs", str(first["warmup_epochs"])]
    if first["decay_all"]:
        flags.append("--decay-all")
    if first["resample_patch_embed"]:
        flags.append("--resample-patch-embed")
    if first["normalized_by"] == "backbone":
        flags += ["--normalization", "backbone"]
    return flags


def _as_asked(method: str, rows: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    """A method with the options in which it differs from its defaults, as far as all its runs share them; and flags."""
    settings = [json.loads(variant) for variant in rows["variant"].unique()]
    flags = _grid_flags(method, settings)
    tuned = bool(flags)
    changed: dict[str, Any] = {}
    for name, default in asdict(make_config(method, {})).items():
        values = {json.dumps(setting.get(name)) for setting in settings}
        value = settings[0].get(name)
        if len(values) > 1 or name not in settings[0] or json.dumps(value) == json.dumps(default):
            continue
        if name == "lr" and tuned:
            continue
        if name == "lr":
            flags += ["--lr", f"{value:g}"]
        else:
            changed[name] = value
    has_features = METHODS[method].has_extractor
    for name in SAID:
        found: set[Any] = {setting.get(name) for setting in settings}
        if len(found) == 1 and found != {None}:
            flags += [f"--{name.replace('_', '-')}", *(str(value) for value in found if value is not True)]
    if has_features and all(setting.get("preload") is False for setting in settings):
        flags += ["--preload", "off"]
    return written(method, changed), tuple(flags)


def _grid_flags(method: str, settings: list[dict[str, Any]]) -> list[str]:
    """The grid from which the rate was chosen, where all runs share one."""
    grids = {tuple(setting.get("lr_grid") or ()) for setting in settings}
    grid = next(iter(grids))
    if len(grids) > 1 or not grid:
        return []
    own = tuple(sorted(METHODS[method].config.lr_grid))  # type: ignore[attr-defined]
    return ["--lr", *(["grid"] if grid == own else [f"{rate:g}" for rate in grid])]
