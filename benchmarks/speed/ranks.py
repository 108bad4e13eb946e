"""How often tests over datasets find what is not there: Friedman's chi-square, Iman and Davenport's F, signed ranks.

    python -m benchmarks.speed.ranks [--draws 4000]

Scores of methods that are equal are drawn anew each time. Size: the share of draws with p at or under 0.05. Coverage:
the share of intervals of the Hodges-Lehmann median that hold the true one, whatever the differences are spread like.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.ranks import iman_davenport, signed_rank
from benchmarks.bounds import positive

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

SHAPES: dict[str, Draw] = {
    "normal": lambda rng, num: rng.normal(size=num),
    "t, 3 degrees": lambda rng, num: rng.standard_t(3, num),
    "exponential": lambda rng, num: rng.exponential(size=num),
}


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=positive, default=4_000, metavar="N", help="for each line (default: 4000)")
    draws = parser.parse_args(arguments).draws
    for rows in (sizes_of_ranks(draws), sizes_of_signed_ranks(draws)):
        print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True), end="\n\n")
    return 0


def sizes_of_ranks(draws: int) -> Iterator[dict[str, Any]]:
    """Of methods that are equal, how often each test says that they are not."""
    for num_methods in (3, 4, 7):
        for num_rows in (2, 3, 5, 8, 20):
            rng = np.random.default_rng([num_methods, num_rows])
            drawn = rng.normal(size=(draws, num_rows, num_methods))
            tested = [iman_davenport(scores, num_orders=2_000) for scores in drawn]
            of_f = stats.f.sf([f for f, _ in tested], num_methods - 1, (num_methods - 1) * (num_rows - 1))
            yield {
                "methods": num_methods,
                "datasets": num_rows,
                "Friedman, chi-square": _share([stats.friedmanchisquare(*scores.T).pvalue for scores in drawn]),
                "Iman-Davenport, F distribution": _share(of_f),
                "Iman-Davenport, permutation (ours)": _share([p for _, p in tested]),
            }


def sizes_of_signed_ranks(draws: int) -> Iterator[dict[str, Any]]:
    """Of a method against another, how often p and interval are wrong."""
    for name, draw in SHAPES.items():
        pairs = draw(np.random.default_rng(1), 2_000_000).reshape(2, -1)
        truth = float(np.median(pairs.mean(axis=0)))  # what the Hodges-Lehmann estimate estimates
        for num in (5, 6, 8, 12, 20):
            rng = np.random.default_rng(num)
            found = [signed_rank(draw(rng, num) - truth) for _ in range(draws)]
            held = [test.low <= 0 <= test.high for test in found if test.low is not None and test.high is not None]
            yield {
                "differences": name,
                "datasets": num,
                "size": _share([test.p for test in found]),
                "coverage": f"{np.mean(held):.3f}" if held else "no interval",
            }


def _share(p_values: Sequence[float]) -> str:
    return f"{np.mean(np.array(p_values) <= LEVEL):.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
