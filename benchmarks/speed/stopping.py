"""How often the rule that adds seeds until the answer stands errs, and how many runs it takes.

    python -m benchmarks.speed.stopping [--trials 80] [--workers 1]

Scores are made up as in `benchmarks.speed.claims`, 30 % of the images positive; the first look has three seeds, the
last 48. `to the end` never stops while two methods are left, so that the rule has every chance to err; `as it is` stops
where the leanest is shown to be no worse or where images are what lacks. `fixed` is one look at the level of 5 %, all
methods with 48 seeds.
"""

import argparse
import itertools
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.analysis.comparison import SameImages, best_p
from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.stopping import LOOKS, MARGIN, End, judge, seeds_of_looks
from benchmarks.bounds import positive
from benchmarks.speed.claims import Scene, draw, each_evidence

FIRST = (0, 1, 2)
LOOK_SEEDS = seeds_of_looks(FIRST)


class Stage(NamedTuple):
    """How far the rule has come when it ends.

    dropped: methods that were told worse. runs: of all methods together. end: why it ends; None where looks ran out.
    leanest: of those left.
    """

    dropped: frozenset[int]
    runs: int
    end: End | None
    leanest: int | None


class Methods:
    """Methods on the same images, whose seeds are looked at when they are asked for; the first is the least lean."""

    def __init__(self, scene: Scene, num_methods: int, rng: np.random.Generator) -> None:
        labels, _, scores = draw(scene, rng, num_methods)
        self.num = num_methods
        self.cells = [dict(enumerate(each_evidence(labels, method))) for method in scores]

    def tested(self, num_seeds: dict[int, int]) -> SameImages:
        """The methods, each with so many seeds."""
        return SameImages(
            [{seed: cell[seed] for seed in range(num_seeds[method])} for method, cell in enumerate(self.cells)]
        )


def follow(methods: Methods, margin: float = MARGIN) -> tuple[Stage, Stage]:
    """Adds seeds by the rule: where it ends if it only ends with one method left, and where it does as it is."""
    num_seeds = dict.fromkeys(range(methods.num), 0)
    dropped: frozenset[int] = frozenset()
    stages: list[Stage] = []
    for seeds in LOOK_SEEDS:
        num_seeds |= {method: len(seeds) for method in num_seeds if method not in dropped}
        found = judge(methods.tested(num_seeds), range(methods.num, 0, -1), dropped, margin)
        dropped |= found.worse.keys()
        stages.append(Stage(dropped, sum(num_seeds.values()), found.end, found.leanest))
        if found.end == "one":
            break
    return stages[-1], next((stage for stage in stages if stage.end), stages[-1])


def equal_row(case: tuple[int, int, float], trials: int) -> dict[str, Any]:
    """A line of the first table: methods that are all equal."""
    num_methods, num_images, seed_sd = case
    scene = Scene(num_images, 0.3, len(LOOK_SEEDS[-1]), seed_sd, (0.85, 0.85))
    rng = np.random.default_rng([num_methods, num_images, round(1000 * seed_sd)])
    whole, short = [], []
    for _ in range(trials):
        to_the_end, as_it_is = follow(Methods(scene, num_methods, rng))
        whole.append(to_the_end)
        short.append(as_it_is)
    return {
        "methods": num_methods,
        "images": num_images,
        "SD over seeds": f"{seed_sd:.2f}",
        "any dropped, to the end": _share([bool(trial.dropped) for trial in whole]),
        "any dropped, as it is": _share([bool(trial.dropped) for trial in short]),
        "shown no worse": _share([trial.end == "margin" for trial in short]),
        "images lack": _share([trial.end == "images" for trial in short]),
        "runs, as it is": _mean(short),
        "runs, fixed": num_methods * len(LOOK_SEEDS[-1]),
    }


def apart_row(case: tuple[int, float], trials: int, num_methods: int = 4) -> dict[str, Any]:
    """A line of the second table: the first method at 0.87, the others at 0.85."""
    num_images, seed_sd = case
    scene = Scene(num_images, 0.3, len(LOOK_SEEDS[-1]), seed_sd, (0.87, *[0.85] * (num_methods - 1)))
    rng = np.random.default_rng([num_images, round(1000 * seed_sd), 2])
    whole, short, fixed = [], [], []
    for _ in range(trials):
        methods = Methods(scene, num_methods, rng)
        to_the_end, as_it_is = follow(methods)
        whole.append(to_the_end)
        short.append(as_it_is)
        fixed.append(_told_at_once(methods))
    return {
        "images": num_images,
        "SD over seeds": f"{seed_sd:.2f}",
        "best dropped": _share([0 in trial.dropped for trial in whole]),
        "wrongly no worse": _share([trial.end == "margin" and trial.leanest != 0 for trial in short]),
        "told, to the end": _share([len(trial.dropped - {0}) == num_methods - 1 for trial in whole]),
        "told, fixed": _share([len(told - {0}) == num_methods - 1 for told in fixed]),
        "images lack": _share([trial.end == "images" for trial in short]),
        "runs, to the end": _mean(whole),
        "runs, as it is": _mean(short),
        "runs, fixed": num_methods * len(LOOK_SEEDS[-1]),
    }


def _told_at_once(methods: Methods) -> set[int]:
    """Those told worse than the best by one look at all seeds."""
    everyone = range(methods.num)
    pairs = list(itertools.combinations(everyone, 2))
    tested = methods.tested(dict.fromkeys(everyone, len(LOOK_SEEDS[-1])))
    worse = best_p(dict(zip(pairs, tested.compare(pairs), strict=True)), everyone)
    return {method for method, p in worse.items() if p <= LEVEL}


def _share(held: list[bool]) -> str:
    return f"{100 * np.mean(held):.1f} %"


def _mean(stages: list[Stage]) -> str:
    return f"{np.mean([stage.runs for stage in stages]):.0f}"


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive, default=80, metavar="N", help="for each line (default: 80)")
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="processes (default: 1)")
    args = parser.parse_args(arguments)
    equal = [(3, 200, 0.0), (3, 200, 0.02), (7, 200, 0.02), (3, 2000, 0.02), (7, 2000, 0.02)]
    apart = [(200, 0.01), (2000, 0.0), (2000, 0.01), (2000, 0.02)]
    with ProcessPoolExecutor(args.workers) as pool:
        for title, rows in (
            ("Methods that are equal", pool.map(partial(equal_row, trials=args.trials), equal)),
            ("One at 0.87, three at 0.85", pool.map(partial(apart_row, trials=args.trials), apart)),
        ):
            print(f"## {title}\n\n{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}\n", flush=True)
    print(f"{LOOKS} looks, at {', '.join(str(len(seeds)) for seeds in LOOK_SEEDS)} seeds; margin {MARGIN}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
