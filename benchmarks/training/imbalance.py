"""Classes of unequal sizes: weights in the loss, drawing every class alike, or logits adjusted by how common it is."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.config import Imbalance, LossName
from benchmarks.tasks import TASKS
from benchmarks.training.step import Loss


def make_loss(
    imbalance: Imbalance, labels: NDArray[np.int64], num_classes: int, device: torch.device, name: LossName
) -> Loss:
    """The loss of a batch's logits `(B, C)` and class indices `(B,)`; the named one unless asked otherwise.

    What is asked for is of cross-entropy.

    `class_weights`: an image counts n / (C n_c), with n_c of n training images of its class, and the mean is weighted.
    `logit_adjustment`: cross-entropy of logits to which the logarithm of n_c / n is added, tau being 1; validation and
    test take the logits as they are.

    Args:
        imbalance: What is asked for.
        labels: Of all training images `(n,)`; every class occurs.
        num_classes: C.
        device: Where logits lie.
        name: Of the loss.

    Source: King, Zeng, Political Analysis 9 (2001), 137-163 (weights); Menon et al., ICLR 2021, equation 10.
    """
    if imbalance not in ("class_weights", "logit_adjustment"):
        return TASKS[name].loss
    shares = _shares(labels, num_classes).float().to(device)
    if imbalance == "class_weights":
        return partial(F.cross_entropy, weight=1 / (num_classes * shares))
    return partial(_adjusted, offsets=shares.log())


def drawing_weights(imbalance: Imbalance, labels: NDArray[np.int64], num_classes: int) -> Tensor | None:
    """How likely each training image is drawn `(n,)`, so that all classes are alike; None for each once an epoch."""
    if imbalance != "balanced_sampling":
        return None
    return 1 / (num_classes * len(labels) * _shares(labels, num_classes)[torch.from_numpy(labels)])


def _adjusted(logits: Tensor, labels: Tensor, offsets: Tensor) -> Tensor:
    return F.cross_entropy(logits + offsets, labels)


def _shares(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """The share of each class `(C,)`."""
    counts = torch.bincount(torch.from_numpy(labels), minlength=num_classes)
    return counts.double() / counts.sum()
