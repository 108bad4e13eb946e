"""The scores of each run beside AUC, with their resamples: read once from its predictions, then kept.

Reading takes ten milliseconds a run, seconds with thousands of images; what it gave is kept, see `kept.Kept`.
"""

import functools
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.analysis.extra_scores import Fitted, extra_scores, fit
from benchmarks.analysis.influence import Floats, units_of_classes
from benchmarks.analysis.kept import FOLDER, Arrays, Kept, load_kept
from benchmarks.analysis.predictions import Predictions, SplitPredictions, Tested
from benchmarks.analysis.resamples import NUM_RESAMPLES, resample_weights

_LAYOUT = "scores-3"  # of the kept files
_LEAST = 1e-300  # of a probability whose logarithm stands for a logit


class RunScores(NamedTuple):
    """What the predictions of a run say about scores.

    images: digest of the test images with their labels and groups; what agrees in it was tested, and resampled, alike.
    values: of `SCORES`, in their order; nan for what validation images would have to tell and cannot.
    resampled: the same of each resample `(NUM_RESAMPLES, len(SCORES))`.
    temperature: that fits the logits of the validation split best; of findings the mean of theirs.
    fewest: units (groups, or images) of the rarest class. num_classes: how many there are.
    """

    images: str
    values: Floats
    resampled: NDArray[np.float32]
    temperature: float
    fewest: int
    num_classes: int


class ScoredPart(NamedTuple):
    """A part of a test split as it is scored.

    part: the images. logits: `(n, C)`, of probabilities their logarithms. fitted: to the same part of validation.
    """

    part: SplitPredictions
    logits: Floats
    fitted: Fitted


class Scored(NamedTuple):
    """The test split of a run as it is scored, over whose parts scores are averaged."""

    test: Tested
    parts: list[ScoredPart]

    def weights(self, num_resamples: int) -> Floats:
        """Those of each image in resamples that all runs tested on it share `(num_resamples, n)`."""
        test = self.test
        return _weights(test.images, test.members.tobytes(), test.units.tobytes(), num_resamples)


@functools.lru_cache(1)  # runs of one place follow each other
def _weights(images: str, members: bytes, units: bytes, num_resamples: int) -> Floats:
    numbers = np.frombuffer(units, np.int64)
    classes = np.frombuffer(members, np.bool_).reshape(len(numbers), -1)
    return resample_weights(classes, numbers, int(images[:15], 16), num_resamples)


def scored(data: bytes) -> Scored:
    """A file of predictions as it is scored.

    Raises:
        UserError: It is not such a file, its test split lacks a class, or no finding of it can be scored.
    """
    predictions = Predictions(data)
    test = predictions.split("test")
    val = {part.finding: part for part in predictions.split("val").parts}

    def logits(part: SplitPredictions) -> Floats:
        return part.values if predictions.are_logits else np.log(np.maximum(part.values, _LEAST))

    parts = []
    for part in test.parts:
        own = val.get(part.finding)
        nothing = fit(np.zeros(0, dtype=np.int64), np.zeros((0, part.values.shape[1])))
        parts.append(ScoredPart(part, logits(part), nothing if own is None else fit(own.labels, logits(own))))
    return Scored(test, parts)


def read_scores(data: bytes) -> RunScores:
    """Scores from the content of a file of predictions; raises what `scored` does."""
    found = scored(data)
    weights = np.concatenate([np.ones((1, len(found.test.units))), found.weights(NUM_RESAMPLES)])
    values = np.mean([part_scores(part, weights) for part in found.parts], axis=0)
    fewest = min(int(units_of_classes(part.labels, part.units).min()) for part, _, _ in found.parts)
    numbers = float(np.mean([part.fitted.temperature for part in found.parts])), fewest, found.parts[0].logits.shape[1]
    return RunScores(found.test.images, values[0], values[1:].astype(np.float32), *numbers)


def part_scores(scored: ScoredPart, weights: Floats) -> Floats:
    """All scores of a part, for weights of all images `(W, n)`: `(W, len(SCORES))`."""
    part, logits, fitted = scored
    positive = 1 if part.finding is not None else None
    return extra_scores(part.labels, logits, weights[:, part.rows], fitted, part.called, positive)


def load_scores(
    results: Path, frame: pd.DataFrame, run_ids: Collection[str] | None = None
) -> tuple[dict[str, RunScores], list[str]]:
    """The scores of finished runs that have predictions.

    Args:
        results: The results root, under which what was read is kept.
        frame: Its runs, as `records.runs_frame` gives them.
        run_ids: Of which; None for all.

    Returns:
        The scores by run id, and one line for each file that cannot be read.
    """
    finished = frame[frame["state"] == "ok"]
    if run_ids is not None:
        finished = finished[finished["run_id"].isin(run_ids)]
    kept = Kept(results / FOLDER, _LAYOUT, _made)
    return load_kept(kept, results, finished, lambda _, arrays: _unpack(arrays))


def _made(data: bytes) -> Arrays:
    scores = read_scores(data)
    return {
        **{"images": np.frombuffer(scores.images.encode(), np.uint8), "values": scores.values},
        **{"resampled": scores.resampled, "temperature": np.array([scores.temperature])},
        **{"fewest": np.array([scores.fewest]), "num_classes": np.array([scores.num_classes])},
    }


def _unpack(stored: Arrays) -> RunScores:
    numbers = float(stored["temperature"][0]), int(stored["fewest"][0]), int(stored["num_classes"][0])
    return RunScores(bytes(stored["images"]).decode(), stored["values"], stored["resampled"], *numbers)
