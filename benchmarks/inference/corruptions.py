"""What may go wrong with an image between scanner and model, at five severities: by torchvision, JPEG by Pillow.

Both are kept up and there anyway. Of the packages made for this, imagecorruptions was last released in 2020 and
its successor brings OpenCV and numba, albumentations is no longer maintained, and medmnistc is pinned to old versions
of scikit-image and medmnist and needs ImageMagick.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from benchmarks.errors import UserError
from benchmarks.images.decode import Pixels, resized

SUITE = "basic"
CLEAN = "clean"  # no corruption, of severity 0
_REFERENCE = 224  # px, of the side at which a blur is stated


class Corruption(NamedTuple):
    """A corruption.

    Attributes:
        values: Its strength at the severities 1 to 5.
        apply: Of pixels `(3, side, side)`, uint8, with a strength and a generator.
    """

    values: tuple[float, ...]
    apply: Callable[[Tensor, float, np.random.Generator], Tensor]


def _brightness(pixels: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    return functional.adjust_brightness(pixels, factor)


def _contrast(pixels: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    return functional.adjust_contrast(pixels, factor)


def _noise(pixels: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """Gaussian, of white; grey pixels stay grey. Not torchvision's, which draws from a state that threads share."""
    is_grey = bool((pixels == pixels[:1]).all())
    drawn = rng.standard_normal((1 if is_grey else 3, *pixels.shape[1:]))
    noisy = np.rint(pixels.numpy() + 255 * deviation * drawn)
    return torch.from_numpy(np.clip(noisy, 0, 255).astype(np.uint8))


def _blur(pixels: Tensor, sigma: float, rng: np.random.Generator) -> Tensor:
    sigma *= pixels.shape[-1] / _REFERENCE
    return functional.gaussian_blur(pixels, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma, sigma])


def _jpeg(pixels: Tensor, quality: float, rng: np.random.Generator) -> Tensor:
    """By Pillow: torchvision is about to give its encoders up."""
    file = io.BytesIO()
    _as_image(pixels.numpy()).save(file, "JPEG", quality=int(quality))
    with Image.open(file) as found:
        return torch.from_numpy(np.array(found).transpose(2, 0, 1))  # (3, side, side)


def _resolution(pixels: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    side = pixels.shape[-1]
    small = functional.resize(pixels, [max(round(share * side), 1)] * 2, antialias=True)
    return functional.resize(small, [side, side], antialias=True)


# Strengths are those of MedMNIST-C for chest X-rays, of resolution for fundus images: Di Salvo, Doerrich, Ledig,
# MedMNIST-C: Comprehensive Benchmark and Improved Classifier Robustness by Simulating Realistic Image Corruptions
# (2024), arXiv:2406.17536. A blur is a share of the side, its sigma that of a kernel of 3 to 11 px at 224 px.
CORRUPTIONS: Mapping[str, Corruption] = {
    "brighter": Corruption((1.1, 1.2, 1.3, 1.4, 1.5), _brightness),
    "darker": Corruption((0.9, 0.8, 0.7, 0.6, 0.5), _brightness),
    "contrast": Corruption((0.9, 0.8, 0.7, 0.6, 0.4), _contrast),
    "noise": Corruption((0.04, 0.08, 0.12, 0.18, 0.26), _noise),
    "blur": Corruption((0.8, 1.1, 1.4, 1.7, 2.0), _blur),
    "jpeg": Corruption((50, 30, 15, 10, 7), _jpeg),
    "resolution": Corruption((0.8, 0.6, 0.5, 0.4, 0.35), _resolution),
}


def check_suite(name: str) -> None:
    """Checks the name of a set of corruptions.

    Raises:
        UserError: It is another than the one there is.
    """
    if name == "medmnist-c":
        raise UserError(
            f"corruptions must be {SUITE}, got 'medmnist-c': its package medmnistc 0.1.0 is pinned to scikit-image "
            f"0.23.2 and medmnist 3.0.1 and needs ImageMagick, so it cannot be used here; {SUITE} has the strengths "
            "that it gives chest X-rays"
        )
    if name != SUITE:
        raise UserError(f"corruptions must be {SUITE}, got {name!r}")


def conditions() -> Iterator[tuple[str, int]]:
    """Every corruption at every severity, before them what is clean."""
    yield CLEAN, 0
    for name, corruption in CORRUPTIONS.items():
        for severity in range(1, len(corruption.values) + 1):
            yield name, severity


def settings() -> dict[str, Any]:
    """What was done, for records."""
    return {"suite": SUITE, "values": {name: list(corruption.values) for name, corruption in CORRUPTIONS.items()}}


def corrupted(views: Mapping[str, Pixels], image: str, name: str, severity: int) -> dict[str, Pixels]:
    """Views of an image after a corruption: that of the largest, from which smaller ones are made.

    It depends on the name of the image, the corruption and the severity alone: not on other images, nor on their order.

    Args:
        views: By name, `(3, side, side)` each.
        image: What the image is called.
        name: Of `CORRUPTIONS`, or `CLEAN`.
        severity: 1 to 5; with 0 the views are what they were.
    """
    if severity == 0:
        return dict(views)
    largest = max(views.values(), key=lambda pixels: pixels.shape[-1])
    corruption = CORRUPTIONS[name]
    seed = hashlib.sha256("\0".join([image, name, str(severity)]).encode(errors="surrogateescape")).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:16]))
    found = corruption.apply(torch.from_numpy(largest), corruption.values[severity - 1], rng).contiguous().numpy()
    whole = _as_image(found)
    return {
        view: found if pixels.shape == largest.shape else resized(whole, [pixels.shape[-1]])[0]
        for view, pixels in views.items()
    }


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))  # (side, side, 3)
