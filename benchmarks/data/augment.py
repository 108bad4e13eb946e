"""From stored uint8 views to a model's inputs: augmentation and normalisation of whole batches, on the device."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FLIP = 0.5
JITTER = 0.2
SCALE = (0.8, 1.0)
RATIO = (0.7, 1.3)
TRIES = 10  # crops drawn for an image until one fits into it, as torchvision does
CPU_CHUNK_BYTES = 2**20  # of images augmented at a time on a CPU, so that they stay in its cache
GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


class Augmentation(NamedTuple):
    """What happens to each image of a batch; tensors `(B,)` on the CPU.

    Attributes:
        flip: Whether it is mirrored, before all else.
        brightness: Factor of all pixels.
        contrast: Factor of the pixels' distance from the image's mean grey value.
        top: First row of the crop; between pixels where it was drawn for another size.
        left: First column of the crop.
        height: Rows of the crop.
        width: Columns of the crop.
    """

    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def resized(self, factor: float) -> "Augmentation":
        """The same for images of `factor` times the side: their crops show the same part of the image."""
        edges = {name: getattr(self, name) * factor for name in ("top", "left", "height", "width")}
        return self._replace(**edges)


def draw_for_views(num_images: int, sides: Mapping[str, int]) -> dict[str, Augmentation]:
    """Draws one augmentation for each image and gives it to each of its views, at the view's own size.

    Args:
        num_images: Number B of images.
        sides: Side length of each view by name; the crop is of whole pixels in the largest.
    """
    if not sides:
        return {}
    largest = max(sides.values())
    drawn = draw_augmentation(num_images, largest)
    return {name: drawn.resized(side / largest) for name, side in sides.items()}


def draw_augmentation(num_images: int, side: int) -> Augmentation:
    """Draws the FPT papers' augmentation for a batch, from torch's global CPU generator whatever the device.

    Horizontal flip with probability 0.5, brightness and contrast jitter 0.2, random resized crop of 0.8-1 of the area
    at an aspect ratio of 0.7-1.3: distributed as in torchvision, but that brightness always comes before contrast (the
    order matters only where pixels are clipped).

    Args:
        num_images: Number B of images.
        side: Their side length.
    """
    draws = torch.rand(5 + 2 * TRIES, num_images, dtype=torch.float64)
    flip, brightness, contrast, vertical, horizontal = draws[:5]
    area = side**2 * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[5 : 5 + TRIES])  # (TRIES, B)
    log_ratio = math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * draws[5 + TRIES :]
    widths = (area * log_ratio.exp()).sqrt().round()
    heights = (area / log_ratio.exp()).sqrt().round()
    fits = (widths <= side) & (heights <= side)
    first = fits.int().argmax(dim=0, keepdim=True)  # (1, B)
    found = fits.any(dim=0)  # else the whole image
    width = torch.where(found, widths.gather(0, first)[0], side)
    height = torch.where(found, heights.gather(0, first)[0], side)
    return Augmentation(
        flip=flip < FLIP,
        brightness=1 - JITTER + 2 * JITTER * brightness,
        contrast=1 - JITTER + 2 * JITTER * contrast,
        top=(vertical * (side - height + 1)).floor(),
        left=(horizontal * (side - width + 1)).floor(),
        height=height,
        width=width,
    )


def apply_augmentation(images: Tensor, augmentation: Augmentation, grey: Tensor) -> Tensor:
    """Augments a batch in place; torchvision's functions, one image after the other, differ by less than 1e-4.

    A crop is never larger than the square that it is stretched to, so that antialiasing has nothing to do.

    Shape:
        - images: `(B, 3, S, S)` in 0-1
        - grey: `(3,)`, `GREY` on their device
        - Output: the same, augmented
    """
    numbers = torch.stack([values.float() for values in augmentation])  # (7, B), for one transfer
    if images.device.type == "cuda":
        numbers = numbers.pin_memory()  # so that the host need not wait
    numbers = numbers.to(images.device, non_blocking=True)
    size = len(images)
    if images.device.type == "cpu":
        size = max(1, CPU_CHUNK_BYTES // images[0].nbytes)
    for part, of_part in zip(images.split(size), numbers.split(size, dim=1), strict=True):
        part.copy_(_augmented(part, of_part, grey))
    return images


def _augmented(images: Tensor, numbers: Tensor, grey_weights: Tensor) -> Tensor:
    flip, brightness, contrast, top, left, height, width = numbers
    images = (images * brightness.view(-1, 1, 1, 1)).clamp_(0, 1)
    grey = images.mean(dim=(2, 3)) @ grey_weights  # (B,)
    images = images.mul_(contrast.view(-1, 1, 1, 1)).add_(((1 - contrast) * grey).view(-1, 1, 1, 1)).clamp_(0, 1)
    side = images.shape[-1]
    columns = _sampled(left, width, side)  # (B, S), of the mirrored image
    columns = torch.where(flip[:, None] > 0, side - 1 - columns, columns)
    rows = _sampled(top, height, side)
    x, y = (positions * (2 / (side - 1)) - 1 for positions in (columns, rows))  # grid_sample's -1 to 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)  # (B, S, S, 2)
    return F.grid_sample(images, grid, mode="bilinear", align_corners=True)


def _sampled(start: Tensor, length: Tensor, side: int) -> Tensor:
    """Where each output pixel lies along one axis, in pixels of the input `(B, S)`; never outside the crop."""
    steps = torch.arange(side, device=start.device) + 0.5
    inside = steps * (length[:, None] / side) - 0.5
    return start[:, None] + inside.clamp(min=0).minimum(length[:, None] - 1)


def _to_float(images: Tensor) -> Tensor:
    """A float32 copy. On a CPU in numpy's memory, which comes in huge pages: four times as fast as torch's own."""
    if images.device.type != "cpu":
        return images.float()
    return torch.from_numpy(np.empty(images.shape, np.float32)).copy_(images)


class Preprocessing:
    """Augments (in training) and normalises batches of uint8 images.

    Args:
        mean: Of each channel, in 0-1.
        std: Of each channel.
        device: Where batches lie.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.mean = torch.tensor(mean, device=device).view(3, 1, 1)
        self.std = torch.tensor(std, device=device).view(3, 1, 1)
        self.grey = torch.tensor(GREY, device=device)

    def __call__(self, images: Tensor, augmentation: Augmentation | None = None) -> Tensor:
        """Prepares a batch, augmented where `augmentation` says how.

        Shape:
            - images: `(B, 3, S, S)` uint8
            - Output: `(B, 3, S, S)` float32
        """
        pixels = _to_float(images).div_(255)
        if augmentation is not None:
            pixels = apply_augmentation(pixels, augmentation, self.grey)
        return pixels.sub_(self.mean).div_(self.std)
