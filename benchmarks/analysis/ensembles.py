"""Ensembles from stored predictions: the mean of the probabilities of several models, as rows beside their members.

Nothing runs for it. What an ensemble scores was not chosen on validation, and it costs what its members cost together:
its rows take no part in ranks, comparisons and verdicts. Nor do those of soups, each the mean of the weights of several
models, which cost what one costs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from benchmarks.analysis.comparison import Cell, SameImages
from benchmarks.analysis.evidence import Evidence, evidence_of
from benchmarks.analysis.influence import Floats
from benchmarks.analysis.predictions import Predictions, SplitPredictions
from benchmarks.analysis.soups import Soups, said_of, soups_of
from benchmarks.errors import UserError
from benchmarks.records.frame import PROTOCOL
from benchmarks.records.record import predictions_path
from benchmarks.storage.files import read_regular

ENSEMBLE = "ensemble"  # the state of these rows
SEEDS = "seeds"
SOUPS = "soups"
_PLACE = ["block", "dataset_label", "resolution"]
_SHARED = (*_PLACE, *PROTOCOL, "dataset", "dataset_digest", "dataset_title", "synthetic", "device_type", "fallback")
_SUMMED = ("use_1_bytes", "use_16_bytes", "use_flops", "task_bytes")
_LEAST = 1e-300  # of a probability whose logarithm is taken

Matches = Callable[[str, pd.Series], bool]


class Scored(NamedTuple):
    """What an ensemble scores: what its test split says of its AUC, and the share of images called right (0-1)."""

    evidence: Evidence
    accuracy: float


def add_ensembles(
    table: pd.DataFrame,
    results: Path,
    evidence: Mapping[str, Evidence],
    asked: Sequence[str],
    matches: Matches,
    soups: Soups | None = None,
) -> pd.DataFrame:
    """A summary with a row behind each place's own for every ensemble that can be made there.

    `seeds` asks for one of each cell with several seeds: of all of these, one model in use, whose interval is over
    images. `soups` asks for the soups of each cell's seeds that were made. Names of methods with `+` between them ask
    for one of each seed that all of these have, which are averaged as the seeds of a method are.

    Args:
        table: As `summary.summary` gives it.
        results: The results root.
        evidence: Of its runs by id; a run without is in no ensemble.
        asked: Which ensembles.
        matches: `matches(name, row)` says whether a row of the table is the method that a name means.
        soups: Where these are asked for.

    Returns:
        The table with rows of the state `ensemble`: auc_mean, _sd, _low, _high and _se_..., accuracy_mean, members
        (of each, how many models run), run_ids, and where the table knows what using a model costs, that of all
        members together, what they share once. Rows of soups have `soup_said`, what validation says of each.

    Raises:
        UserError: A name means several rows of a place, or one that was asked for can be made nowhere.
    """
    parts: list[pd.DataFrame] = []
    made: set[str] = set()
    for _, group in table.groupby(_PLACE, sort=False, dropna=False):
        rows = []
        for name in dict.fromkeys(asked):
            if name == SOUPS:
                assert soups is not None
                found = [_soup_row(row, *soup, soups) for _, row in _ok(group) for soup in soups_of(row, soups.frame)]
                rows += found
                made |= {name for _ in found}
                continue
            for cells, num_members, title in _wanted(group, name, matches):
                if row := _row(cells, title, results, evidence, by_seed=name != SEEDS):
                    rows.append(row | {"members": num_members})
                    made.add(name)
        gained = ["members", *(["soup_said"] if SOUPS in asked else [])]
        added = pd.DataFrame(rows, columns=[*table.columns, *gained], dtype="object")
        parts.append(pd.concat([group.astype("object").assign(**dict.fromkeys(gained)), added]))
    if missing := [name for name in asked if name not in made]:
        raise UserError(
            f"ensembles must be of seeds or methods with finished runs on the same images at one place, got "
            f"{missing[0]!r}, which can be made nowhere; bench.py "
            + ("soup RUN makes soups" if missing[0] == SOUPS else "list runs shows what there is")
        )
    return pd.concat(parts, ignore_index=True)


def _ok(group: pd.DataFrame) -> Iterator[tuple[Any, pd.Series]]:
    return ((i, row) for i, row in group.iterrows() if row["state"] == "ok")


def _wanted(group: pd.DataFrame, name: str, matches: Matches) -> Iterator[tuple[list[pd.Series], int, str]]:
    """The rows of a place that make up each ensemble of a name, how many models run in it, and its title."""
    own = [row for _, row in _ok(group)]
    if name == SEEDS:
        for row in own:
            if (count := len(str(row["run_ids"]).split())) > 1:
                yield [row], count, f"Ensemble of {count} seeds: {row['label']}"
        return
    members = []
    for part in name.split("+"):
        found = [row for row in own if matches(part, row)]
        if len(found) > 1:
            raise UserError(
                f"ensembles must name one row for each member, got {part!r}, which means "
                f"{', '.join(str(row['label']) for row in found)}; add its options, like lora:rank=4"
            )
        members += found
    if len(members) == len(name.split("+")) > 1:
        yield members, len(members), f"Ensemble: {' and '.join(str(row['label']) for row in members)}"


def _row(
    cells: Sequence[pd.Series], title: str, results: Path, evidence: Mapping[str, Evidence], by_seed: bool
) -> dict[str, Any] | None:
    """The row of an ensemble; None where a member has no predictions, or was tested on other images."""
    runs = [dict(zip(str(row["run_seeds"]).split(), str(row["run_ids"]).split(), strict=True)) for row in cells]
    seeds = [seed for seed in runs[0] if all(seed in one for one in runs)]
    together = [[one[seed] for one in runs] for seed in seeds] if by_seed else [list(runs[0].values())]
    names = [run_id for run_ids in together for run_id in run_ids]
    if not all(name in evidence for name in names) or len({evidence[name].images for name in names}) != 1:
        return None
    scored = [score([read_regular(predictions_path(results, run_id)) for run_id in ids]) for ids in together]
    return _shown(cells[0], title, names, scored) | _costs(cells, 1 if by_seed else len(together[0]))


def _soup_row(row: pd.Series, title: str, soup: pd.Series, soups: Soups) -> dict[str, Any]:
    """The row of a soup, which is one model, of the method of a row."""
    scored = Scored(soups.evidence[soup["run_id"]], float(soup["accuracy"]))
    shown = _shown(row, title, soup["soup_used"].split(), [scored]) | _costs([row], 1)
    return shown | {"members": 1, "soup_said": said_of(title, soup)}


def _shown(first: pd.Series, title: str, names: Sequence[str], scored: Sequence[Scored]) -> dict[str, Any]:
    """What a row shows, whose place is that of another."""
    cell: Cell = {number: found.evidence for number, found in enumerate(scored)}
    return {name: first[name] for name in _SHARED if name in first} | _numbers(scored, cell) | {
        **{"method": ENSEMBLE, "variant": title, "label": title, "state": ENSEMBLE, "complete": False},
        **{name: 0 for name in first.index if str(name).startswith("seeds_")},
        **{"seeds_ok": len(scored), "seeds_asked": len(scored), "run_ids": " ".join(names), "run_seeds": ""},
    }  # fmt: skip


def _numbers(scored: Sequence[Scored], cell: Cell) -> dict[str, Any]:
    tested = SameImages([cell])
    aucs = [found.evidence.auc for found in scored]
    found: dict[str, Any] = {
        **{"auc_mean": np.mean(aucs), "auc_sd": np.std(aucs, ddof=1) if len(aucs) > 1 else None},
        **{"accuracy_mean": np.mean([one.accuracy for one in scored]), "auc_fewest_units": tested.fewest},
    }
    if interval := tested.intervals()[0]:
        names = ("auc_low", "auc_high", "auc_se_images", "auc_se_seeds")
        found |= dict(zip(names, interval, strict=True))
    return found


def _costs(cells: Sequence[pd.Series], times: int) -> dict[str, Any]:
    """What using an ensemble costs, each member run as it is; what is stored once is the largest of theirs."""
    if "shared_bytes" not in cells[0] or any(pd.isna(row["shared_bytes"]) for row in cells):
        return {}
    summed = {name: times * sum(row[name] for row in cells) for name in _SUMMED}
    return summed | {"shared_bytes": max(row["shared_bytes"] for row in cells)}


def score(files: Sequence[bytes]) -> Scored:
    """What the mean of the probabilities scores on the test split.

    Args:
        files: The predictions of its members, on the same images.
    """
    read = [Predictions(data) for data in files]
    splits = [predictions.split("test") for predictions in read]
    test, ranked, answers = splits[0], [], []
    for place in range(len(test.parts)):
        logs = [_logarithms(one.are_logits, split.parts[place]) for one, split in zip(read, splits, strict=True)]
        called, others = (logsumexp([part[i] for part in logs], axis=0) for i in (0, 1))
        ranked.append(called - others)  # as the mean probability does, and tells apart what rounds to 1
        answers.append(called.argmax(axis=1))
    accuracies = [(own == part.labels).mean() for own, part in zip(answers, test.parts, strict=True)]
    return Scored(evidence_of(test, ranked, answers), float(np.mean(accuracies)))


def _logarithms(are_logits: bool, split: SplitPredictions) -> tuple[Floats, Floats]:
    """The logarithms of each class's probability, and of the others' together `(n, C)`."""
    values = split.values
    if not are_logits:
        return np.log(np.maximum(values, _LEAST)), np.log(np.maximum(1 - values, _LEAST))
    total = logsumexp(values, axis=1, keepdims=True)
    others = [logsumexp(np.delete(values, index, axis=1), axis=1) for index in range(values.shape[1])]
    return values - total, np.stack(others, axis=1) - total
