"""Scores of subgroups of the test images (by sex, age band, scanner, site): each one's, the worst, and the gap.

Patients are resampled within each subgroup. Whichever of G subgroups turns out worst, its interval holds at 95 %, as
all G hold together (Bonferroni: each has the level 5 % / G); so does that of the gap between the best and the worst, as
the intervals of all G (G - 1) / 2 differences would.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.analysis.extra_scores import SCORES, Score, cumulated, partial_auc
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.influence import Floats, Integers, units_of_classes
from benchmarks.analysis.kept import FOLDER, Arrays, Kept, load_kept, not_theirs
from benchmarks.analysis.resamples import resample_weights
from benchmarks.analysis.run_scores import Scored, ScoredPart, part_scores, scored
from benchmarks.analysis.score_intervals import ScoreInterval, mean_interval
from benchmarks.choices import AUC, FEW_UNITS
from benchmarks.errors import UserError
from benchmarks.scores import log_odds

GAP = "gap"  # in the place of a subgroup
_LAYOUT = "subgroups-2"  # of the kept files
_COUNTS = ("num_images", "fewest", "num_classes")  # the first of `GroupScores`
_BY_IMAGE = ("labels", "values", "units", "called")  # of a part
ALL_SCORES: dict[str, Score] = {AUC: Score("AUC", 1), **SCORES}


class NotListed(UserError):
    """Test images that a manifest does not have."""


class GroupScores(NamedTuple):
    """What a run says of a subgroup.

    num_images: in it. fewest: units of its rarest class, 0 where it lacks one. num_classes: that there are.
    values: of `ALL_SCORES` in their order, and resampled `(W, len(ALL_SCORES))`: nan where the subgroup is too small.
    """

    num_images: int
    fewest: int
    num_classes: int
    values: Floats
    resampled: NDArray[np.float32]


class RunGroups(NamedTuple):
    """Subgroups of a run's test images by their value; images: digest of these, see `run_scores.RunScores`."""

    images: str
    groups: dict[str, GroupScores]


def read_groups(data: bytes, value_of: Mapping[str, str]) -> RunGroups:
    """Scores of subgroups from the content of a file of predictions.

    Args:
        data: As `run_scores.scored` takes it.
        value_of: The value of each image by its name in predictions; images with an empty one are in no subgroup.

    Raises:
        NotListed: An image is not among them.
        UserError: As `scored`.
    """
    found = scored(data)
    absent = [path for path in found.test.paths if path not in value_of]
    if absent:
        raise NotListed(f"{len(absent)} of {len(found.test.paths)} test images, {absent[0]!r} first")
    values = np.array([value_of[path] for path in found.test.paths])
    return RunGroups(
        found.test.images, {str(value): _group(found, values == value) for value in sorted(set(values.tolist()) - {""})}
    )


def _group(found: Scored, mine: NDArray[np.bool_]) -> GroupScores:
    """Of some images; of findings the mean over all, each of which needs enough of them with and without it."""
    parts = [_cut(part, mine) for part in found.parts]
    num_images, num_classes = int(mine.sum()), found.parts[0].logits.shape[1]
    fewest = min(_fewest(part) for part in parts)
    if fewest < FEW_UNITS:
        nothing = np.full(len(ALL_SCORES), np.nan)
        return GroupScores(num_images, fewest, num_classes, nothing, nothing.astype(np.float32)[None])
    units = np.unique(found.test.units[mine], return_inverse=True)[1]
    seed = hashlib.sha256(json.dumps([found.test.images, np.flatnonzero(mine).tolist()]).encode()).hexdigest()
    drawn = resample_weights(found.test.members[mine], units, int(seed[:15], 16))
    weights = np.concatenate([np.ones((1, num_images)), drawn])
    values = np.mean([_all_scores(part, weights) for part in parts], axis=0)
    return GroupScores(num_images, fewest, num_classes, values[0], values[1:].astype(np.float32))


