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
from benchmarks.analysis.kept import FOLDER, Arrays, Kept, not_theirs
from benchmarks.analysis.predictions import Predictions, SplitPredictions
from benchmarks.analysis.resamples import NUM_RESAMPLES, resample_weights
from benchmarks.records.record import predictions_path

_LAYOUT = "scores-2"  # of the kept files
_LEAST = 1e-300  # of a probability whose logarithm stands for a logit


class RunScores(NamedTuple):
    """What the predictions of a run say about scores.

    images: digest of the test images with their labels and groups; what agrees in it was tested, and resampled, alike.
    values: of `SCORES`, in their order; nan for what validation images would have to tell and cannot.
    resampled: the same of each resample `(NUM_RESAMPLES, len(SCORES))`.
    temperature: that fits the logits of the validation split best.
    fewest: units (groups, or images) of the rarest class.
    """

    images: str
    values: Floats
    resampled: NDArray[np.float32]
    temperature: float
    fewest: int


class Scored(NamedTuple):
    """The test split of a run as it is scored.

    logits: `(n, C)`, of probabilities their logarithms. images: see `RunScores`. fitted: to the validation split.
    """

    test: SplitPredictions
    logits: Floats
    images: str
    fitted: Fitted

    def weights(self, num_resamples: int) -> Floats:
        """Those of each image in resamples that all runs tested on it share `(num_resamples, n)`."""
        labels, units = (part.tobytes() for part in (self.test.labels, self.test.units))
        return _weights(self.images, labels, units, num_resamples)


@functools.lru_cache(1)  # runs of one place follow each other
def _weights(images: str, labels: bytes, units: bytes, num_resamples: int) -> Floats:
    seed = int(images[:15], 16)
    return resample_weights(np.frombuffer(labels, np.int64), np.frombuffer(units, np.int64), seed, num_resamples)


def scored(data: bytes) -> Scored:
    """A file of predictions as it is scored.

    Raises:
        UserError: It is not such a file, or its test split lacks a class.
    """
    predictions = Predictions(data)
    test, val = predictions.split("test"), predictions.split("val")
    images = predictions.digest(test)
    if not predictions.are_logits:
        test, val = (part._replace(values=np.log(np.maximum(part.values, _LEAST))) for part in (test, val))
    return Scored(test, test.values, images, fit(val.labels, val.values))


def read_scores(data: bytes) -> RunScores:
    """Scores from the content of a file of predictions; raises what `scored` does."""
    found = scored(data)
    labels = found.test.labels
    own, resampled = (
        extra_scores(labels, found.logits, weights, found.fitted)
        for weights in (np.ones((1, len(labels))), found.weights(NUM_RESAMPLES))
    )
    fewest = int(units_of_classes(labels, found.test.units).min())
    return RunScores(found.images, own[0], resampled.astype(np.float32), found.fitted.temperature, fewest)


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
    found, problems = {}, []
    finished = frame.loc[frame["state"] == "ok", ["run_id", "predictions_sha256"]].drop_duplicates("run_id")
    with Kept(results / FOLDER, _LAYOUT, _made) as kept:
        for run_id, digest in finished.to_numpy():
            if run_ids is not None and run_id not in run_ids:
                continue
            path = predictions_path(results, run_id)
            try:
                found[run_id] = _unpack(kept.of(path, None if pd.isna(digest) else digest))
            except FileNotFoundError:
                continue
            except ValueError as error:
                problems.append(not_theirs(path, error))
    return found, problems


def _made(data: bytes) -> Arrays:
    scores = read_scores(data)
    return {
        **{"images": np.frombuffer(scores.images.encode(), np.uint8), "values": scores.values},
        **{"resampled": scores.resampled, "temperature": np.array([scores.temperature])},
        "fewest": np.array([scores.fewest]),
    }


def _unpack(stored: Arrays) -> RunScores:
    numbers = float(stored["temperature"][0]), int(stored["fewest"][0])
    return RunScores(bytes(stored["images"]).decode(), stored["values"], stored["resampled"], *numbers)
