"""From stored uint8 views to a model's inputs: augmentation and normalisation, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2


def make_augmentation(side: int) -> v2.Compose:
    """The FPT papers' augmentation of one image `(3, side, side)`.

    Horizontal flip with probability 0.5, brightness and contrast jitter 0.2, random resized crop of 0.8-1 of the area
    at an aspect ratio of 0.7-1.3.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
            v2.RandomResizedCrop(side, scale=(0.8, 1.0), ratio=(0.7, 1.3), antialias=True),
        ]
    )


class Preprocessing:
    """Augments (in training) and normalises batches of uint8 images.

    Random numbers come from torch's global CPU generator, one draw an image.

    Args:
        mean: Of each channel, in 0-1.
        std: Of each channel.
        device: Where batches lie.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.mean = torch.tensor(mean, device=device).view(3, 1, 1)
        self.std = torch.tensor(std, device=device).view(3, 1, 1)

    def __call__(self, images: Tensor, augment: bool) -> Tensor:
        """Prepares a batch.

        Shape:
            - images: `(B, 3, H, W)` uint8
            - Output: `(B, 3, H, W)` float32
        """
        if augment:
            augmentation = make_augmentation(images.shape[-1])
            images = torch.stack([augmentation(image) for image in images])
        return (images.float() / 255 - self.mean) / self.std
