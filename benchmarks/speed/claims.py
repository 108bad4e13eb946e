"""How often the intervals and tests of AUC err: sizes, coverage and power, where the truth is known.

    python -m benchmarks.speed.claims [--trials 2000] [--workers 2]

Methods and their seeds score the same images: what an image adds is partly shared by all methods, partly by the seeds
of one, partly a seed's own; each training draws the AUC that it would have on endless images. Groups are patients of
three images of one class. Size: the share of trials in which methods that are equal differ at p < 0.05; of one seed, of
trained models that are. Power: where the AUCs are 0.85 and 0.80. Coverage: the share of 95 % intervals that hold what
is true of the method. Beside ours stand what the tables showed before: DeLong's test of the means over seeds, which
takes training noise for certain, and the percentile bootstrap.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from benchmarks.analysis.comparison import Comparison, SameImages, best_p
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.inference import LEVEL, Differences, Means, interval, make_split, variance_parts
from benchmarks.analysis.influence import Floats, Integers, influence, units_of_classes
from benchmarks.analysis.statistics import holm
from benchmarks.bounds import positive

_SHARED, _OF_METHOD, _OF_SEED = 0.5, 0.25, 0.25  # of the variance of a score within its class
_PER_PATIENT = 3


class Scene(NamedTuple):
    """What is simulated: images, share of the rarer class, seeds, SD of AUC over trainings, AUCs of the methods."""

    num_images: int
    rarer: float
    num_seeds: int
    seed_sd: float
    aucs: tuple[float, ...]
    grouped: bool = False
    exponential: bool = False


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive, default=2_000, metavar="N", help="for each line (default: 2000)")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="processes (default: 2)")
    args = parser.parse_args(arguments)
    with ProcessPoolExecutor(args.workers) as pool:
        for title, rows in (
            ("Two methods at 0.85", pool.map(partial(size_row, trials=args.trials), equal_scenes())),
            ("Few images of a class, AUCs near 1", pool.map(partial(edge_row, trials=args.trials), edge_scenes())),
            ("Seven methods that are equal", pool.map(partial(family_row, trials=args.trials // 2), family_scenes())),
        ):
            print(f"## {title}\n\n{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}\n", flush=True)
    return 0


def equal_scenes() -> Iterator[Scene]:
    """Of the first table."""
    for num_images, grouped in itertools.product((50, 200, 500, 2000), (False, True)):
        for num_seeds, seed_sd in itertools.product((1, 2, 3, 5, 10), (0.0, 0.01, 0.02)):
            if num_seeds > 1 or seed_sd == 0:
                yield Scene(num_images, 0.3, num_seeds, seed_sd, (0.85, 0.85), grouped)


def edge_scenes() -> Iterator[Scene]:
    """Of the second table."""
    for (num_images, rarer), num_seeds in itertools.product(((53, 0.06), (50, 0.1), (100, 0.1), (50, 0.3)), (1, 3)):
        for aucs, exponential in itertools.product(((0.9, 0.8), (0.98, 0.95), (0.99, 0.99)), (False, True)):
            yield Scene(num_images, rarer, num_seeds, 0.0, aucs, exponential=exponential)


def size_row(scene: Scene, trials: int) -> dict[str, Any]:
    """A line of the first table."""
    equal, apart = (Trials(scene._replace(aucs=aucs), trials) for aucs in (scene.aucs, (0.85, 0.80)))
    return {
        "images": scene.num_images,
        "by patient": "yes" if scene.grouped else "no",
        "seeds": scene.num_seeds,
        "SD over seeds": f"{scene.seed_sd:.2f}",
        "size, DeLong (before)": _share(equal.delong() < LEVEL),
        "size": _share(equal.p() < LEVEL),
        "power": _share(apart.p() < LEVEL),
        "coverage, difference": _share(apart.difference_held()),
        "coverage, AUC": _share(equal.auc_held()),
    }


def edge_row(scene: Scene, trials: int) -> dict[str, Any]:
    """A line of the second table."""
    found = Trials(scene, trials)
    return {
        "rarer class": round(scene.num_images * scene.rarer),
        "images": scene.num_images,
        "seeds": scene.num_seeds,
        "AUCs": " and ".join(map(str, scene.aucs)),
        "scores": "exponential" if scene.exponential else "normal",
        "AUC, bootstrap (before)": _share(bootstrap_held(scene, trials // 4)) if scene.num_seeds == 1 else "–",
        "coverage, AUC": _share(found.auc_held()),
        "coverage, difference": _share(found.difference_held()) if found.split.fewest >= 5 else "none shown",
    }


def family_scenes() -> Iterator[Scene]:
    """Of the third table."""
    for num_images, num_seeds in ((200, 3), (2000, 2), (2000, 3), (2000, 5)):
        for seed_sd in (0.0, 0.01, 0.02):
            yield Scene(num_images, 0.3, num_seeds, seed_sd, (0.85, 0.85))


def family_row(scene: Scene, trials: int) -> dict[str, Any]:
    """A line of the third table: the share of trials with any false claim among seven equal methods."""
    rng = np.random.default_rng(5)
    pairs = list(itertools.combinations(range(7), 2))
    claims = []
    for _ in range(trials):
        labels, _, scores = draw(scene, rng, num_methods=7)
        cells = [dict(enumerate(each_evidence(labels, method))) for method in scores]
        tested = SameImages(cells)
        compared = dict(zip(pairs, tested.compare(pairs), strict=True))
        means = np.array([np.mean([run.influence for run in cell.values()], axis=0) for cell in cells])
        aucs = np.array([np.mean([run.auc for run in cell.values()]) for cell in cells])
        best = int(aucs.argmax())
        others = [i for i in range(7) if i != best]
        errors = np.sqrt(((means[others] - means[best]) ** 2).sum(axis=1))
        before = holm((2 * stats.norm.sf((aucs[best] - aucs[others]) / errors)).tolist())
        to_full = [found.p for i in range(1, 7) if (found := compared[0, i]) is not None]
        best_ps = [min(best_p(pairs_as, range(7)).values()) for pairs_as in (cochran(tested, pairs), compared)]
        claims.append((min(before) < LEVEL, *(p < LEVEL for p in best_ps), 6 * min(to_full) < LEVEL))
    shares = (_share(np.array(column)) for column in zip(*claims, strict=True))
    before_share, cochran_share, best_share, full_share = shares
    return {
        "images": scene.num_images,
        "seeds": scene.num_seeds,
        "SD over seeds": f"{scene.seed_sd:.2f}",
        "to best, DeLong and Holm (before)": before_share,
        "to best, Cochran (before)": cochran_share,
        "to best": best_share,
        "to full": full_share,
    }


def draw(scene: Scene, rng: np.random.Generator, num_methods: int = 2) -> tuple[Integers, Integers, Floats]:
    """Labels and units `(n,)` of test images, and scores `(methods, seeds, n)`."""
    positive_images = max(round(scene.rarer * scene.num_images), 2)
    labels = np.repeat([1, 0], [positive_images, scene.num_images - positive_images])
    units = np.arange(scene.num_images)
    if scene.grouped:
        first = -(-positive_images // _PER_PATIENT)
        units = np.where(labels == 1, units // _PER_PATIENT, first + (units - positive_images) // _PER_PATIENT)

    def effect(*shape: int) -> Floats:
        own = rng.normal(size=(*shape, scene.num_images))
        if not scene.grouped:
            return own
        return np.asarray(np.sqrt(0.5) * (own + rng.normal(size=(*shape, int(units.max()) + 1))[..., units]))

    parts = ((_SHARED, (1, 1)), (_OF_METHOD, (num_methods, 1)), (_OF_SEED, (num_methods, scene.num_seeds)))
    normal = sum(np.sqrt(share) * effect(*shape) for share, shape in parts)
    centres = np.resize(scene.aucs, num_methods)[:, None]
    aucs = np.clip(centres + scene.seed_sd * rng.normal(size=(num_methods, scene.num_seeds)), 0.5, 0.9999)[..., None]
    if scene.exponential:
        rate = np.where(labels == 1, 1, aucs / (1 - aucs))
        return labels, units, -stats.norm.logsf(normal) / rate
    return labels, units, normal + labels * np.sqrt(2) * stats.norm.ppf(aucs)


def each_evidence(labels: Integers, scores: Floats) -> Iterator[Evidence]:
    """What `influence.influence` finds of each seed, all seeds at once, as it takes most of the time else.

    Args:
        labels: 1, then 0; every image is a unit `(n,)`.
        scores: Without ties `(S, n)`.
    """
    num_own = int(labels.sum())
    ranks = _ranks(scores)
    own, others = ranks[:, :num_own], ranks[:, num_own:]
    above = (own - _ranks(own)) / others.shape[1]
    below = 1 - (others - _ranks(others)) / num_own
    units = []
    for placed in (above, below):
        count = placed.shape[1]
        shares = placed / count
        units.append((shares - shares.mean(axis=1, keepdims=True)) * np.sqrt(count / (count - 1)))
    counts = np.bincount(labels)
    for auc, unit in zip(above.mean(axis=1), np.concatenate(units, axis=1), strict=True):
        yield Evidence("", "", float(auc), unit, 1.0, counts, counts)


def _ranks(scores: Floats | Integers) -> Integers:
    return np.argsort(np.argsort(scores, axis=1), axis=1)


def cochran(tested: SameImages, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Comparison]:
    """Pairs compared by the mean of Student's critical value and the normal one, for so much as seeds and images tell.

    Source: Cochran, Biometrics 20 (1964), 191-195.
    """
    compared = {}
    for pair in pairs:
        change, num_seeds, parts = tested.variance(*pair) or (0.0, 0, None)
        if parts is None:
            continue
        variance = float(parts.images[0] + parts.seeds[0])
        told = float(parts.told[0] if num_seeds == 2 else parts.seeds[0] / variance)
        distance = abs(change) / np.sqrt(variance)

        def beyond(logarithm: float, told: float = told, df: int = num_seeds - 1, distance: float = distance) -> float:
            half = np.exp(logarithm) / 2
            return float(-told * special.stdtrit(df, half) - (1 - told) * special.ndtri(half) - distance)

        p = np.exp(optimize.brentq(beyond, -60, 0))
        compared[pair] = Comparison(change, 0.0, 0.0, float(p), num_seeds)
    return compared


class Trials:
    """Two methods on test images, many times over, and what is said of them."""

    def __init__(self, scene: Scene, trials: int) -> None:
        rng = np.random.default_rng([scene.num_images, scene.num_seeds, round(1000 * scene.seed_sd)])
        self.scene = scene
        aucs, each, mean, cross, effects = [], [], [], [], []
        for _ in range(trials):
            labels, units, scores = draw(scene, rng)
            found = [[influence(labels, np.stack([-row, row], axis=1), units) for row in method] for method in scores]
            aucs.append([[run.auc for run in method] for method in found])
            by_seed = np.array([[run.units for run in method] for method in found])  # (2, S, U)
            tables = np.concatenate([by_seed, by_seed[:1] - by_seed[1:]])  # the methods', and their difference's
            means = tables.mean(axis=1)
            each.append((tables**2).sum(axis=2).mean(axis=1))
            mean.append((means**2).sum(axis=1))
            cross.append(means[0] @ means[1])
            effects.append(float(np.mean([run.design_effect for method in found for run in method])))
        self.split = make_split(np.bincount(labels), units_of_classes(labels, units), effects)
        values, of_one, of_mean = np.array(aucs), np.array(each).T, np.array(mean).T
        self.sides = [
            Means(
                values[:, i].mean(axis=1),
                variance_parts(values[:, i], of_one[i], of_mean[i]),
                of_one[i],
            )
            for i in (0, 1)
        ]
        parts = variance_parts(values[:, 0] - values[:, 1], of_one[2], of_mean[2])
        self.differences = Differences(self.sides[0], self.sides[1], np.array(cross), parts)

    def delong(self) -> Floats:
        """p of DeLong's test of the means over seeds, by trial."""
        errors = np.sqrt(np.maximum(self.differences.parts.images, 1e-24))
        return np.asarray(2 * stats.norm.sf(np.abs(self.differences.change) / errors))

    def p(self) -> Floats:
        """p of ours."""
        return self.differences.p_value(self.split)

    def difference_held(self) -> Any:
        """Whether the interval holds the true difference."""
        low, high = self.differences.interval(self.split)
        truth = self.scene.aucs[0] - self.scene.aucs[1]
        return (low <= truth + 1e-9) & (truth - 1e-9 <= high)

    def auc_held(self) -> Any:
        """Whether the interval holds the second method's true AUC."""
        low, high = interval(self.sides[1], self.split)
        return (low <= self.scene.aucs[1]) & (self.scene.aucs[1] <= high)


def bootstrap_held(scene: Scene, trials: int, num_resamples: int = 500) -> Any:
    """Whether the percentile bootstrap interval of the second method's AUC holds the true one."""
    rng = np.random.default_rng(7)
    held = []
    for _ in range(trials):
        labels, _, scores = draw(scene, rng)
        mine, others = scores[1, 0][labels == 1], scores[1, 0][labels == 0]
        wins = (mine[:, None] > others).astype(np.float64)
        drawn = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=2 * num_resamples)
        ours, theirs = drawn[:, labels == 1], drawn[:, labels == 0]
        ours, theirs = (table[ours.any(axis=1)][:num_resamples] for table in (ours, theirs))
        aucs = np.einsum("bi,ij,bj->b", ours, wins, theirs, optimize=True) / (ours.sum(axis=1) * theirs.sum(axis=1))
        low, high = np.quantile(aucs, [LEVEL / 2, 1 - LEVEL / 2])
        held.append(low <= scene.aucs[1] <= high)
    return np.array(held)


def _share(held: Any) -> str:
    return f"{100 * np.mean(held):.1f} %"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
