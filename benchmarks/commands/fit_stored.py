"""bench.py fit --any-savers: the best methods by stored results that a card can train, whatever must save memory."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.commands.options import check_named
from benchmarks.errors import MissingError, UserError
from benchmarks.storage.notes import say

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.memory.point import MemoryPoint
    from benchmarks.model.variants import Variant

_ANSWER = ("dataset", "protocol")


class Wanted(NamedTuple):
    """A setting to be fitted on the card, and what stored runs say of it.

    stored: dataset, protocol, method (its label), auc, low, high (0-1) and seeds; without runs only the method.
    """

    point: "MemoryPoint"
    stored: dict[str, Any]


class _Job(NamedTuple):
    point: "MemoryPoint"
    memory: int
    cache: Path
    may_checkpoint: bool
    may_bf16: bool


def check_asked(args: argparse.Namespace) -> None:
    """Refuses options beside which the question makes no sense.

    Raises:
        UserError: Which, and what to do.
    """
    from benchmarks.config import NO_SAVERS, savers_of

    if not args.gpu_memory:
        raise UserError("any-savers must be used with --gpu-memory, got none; say the card's memory, as 8GB")
    for name, value in savers_of(vars(args)).items():
        if value != getattr(NO_SAVERS, name):
            flag = name.replace("_", "-")
            raise UserError(f"{flag} must be left out with --any-savers, which tries all of them, got {value!r}")
    check_named(args.results, "results")


def stored_rows(args: argparse.Namespace, grid: "Sequence[MemoryPoint]", chosen: "Sequence[Variant]") -> "pd.DataFrame":
    """A row for each stored cell of the methods asked for, and for each setting of the others; best first.

    Args:
        args: Of bench.py fit.
        grid: A point for each method or variant, as it is without savers.
        chosen: The methods and variants.

    Returns:
        method, with (the least change in words), auc, low, high (0-1), auc_holds (whether the stored AUC is of such
        runs), needed_gib, dataset, protocol, seeds, batch_size, precision. By dataset and protocol: what fits with the
        numbers of its stored AUC, the highest first; what fits with other numbers; what has no AUC; what does not fit.
    """
    import pandas as pd

    from benchmarks.memory.predict import map_points

    wanted = [*_stored(args, chosen)]
    known = {(one.point.method, one.point.options) for one in wanted}
    wanted += [Wanted(point, {"method": point.variant}) for point in grid if (point.method, point.options) not in known]
    jobs = [
        _Job(one.point, args.gpu_memory, args.cache, "on" in args.grad_checkpointing, "bf16" in args.precision)
        for one in wanted
    ]
    rows = []
    for number, (one, found) in enumerate(zip(wanted, map_points(_fitted, jobs), strict=True), start=1):
        print(f"{number}/{len(wanted)} {one.point.variant}", file=sys.stderr, flush=True)
        if "note" in found:
            say(found.pop("note"))
        rows.append(_row(one, found))
    places = {tuple(row[name] for name in _ANSWER): None for row in rows}
    order = {place: number for number, place in enumerate(places)}
    rows.sort(key=lambda row: (order[row["dataset"], row["protocol"]], row.pop("rank"), -(row["auc"] or 0)))
    return pd.DataFrame(rows)


def _stored(args: argparse.Namespace, chosen: "Sequence[Variant]") -> Iterable[Wanted]:
    """The stored cells at the resolution, of methods and variants that were asked for."""
    from benchmarks.analysis.evidence import load_evidence
    from benchmarks.analysis.significance import add_significance
    from benchmarks.analysis.summary import summary
    from benchmarks.commands.stored import stored_runs
    from methods import METHODS

    try:
        frame, _ = stored_runs(args.results, mix_code=False)
    except MissingError as error:
        say(f"no AUC is known: {error}")
        return
    evidence, problems = load_evidence(args.results, frame)
    for problem in problems:
        print(problem, file=sys.stderr)
    table = add_significance(summary(frame), evidence)
    for _, row in table[table["resolution"] == args.res].iterrows():
        if row["method"] not in METHODS:
            say(f"{row['label']} is a method that is not known here, and left out")
            continue
        point = point_of_cell(row)
        if any(one.method == point.method and one.changed in ((), point.options) for one in chosen):
            stored = {"dataset": row["dataset_label"], "protocol": row["block"], "method": row["label"]}
            scores = {"auc": row["auc_mean"], "low": row["auc_low"], "high": row["auc_high"]}
            scores = {name: None if _is_missing(value) else round(float(value), 4) for name, value in scores.items()}
            yield Wanted(point, stored | scores | {"seeds": int(row["seeds_ok"])})


def point_of_cell(row: "pd.Series") -> "MemoryPoint":
    """The setting of a cell of a summary, whose memory its runs took."""
    from benchmarks.config import Savers
    from benchmarks.memory.point import MemoryPoint
    from benchmarks.model.method_config import make_config

    settings = json.loads(row["variant"])
    defaults = json.loads(json.dumps(dataclasses.asdict(make_config(row["method"], {}))))
    options = {
        name: settings[name]
        for name, default in defaults.items()
        if name not in ("lr", "weight_decay") and settings.get(name, default) != default
    }
    savers = {entry.name: settings[entry.name] for entry in dataclasses.fields(Savers) if entry.name in settings}
    return MemoryPoint(
        row["method"],
        int(row["resolution"]),
        int(row["batch_size"]),
        row["backbone"],
        int(row["num_classes"]) if not _is_missing(row["num_classes"]) else MemoryPoint.num_classes,
        row["precision"],
        row["attention"],
        bool(row["grad_checkpointing"]),
        settings.get("preload", True),
        tuple(sorted(options.items())),
        **savers,
    )


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _fitted(job: _Job) -> dict[str, Any]:
    """The least change of a point, or why none can be told."""
    from benchmarks.memory.least_change import changes, least_change
    from benchmarks.memory.needs import GIB
    from benchmarks.memory.predict import PredictionError
    from benchmarks.memory.savers import check_point

    tried = changes(job.point, job.may_checkpoint, job.may_bf16)
    try:
        found = least_change(job.point, job.memory, job.cache, tried, check_point)
    except PredictionError as error:
        return {"with": "-", "keeps": None, "needed_gib": None, "note": str(error)}
    except UserError as error:
        return {"with": "-", "keeps": None, "needed_gib": None, "note": f"{job.point.variant}: {error}"}
    words = "no combination" if found.change is None else found.change.words or "nothing more"
    keeps = None if found.change is None else found.change.keeps_numbers
    return {"with": words, "keeps": keeps, "needed_gib": round(found.needed_bytes / GIB, 1)}


def _row(one: Wanted, found: dict[str, Any]) -> dict[str, Any]:
    stored = dict.fromkeys(("dataset", "protocol", "method", "auc", "low", "high", "seeds")) | one.stored
    keeps, auc = found["keeps"], stored["auc"]
    holds = None if auc is None or keeps is None else "yes" if keeps else "no: other numbers"
    rank = 3 if keeps is None else 2 if auc is None else 0 if keeps else 1
    place = {name: stored.pop(name) for name in _ANSWER}
    seeds = {"seeds": stored.pop("seeds"), "batch_size": one.point.batch_size, "precision": one.point.precision}
    answer = {"method": stored.pop("method"), "with": found["with"]} | stored
    return answer | {"auc_holds": holds, "needed_gib": found["needed_gib"]} | place | seeds | {"rank": rank}


def answers(rows: "pd.DataFrame", memory: int) -> Iterable[str]:
    """In sentences, for each dataset and protocol: what is best of what fits, and what fits with nothing."""
    from benchmarks.memory.needs import GIB

    card = f"{memory / GIB:g} GB"
    for (dataset, protocol), place in rows.groupby(list(_ANSWER), dropna=False, sort=False):
        where = "without stored runs" if _is_missing(dataset) else f"{dataset} (protocol {protocol})"
        holding = place[place["auc_holds"] == "yes"]
        if len(holding):
            best = holding.iloc[0]
            interval = "" if _is_missing(best["low"]) else f" [{best['low']:.3f}, {best['high']:.3f}]"
            yield (
                f"{where}: on {card} the highest stored AUC of what fits is that of {best['method']}, "
                f"{best['auc']:.3f}{interval}, with {best['with']}; bench.py advise says how sure that is"
            )
        elif not _is_missing(dataset):
            yield f"{where}: nothing fits {card} with the numbers of its stored AUC"
        changed = place.loc[place["with"].str.contains("Lion|SGD"), "method"]
        if len(changed):
            yield (
                f"{where}: with Lion or SGD instead of their own optimiser fit {', '.join(changed)}; no stored run of "
                "theirs says how accurate that is, and it wants rates of its own"
            )
        too_large = place.loc[place["with"] == "no combination", "method"]
        if len(too_large):
            yield f"{where}: on {card} with no combination: {', '.join(too_large)}"
