"""Whether a map means anything: insertion and deletion curves (Petsiuk et al., RISE, BMVC 2018, arXiv 1806.07421).

Deletion hides an image's patches one after another, the highest of the map first: the sooner the probability falls, the
smaller the area under its curve, the better the map. Insertion shows them one after another on the blurred image: the
larger the area, the better. What is hidden is the dataset's mean in deletion, the blurred image in insertion.

An area alone says little: a model may lose a class by losing any patch. Beside a map's areas stand those of a random
order, and of patches by their distance from the centre, where most that matters lies in most medical images.
"""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from benchmarks.inference.maps.occlusion import log_probabilities
from benchmarks.inference.maps.patches import Views
from benchmarks.inference.trained import TrainedModel

CURVES = ("deletion", "insertion")
ORDERS = ("map", "random", "centre")
_BLUR = 5 / 224  # of the side: RISE's

Curve = Literal["deletion", "insertion"]
Curves = dict[tuple[str, str], NDArray[np.float64]]  # by curve and order: the probability at each of `fractions`


def curves_of(model: TrainedModel, views: Views, values: Tensor, target: int, steps: int, seed: int) -> Curves:
    """All curves of an image.

    Args:
        model: The model.
        views: Of the image.
        values: Its map `(h, w)`.
        target: The class whose probability is followed.
        steps: How many times something is hidden or shown.
        seed: Of the random order, and of the order of equal values.
    """
    rng = np.random.default_rng(seed)
    ranked = {
        "map": ranks(values.double().numpy(), rng),
        "random": ranks(np.zeros(values.shape), rng),
        "centre": ranks(centred(*values.shape), rng),
    }
    blurred = {name: _blurred(view) for name, view in views.items()}
    found: Curves = {}
    for order, places in ranked.items():
        first = torch.from_numpy(places[None, None] < (fractions(steps) * places.size)[:, None, None, None])
        first = first.to(model.device)  # (steps + 1, 1, h, w): what comes before each step
        for curve, hidden, canvas in (("deletion", first, None), ("insertion", ~first, blurred)):
            logs = log_probabilities(model, views, hidden, canvas)[:, target]
            found[curve, order] = logs.double().exp().cpu().numpy()
    return found


def fractions(steps: int) -> NDArray[np.float64]:
    """Of the patches: `(steps + 1,)`, from none to all."""
    return np.linspace(0, 1, steps + 1)


def area(curve: NDArray[np.float64]) -> float:
    """Under a curve over `fractions`, by trapezoids: from 0 to 1."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def ranks(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The place of each value of `(h, w)` from the highest on, from 0; equal ones in random order."""
    order = np.lexsort((rng.random(values.size), -values.ravel()))
    places = np.empty(values.size, dtype=np.int64)
    places[order] = np.arange(values.size)
    return places.reshape(values.shape)


def centred(height: int, width: int) -> NDArray[np.float64]:
    """Minus the distance of each patch from the centre, `(h, w)`, of a square image of side 1."""
    y, x = (np.arange(number) / number + 0.5 / number - 0.5 for number in (height, width))
    return -np.hypot(y[:, None], x[None, :])


def _blurred(view: Tensor) -> Tensor:
    sigma = _BLUR * view.shape[-1]
    blurred: Tensor = gaussian_blur(view, 2 * math.ceil(2 * sigma) + 1, sigma)
    return blurred