def _cut(scored: ScoredPart, mine: NDArray[np.bool_]) -> ScoredPart:
    """The images of a part that are in a subgroup, whose rows are then among those of the subgroup."""
    part, kept = scored.part, mine[scored.part.rows]
    rows = (np.cumsum(mine) - 1)[part.rows[kept]]
    own = part._replace(rows=rows, **{name: getattr(part, name)[kept] for name in _BY_IMAGE})
    return ScoredPart(own, scored.logits[kept], scored.fitted)


def _fewest(scored: ScoredPart) -> int:
    """Units of the rarest class, 0 where one is absent."""
    labels = scored.part.labels
    there = np.bincount(labels, minlength=scored.logits.shape[1])
    return int(units_of_classes(labels, scored.part.units).min()) if there.all() else 0


def _all_scores(scored: ScoredPart, weights: Floats) -> Floats:
    """All of `ALL_SCORES` `(W, len(ALL_SCORES))`."""
    auc = _auc(scored.part.labels, scored.logits, weights[:, scored.part.rows])
    return np.concatenate([auc[:, None], part_scores(scored, weights)], axis=1)


def _auc(labels: Integers, logits: Floats, weights: Floats) -> Floats:
    """Macro one-vs-rest AUC for each row of weights `(W,)`."""
    odds = log_odds(logits)
    parts = [
        partial_auc(*cumulated(labels == index, odds[:, index], weights), most=1.0) for index in range(odds.shape[1])
    ]
    return np.asarray(np.mean(parts, axis=0))


def load_groups(
    results: Path, frame: pd.DataFrame, values: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, RunGroups], list[str]]:
    """Subgroups of finished runs by id, and a line for each file of predictions that has none.

    Args:
        results: The results root, under which what was read is kept.
        frame: Its runs, as `records.runs_frame` gives them.
        values: Of the images by the id of a run whose images they are; other runs are left out.
    """
    found: dict[str, RunGroups] = {}
    problems: list[str] = []
    finished = frame[(frame["state"] == "ok") & frame["run_id"].isin(values)]
    for _, runs in finished.groupby(finished["run_id"].map(lambda run_id: id(values[run_id])), sort=False):
        value_of = values[runs["run_id"].iloc[0]]
        digest = hashlib.sha256(json.dumps(sorted(value_of.items())).encode(errors="surrogateescape")).hexdigest()
        kept = Kept(results / FOLDER, f"{_LAYOUT}-{digest[:16]}", _maker(value_of))
        own, faults = load_kept(kept, results, runs, lambda _, arrays: _unpack(arrays), _said)
        found |= own
        problems += faults
    return found, problems


def _said(run_id: str, path: Path, error: ValueError) -> str:
    if isinstance(error, NotListed):
        return f"manifest must list every test image of {run_id}, got none of {error}"
    return not_theirs(path, error)


def _maker(value_of: Mapping[str, str]) -> Any:
    def made(data: bytes) -> Arrays:
        found = read_groups(data, value_of)
        groups = found.groups.values()
        width = max((len(group.resampled) for group in groups), default=1)
        names = np.frombuffer(json.dumps([found.images, list(found.groups)]).encode(), np.uint8)
        return {
            "names": names,
            "counts": np.array([group[: len(_COUNTS)] for group in groups]).reshape(-1, len(_COUNTS)),
            "values": np.array([group.values for group in groups]).reshape(-1, len(ALL_SCORES)),
            "resampled": np.array(
                [np.broadcast_to(group.resampled, (width, len(ALL_SCORES))) for group in groups], np.float32
            ).reshape(-1, width, len(ALL_SCORES)),
        }

    return made


def _unpack(stored: Arrays) -> RunGroups:
    images, names = json.loads(bytes(stored["names"]).decode())
    rows = zip(stored["counts"].tolist(), stored["values"], stored["resampled"], strict=True)
    groups = (GroupScores(size, few, classes, *part) for (size, few, classes), *part in rows)
    return RunGroups(images, dict(zip(names, groups, strict=True)))


