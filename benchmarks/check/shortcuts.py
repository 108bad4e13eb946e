"""Whether classes or findings are told by what is no disease: size and type of the file, or marks at the edge.

A logistic regression is trained on these alone and tested on other training images (five folds, by patient where
patients are known). It sees no validation or test image.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.check.look import SIDE
from benchmarks.check.survey import File, Survey

Told = dict[str, dict[str, float]]  # by what is looked at, and by class or finding, an AUC

HIGH = 0.8  # AUC of a class from which on something is said
LEAST = 30  # patients, or else images, of a class, and of all others; noise then reached 0.76 at most in 300 trials
EDGE = 2  # pixels of a thumbnail
_MOST = 500  # images of a class, and of all others
_FOLDS = 5
_SIZES = 20  # of an image, which are told apart


def probes(found: Survey) -> Told:
    """How well each class, or finding, is told from `file` (size and type), `edge` and `whole` (thumbnails).

    A finding is told among the images of which it is known. There is nothing of those with too few images to say, and
    nothing at all where that is all of them.
    """
    train = [file for file in found.images if file.split == "train"]
    told: Told = {"file": {}, "edge": {}, "whole": {}}
    for name in found.classes:
        chosen = _chosen(found, train, name)
        if not chosen:
            continue
        with_it = np.array([found.says(file, name) is True for file in chosen])
        units = np.array([found.groups.get(file.path, file.path) for file in chosen])
        for what, values in _features(chosen).items():
            told[what][name] = _auc(values, with_it, units)
    return told if told["file"] else {}


def _chosen(found: Survey, train: Sequence[File], name: str) -> list[File]:
    """Training images of a class or with a finding, and others, so many of each at most; none where either are few."""
    chosen = []
    for side in (True, False):
        files = [file for file in train if found.says(file, name) is side]
        if len({found.groups.get(file.path, file.path) for file in files}) < LEAST:
            return []
        places = np.random.default_rng(0).permutation(len(files))[:_MOST]
        chosen += [files[place] for place in sorted(places)]
    return chosen


def _features(files: Sequence[File]) -> dict[str, NDArray[np.float64]]:
    thumbnails = np.stack([file.look.thumbnail for file in files if file.look]) / 255  # (n, 3, SIDE, SIDE)
    edge = np.ones((SIDE, SIDE), bool)
    edge[EDGE:-EDGE, EDGE:-EDGE] = False
    return {
        "file": _of_files(files),
        "edge": thumbnails[:, :, edge].reshape(len(files), -1),
        "whole": thumbnails.reshape(len(files), -1),
    }


def _of_files(files: Sequence[File]) -> NDArray[np.float64]:
    """Width, height and their ratio, and which of the commonest sizes, modes and suffixes: (n, features)."""
    facts = [file.facts for file in files if file.facts]
    sizes = np.log([[one.width, one.height, one.width / one.height] for one in facts])
    columns = [sizes]
    for kind in (
        [(one.width, one.height) for one in facts],
        [one.mode for one in facts],
        [file.path.rpartition("/")[2].rpartition(".")[2].lower() if "." in file.path else "" for file in files],
    ):
        common = [value for value, _ in Counter(kind).most_common(_SIZES)]
        columns.append(np.array([[value == other for other in common] for value in kind], float))
    return np.concatenate(columns, axis=1)


def _auc(features: NDArray[np.float64], with_it: NDArray[np.bool_], units: NDArray[np.str_]) -> float:
    """AUC over images that the regression was not trained on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
    scores = cross_val_predict(model, features, with_it, groups=units, cv=folds, method="decision_function")
    return float(roc_auc_score(with_it, scores))
