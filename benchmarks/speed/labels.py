"""How often the interval of the number of labels at which one method overtakes another holds the true number.

    python -m benchmarks.speed.labels [--trials 300] [--workers 2]

Two methods at 20, 80, 320 and 1280 training labels, scored on the same test images as in `benchmarks.speed.claims`: the
one gains the more from labels and is ahead from some number on. Straight: the true AUCs lie on straight lines over the
logarithm between these numbers, as the interval assumes; bent: on power laws, so that the true crossing is not where
the lines' is. Equal methods cross nowhere: any end of an interval says that they differ there, which is false.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize

from benchmarks.analysis.label_curves import crossing
from benchmarks.bounds import positive
from benchmarks.speed.claims import Scene, draw, each_evidence

SIZES = (20, 80, 320, 1280)
_FLAT = (0.78, 0.80, 0.82, 0.84)
_STEEP = (0.68, 0.76, 0.84, 0.90)
_SEED = 11


class Race(NamedTuple):
    """Two methods whose AUCs at each size are true, and from how many labels on the first is ahead."""

    shape: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    truth: float | None


def main(arguments: list[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive, default=300, metavar="N", help="for each line (default: 300)")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="processes (default: 2)")
    args = parser.parse_args(arguments)
    with ProcessPoolExecutor(args.workers) as pool:
        rows = list(pool.map(partial(row_of, trials=args.trials), *zip(*scenes(), strict=True)))
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    return 0


def races() -> Iterator[Race]:
    """The true curves."""
    logs = np.log(SIZES)
    gap = np.subtract(_STEEP, _FLAT)
    share = gap[1] / (gap[1] - gap[2])
    yield Race("straight", _STEEP, _FLAT, float(np.exp((1 - share) * logs[1] + share * logs[2])))
    yield Race("bent", _power(0.95, 0.9), _power(0.86, 0.25), float(optimize.brentq(_power_gap, 20, 1280)))
    yield Race("equal", _FLAT, _FLAT, None)


def _power(limit: float, lost: float) -> tuple[float, ...]:
    return tuple(limit - lost * size**-0.4 for size in SIZES)


def _power_gap(size: float) -> float:
    return float((0.95 - 0.9 * size**-0.4) - (0.86 - 0.25 * size**-0.4))


def scenes() -> Iterator[tuple[Race, Scene]]:
    """A line each."""
    for race in races():
        aucs = tuple(auc for pair in zip(race.first, race.second, strict=True) for auc in pair)
        for num_images in (200, 1000):
            for num_seeds, seed_sd in ((1, 0.0), (3, 0.01), (3, 0.02), (5, 0.02), (10, 0.02)):
                yield race, Scene(num_images, 0.3, num_seeds, seed_sd, aucs)


def row_of(race: Race, scene: Scene, trials: int) -> dict[str, Any]:
    """A line of the table."""
    rng = np.random.default_rng([_SEED, scene.num_images, scene.num_seeds, round(1000 * scene.seed_sd)])
    found = [crossed for _ in range(trials) if (crossed := _trial(scene, rng)) is not None]
    lows, highs = (np.array([getattr(one, end) for one in found], dtype="float64") for end in ("low", "high"))
    ended = ~np.isnan(lows) | ~np.isnan(highs)
    truth = race.truth
    names = {
        "curves": race.shape,
        "test images": scene.num_images,
        "seeds": scene.num_seeds,
        "SD over seeds": f"{scene.seed_sd:.2f}",
        "true crossing": "–" if truth is None else f"{truth:.0f}",
        "crossings shown": _share(len(found), trials),
    }
    if truth is None:
        return names | {"held": "–", "median": "–", "both ends": "–", "any end": _share(int(ended.sum()), trials)}
    held = [one.ahead == "first" and not (one.low or 0) > truth and not truth > (one.high or np.inf) for one in found]
    both = ~np.isnan(lows) & ~np.isnan(highs)
    return names | {
        "held": _share(sum(held), len(found)),
        "median": f"{np.median([one.labels for one in found]):.0f}" if found else "–",
        "both ends": _share(int(both.sum()), len(found)),
        "any end": _share(int(ended.sum()), len(found)),
    }


def _trial(scene: Scene, rng: np.random.Generator) -> Any:
    labels, _, scores = draw(scene, rng, num_methods=2 * len(SIZES))
    cells = [dict(enumerate(each_evidence(labels, method))) for method in scores]
    first, second = (dict(zip(SIZES, cells[side::2], strict=True)) for side in (0, 1))
    return crossing(first, second, "first", "second")


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of else "–"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