def subgroup_rows(table: pd.DataFrame, runs: Mapping[str, RunGroups], names: Sequence[str]) -> pd.DataFrame:
    """Rows of each cell and score: a subgroup each, and the gap.

    Args:
        table: As `summary.summary` gives it.
        runs: By id, as `load_groups` gives them.
        names: Of `ALL_SCORES`.

    Returns:
        The columns of `table`, and: score; subgroup (`gap` in the row of the gap; is_gap says so); num_images,
        fewest_units (of the rarest class); scored (whether it has enough of each); group_mean, group_low, group_high
        (as the score is stated, simultaneous 95 % intervals); is_worst. The gap is how much better the best is than the
        worst. A cell whose runs lack predictions, or have other images, has no rows.
    """
    rows = [row.to_dict() | found for _, row in table.iterrows() for found in _of_cell(row, runs, names)]
    gained = ["score", "subgroup", "is_gap", "num_images", "fewest_units", "scored"]
    gained += ["group_mean", "group_low", "group_high", "is_worst"]
    return pd.DataFrame(rows, columns=[*table.columns, *gained])


def _of_cell(row: pd.Series, runs: Mapping[str, RunGroups], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    run_ids = str(row["run_ids"]).split()
    found = [runs[run_id] for run_id in run_ids if run_id in runs]
    if not found or len(found) < len(run_ids) or len({run.images for run in found}) > 1:
        return
    for name in names:
        groups = {value: [run.groups[value] for run in found] for value in found[0].groups}
        enough = {value for value, parts in groups.items() if parts[0].fewest >= FEW_UNITS}
        intervals = {value: _interval(name, groups[value], LEVEL / len(enough)) for value in enough}
        known = {value: interval for value, interval in intervals.items() if interval is not None}
        ordered = sorted(known, key=lambda value: (ALL_SCORES[name].better * known[value].mean, value))
        worst = ordered[0] if len(ordered) > 1 else None
        for value, parts in groups.items():
            shared = {"score": name, "subgroup": value, "is_gap": False, "is_worst": value == worst}
            shared |= {"num_images": parts[0].num_images, "fewest_units": parts[0].fewest, "scored": value in known}
            interval = known.get(value)
            ends = {} if interval is None else dict(zip(("mean", "low", "high"), _ends(interval), strict=True))
            yield shared | {f"group_{end}": number for end, number in ends.items()}
        if worst is not None:
            gap = _gap(name, groups[ordered[-1]], groups[worst], len(ordered))
            ends = dict(zip(("mean", "low", "high"), gap, strict=True))
            shared = {"score": name, "subgroup": GAP, "is_gap": True, "is_worst": False, "scored": True}
            yield shared | {f"group_{end}": number for end, number in ends.items()}


def _interval(name: str, parts: Sequence[GroupScores], level: float) -> ScoreInterval | None:
    place = list(ALL_SCORES).index(name)
    values = np.array([part.values[place] for part in parts])
    resampled = np.array([part.resampled[:, place] for part in parts])
    return mean_interval(ALL_SCORES[name], values, resampled, parts[0].fewest, parts[0].num_classes, level)


def _ends(interval: ScoreInterval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _gap(
    name: str, best: Sequence[GroupScores], worst: Sequence[GroupScores], num_groups: int
) -> tuple[float, float, float]:
    """How much better one subgroup is than another, from the intervals of both at the level of one of all pairs.

    They are of other patients, so independent over images; that seeds are the same makes it wider than need be.

    Source: Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10; Zou, Donner, Statistics in Medicine 27
    (2008), 1693-1702.
    """
    level = LEVEL / (num_groups * (num_groups - 1) / 2)
    high, low = (_interval(name, parts, level) for parts in (best, worst))
    assert high is not None and low is not None
    if ALL_SCORES[name].better < 0:
        high, low = low, high
    change = high.mean - low.mean
    below = np.hypot(high.mean - high.low, low.high - low.mean)
    above = np.hypot(high.high - high.mean, low.mean - low.low)
    return change, float(change - below), float(change + above)
