"""How often the 95 % intervals of scores beside AUC hold the truth, which is simulated.

    python -m benchmarks.speed.scores [--draws 200]

Two classes, 30 % positive. Logits have a part that all seeds share, one of their own, and a skill that training draws
anew. The truth is the mean over test splits of as many images and, from two seeds, over trainings; of one seed it is
that of its skill. `plug-in` is the truth for a calibration error of no finite test split, from very many images.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.analysis.extra_scores import SCORES, extra_scores, fit
from benchmarks.analysis.influence import Floats, Integers
from benchmarks.analysis.resamples import resample_weights
from benchmarks.analysis.run_scores import RunScores
from benchmarks.analysis.score_intervals import score_interval
from benchmarks.bounds import positive

SKILL = 1.4
SHARED = 0.5  # of the variance of a logit, by all seeds
NAMES = ("auprc", "partial_auc", "mcc", "balanced_accuracy", "brier", "ece")
_FITTED = fit(np.zeros(0, dtype=np.int64), np.zeros((0, 2)))  # to no validation images
_MANY = 20_000


def main(arguments: list[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=positive, default=200, metavar="N", help="for each line (default: 200)")
    rows = []
    for row in coverages(parser.parse_args(arguments).draws):
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    return 0


def coverages(draws: int) -> Iterator[dict[str, Any]]:
    """Of each setting the shares of intervals that hold the truth."""
    for num_images, images_a_patient in ((50, 1), (200, 1), (200, 4)):
        for num_seeds, spread in ((1, 0.0), (3, 0.3)):
            rng = np.random.default_rng([num_images, images_a_patient, num_seeds, int(10 * spread)])
            labels, units = _split(num_images, images_a_patient)
            truths = {size: _truth(*_split(size, images_a_patient), spread) for size in (num_images, _MANY)}
            weights = resample_weights(labels[:, None] == np.arange(labels.max() + 1), units, 0)
            found = [_held(labels, units, weights, num_seeds, spread, truths[num_images], rng) for _ in range(draws)]
            held = dict(zip(NAMES, np.mean([each for each, _ in found], axis=0), strict=True))
            exact = truths[_MANY][NAMES.index("ece")]
            plug_in = float(np.mean([low <= exact <= high for _, (low, high) in found]))
            yield {
                **{"images": num_images, "a patient": images_a_patient, "seeds": num_seeds, "SD of skill": spread},
                **{SCORES[name].title: f"{100 * share:.1f} %" for name, share in held.items()},
                "ECE, plug-in": f"{100 * plug_in:.1f} %",
            }


def _split(num_images: int, images_a_patient: int) -> tuple[Integers, Integers]:
    """Labels and patients, all of whose images are of one class."""
    units = np.arange(num_images) // images_a_patient
    return (units % 10 < 3).astype(np.int64), units


def _logits(labels: Integers, units: Integers, skills: Floats, rng: np.random.Generator) -> Floats:
    """Of each seed `(S, n, 2)`; what the seeds share is half of a patient's and half of an image's."""
    of_patients = rng.normal(size=int(units.max()) + 1)[units]
    shared = np.sqrt(SHARED / 2) * (of_patients + rng.normal(size=len(labels)))
    own = np.sqrt(1 - SHARED) * rng.normal(size=(len(skills), len(labels)))
    scores = skills[:, None] * (2 * labels - 1) / 2 + shared + own
    odds = 1.5 * scores - 0.5  # somewhat too sure, and shifted
    return np.stack([np.zeros_like(odds), odds], axis=2)


def _scores(labels: Integers, logits: Floats, weights: Floats) -> Floats:
    return extra_scores(labels, logits, weights, _FITTED)


def _truth(labels: Integers, units: Integers, spread: float) -> Floats:
    """The mean of each of `NAMES` over many splits and trainings `(len(NAMES),)`."""
    rng = np.random.default_rng(7)
    times = max(100_000 // len(labels), 20)
    skills = SKILL + spread * stats.norm.ppf((np.arange(times) + 0.5) / times)
    places = [list(SCORES).index(name) for name in NAMES]
    ones = np.ones((1, len(labels)))
    each = [_scores(labels, _logits(labels, units, skill[None], rng)[0], ones)[0] for skill in skills]
    return np.asarray(np.mean(each, axis=0)[places])


def _held(
    labels: Integers,
    units: Integers,
    weights: Floats,
    num_seeds: int,
    spread: float,
    truth: Floats,
    rng: np.random.Generator,
) -> tuple[list[bool], tuple[float, float]]:
    """Whether the interval of each of `NAMES` holds the truth, and that of the calibration error."""
    skills = SKILL + spread * rng.normal(size=num_seeds)
    rows = np.concatenate([np.ones((1, len(labels))), weights])
    scored = [_scores(labels, logits, rows) for logits in _logits(labels, units, skills, rng)]
    fewest = len(np.unique(units[labels == 1]))
    runs = [RunScores("", each[0], each[1:].astype(np.float32), 1.0, fewest, 2) for each in scored]
    intervals = {name: found for name in NAMES if (found := score_interval(name, runs))}
    held = [found.low <= value <= found.high for found, value in zip(intervals.values(), truth, strict=True)]
    return held, (intervals["ece"].low, intervals["ece"].high)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
