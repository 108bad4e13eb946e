"""When to stop adding seeds: a sequential rule for the methods of one place, from stored results alone.

There are at most `LOOKS` looks, at n, 2 n, 4 n, ... seeds. Each has the level `LOOK_LEVEL`, the whole level shared out
evenly (Bonferroni): that holds however looks depend on each other, as they do, having images and seeds in common. At a
look all methods of the place are compared, those that were told apart before with the seeds that they have: then the
chance that any of the best is ever called worse stays at `LEVEL`. How often that happens is simulated:
`python -m benchmarks.speed.stopping`, docs/statistics.md.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import pandas as pd

from benchmarks.analysis.comparison import FEWEST, Pairs, SameImages, best_p, between
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.power import within_reach
from benchmarks.analysis.significance import cell_evidence
from benchmarks.analysis.verdict import left_out

RULE = "worse than the best, or shown to be no worse: Bonferroni over looks"  # as records call it
LOOKS = 5
LOOK_LEVEL = LEVEL / LOOKS
MARGIN = 0.02  # of AUC (0-1), unless another is asked for

Key = tuple[str, str]  # a method and, as JSON, its settings: the columns `method` and `variant` of a summary

# one: a single method is left. margin: the leanest is shown to be no worse. images: no number of seeds would decide, as
# far as can be seen. compare: nothing can be compared.
End = Literal["one", "margin", "images", "compare"]
DECIDED: tuple[End, ...] = ("one", "margin")


class Judgement(NamedTuple):
    """What a look says of methods, which are numbers here.

    worse: those told worse than the best at this look, with their p.
    left: those still in question.
    leanest: of those left the one that takes the least memory; None where that is not known of all.
    end: why no more seeds are to be added; None where they are.
    """

    worse: dict[int, float]
    left: list[int]
    leanest: int | None
    end: End | None


class Standing(NamedTuple):
    """What a look says of a place: the same by `Key`.

    lost: methods that cannot be compared, and why. why: how it stands, in words. labels: of all methods.
    """

    worse: dict[Key, float]
    lost: dict[Key, str]
    left: list[Key]
    leanest: Key | None
    end: End | None
    why: str
    labels: dict[Key, str]


def seeds_of_looks(first: Sequence[int]) -> list[list[int]]:
    """The seeds of each look, all those before it included.

    Args:
        first: Those of the first look. The smallest numbers that are not among them follow.
    """
    others = (number for number in itertools.count() if number not in first)
    every = [*first, *itertools.islice(others, len(first) * (2 ** (LOOKS - 1) - 1))]
    return [every[: len(first) * 2**look] for look in range(LOOKS)]


def judge(tested: SameImages, memory: Sequence[int | None], out: Collection[int], margin: float = MARGIN) -> Judgement:
    """Takes a look.

    Args:
        tested: The methods of a place, each with its seeds so far.
        memory: What each takes, in bytes.
        out: Those that were told worse at looks before.
        margin: How much worse than the best (AUC, 0-1) the leanest may be.
    """
    everyone = range(len(memory))
    num_others = max(len(memory) - 1, 1)
    pairs = list(itertools.combinations(everyone, 2))
    compared = dict(zip(pairs, tested.compare(pairs, LOOK_LEVEL / num_others), strict=True))
    asked = [i for i in everyone if i not in out]
    best = next((i for i in asked if all(_change(compared, i, j) >= 0 for j in asked)), None)
    worse = {i: p for i, p in best_p(compared, everyone).items() if p <= LOOK_LEVEL and i in asked and i != best}
    left = [i for i in asked if i not in worse]
    leanest = _leanest(left, memory)
    return Judgement(worse, left, leanest, _end(tested, compared, left, leanest, margin, LOOK_LEVEL / num_others))


def _change(compared: Pairs, first: int, second: int) -> float:
    found = between(compared, first, second)
    return found.change if found else 0.0


def _leanest(left: Sequence[int], memory: Sequence[int | None]) -> int | None:
    known = {i: size for i in left if (size := memory[i]) is not None}
    return min(known, key=known.__getitem__) if known and len(known) == len(left) else None


def _end(
    tested: SameImages, compared: Pairs, left: Sequence[int], leanest: int | None, margin: float, level: float
) -> End | None:
    """Why a place ends; `level` is two-sided, of one of several comparisons."""
    if len(left) < 2:
        return "one"
    if tested.fewest < FEWEST:
        return "images"
    if leanest is None:
        return None
    others = [i for i in left if i != leanest]
    if all((found := between(compared, leanest, i)) is not None and found.low > -margin for i in others):
        return "margin"

    def may_show(first: int, second: int, shift: float, level: float) -> bool:
        """Whether more seeds may show that the first, raised by so much, is better than the second."""
        differences, images = tested.by_seed(first, second)
        return within_reach(differences + shift, images, level)

    may_go = {i for i in left if any(may_show(j, i, 0.0, level) for j in left if j != i)}
    stuck = [i for i in others if i not in may_go and not may_show(leanest, i, margin, level / 2)]
    return "images" if stuck and leanest not in may_go else None


def look_at(rows: pd.DataFrame, evidence: Mapping[str, Evidence], out: Collection[Key], margin: float) -> Standing:
    """Takes a look at a place.

    Args:
        rows: Its rows of `summary.summary`, of the runs that were asked for up to this look and of no others.
        evidence: By run id.
        out: Methods that were told worse, or lost, at looks before.
        margin: As `judge` takes it.
    """
    table = _by_key(rows)
    labels = {key: str(row["label"]) for key, row in table.items()}
    finished = rows[rows["complete"] & rows["auc_mean"].notna()]
    reasons = dict(left_out(rows.drop(finished.index)))
    lost = {key: reasons[label] for key, label in labels.items() if label in reasons}
    cells = {key: cell_evidence(row, evidence) for key, row in _by_key(finished).items()}
    lost |= {key: "its predictions are missing" for key, cell in cells.items() if not cell}
    lost = {key: reason for key, reason in lost.items() if key not in out}
    cells = {key: cell for key, cell in cells.items() if cell}
    keys = list(cells)
    left = [key for key in keys if key not in out]
    hindrance = None
    if finished["block"].nunique() > 1:
        hindrance = "its runs fall into several protocols, by device or weights"
    elif len({next(iter(cell.values())).images for cell in cells.values()}) > 1:
        hindrance = "its methods were not tested on the same images"
    elif not left:
        hindrance = "no method is left that can be compared"
    if hindrance:
        return Standing({}, lost, left, None, "compare", hindrance, labels)
    tested = SameImages(list(cells.values()))
    before = [number for number, key in enumerate(keys) if key in out]
    found = judge(tested, _memory([table[key] for key in keys]), before, margin)
    leanest = None if found.leanest is None else keys[found.leanest]
    names = [labels[keys[i]] for i in found.left]
    why = _why(found, None if leanest is None else labels[leanest], names, tested.fewest, margin)
    worse = {keys[i]: p for i, p in found.worse.items()}
    return Standing(worse, lost, [keys[i] for i in found.left], leanest, found.end, why, labels)


def _by_key(rows: pd.DataFrame) -> dict[Key, pd.Series]:
    return {(str(row["method"]), str(row["variant"])): row for _, row in rows.iterrows()}


def _memory(rows: Sequence[pd.Series]) -> list[int | None]:
    """Of the whole run; of none where some is measured and some predicted, which are never compared."""
    alike = len({row["memory_source"] for row in rows if not pd.isna(row["memory_bytes"])}) < 2
    return [int(row["memory_bytes"]) if alike and not pd.isna(row["memory_bytes"]) else None for row in rows]


def _why(found: Judgement, leanest: str | None, left: Sequence[str], fewest: int, margin: float) -> str:
    points = f"{100 * margin:g} points"
    if found.end == "one":
        return f"{left[0]} is left"
    if found.end == "margin":
        return f"{leanest}, the leanest of {len(left)} left, is shown to be no more than {points} below any of them"
    if found.end == "images" and fewest < FEWEST:
        return f"images are what lacks: of the rarest class {fewest} are tested, and under {FEWEST} nothing is compared"
    if found.end == "images":
        return (
            f"images are what lacks: more seeds would hardly tell {leanest}, the leanest of {len(left)} left, "
            f"from the others, or to show it no more than {points} below them"
        )
    unknown = "" if leanest else "; their memory is not known alike, so only what is told apart decides"
    return f"{len(left)} are left{unknown}"
