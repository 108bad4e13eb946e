"""Whether the classes can be told by what is no disease: size and type of the file, or marks at the edge of the image.

A logistic regression is trained on these alone and tested on other training images (five folds, by patient where
patients are known). It sees no validation or test image.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.check.look import SIDE
from benchmarks.check.survey import File, Survey

HIGH = 0.8  # AUC of a class from which on something is said
LEAST = 30  # patients, or else images, of a class, and of all others; noise then reached 0.76 at most in 300 trials
EDGE = 2  # pixels of a thumbnail
_MOST = 1000  # images
_FOLDS = 5
_SIZES = 20  # of an image, which are told apart


def probes(found: Survey) -> dict[str, tuple[str, float]]:
    """The class that is told best, and its AUC, from `file` (size and type), `edge` and `whole` (thumbnails).

    Empty where there are too few images to say.
    """
    train = [file for file in found.images if file.split == "train"]
    if len(train) > _MOST:
        train = [train[place] for place in np.random.default_rng(0).permutation(len(train))[:_MOST]]
    labels = [file.label for file in train]
    groups = [row.group if (row := found.manifest.get(file.path)) and row.group else file.path for file in train]
    per_class = {name: len({g for g, other in zip(groups, labels, strict=True) if other == name}) for name in labels}
    many = {name for name, number in per_class.items() if number >= LEAST}
    if len(many) < 2:
        return {}
    thumbnails = np.stack([file.look.thumbnail for file in train if file.look]) / 255  # (n, 3, SIDE, SIDE)
    edge = np.ones((SIDE, SIDE), bool)
    edge[EDGE:-EDGE, EDGE:-EDGE] = False
    features = {
        "file": _of_files(train),
        "edge": thumbnails[:, :, edge].reshape(len(train), -1),
        "whole": thumbnails.reshape(len(train), -1),
    }
    aucs = {name: _aucs(values, np.array(labels), np.array(groups)) for name, values in features.items()}
    best = {name: max(many & found.keys(), key=lambda key: found[key]) for name, found in aucs.items()}
    return {name: (key, aucs[name][key]) for name, key in best.items()}


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


def _aucs(features: NDArray[np.float64], labels: NDArray[np.str_], groups: NDArray[np.str_]) -> dict[str, float]:
    """AUC of each class against all others, over images that the regression was not trained on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = np.unique(labels)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    aucs = {}
    for name in classes:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
        scores = cross_val_predict(model, features, labels == name, groups=groups, cv=folds, method="decision_function")
        aucs[str(name)] = float(roc_auc_score(labels == name, scores))
    return aucs
