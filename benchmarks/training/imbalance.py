"""Classes or findings of unequal sizes: weights in the loss, drawing all alike, or logits adjusted by their shares."""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.config import Imbalance, LossName
from benchmarks.tasks import TASKS, masked_bce
from benchmarks.training.step import Loss


def make_loss(
    imbalance: Imbalance, labels: NDArray[Any], num_classes: int, device: torch.device, name: LossName
) -> Loss:
    """The loss of a batch's logits `(B, C)` and class indices `(B,)`; the named one unless asked otherwise.

    What is asked for is of cross-entropy, or of findings: each is a task of two classes, with it and without it, over
    the n images of which it is known.

    `class_weights`: an image counts n / (C n_c), with n_c of n training images of its class, and the mean is weighted.
    `logit_adjustment`: cross-entropy of logits to which the logarithm of n_c / n is added, tau being 1; validation and
    test take the logits as they are. Of a finding whose logit is the difference of those of the two classes, that is to
    add the logarithm of the odds, n_with / n_without.

    Args:
        imbalance: What is asked for.
        labels: Of all training images `(n,)`; every class occurs. Of findings `(n, C)`, nan where one is not known.
        num_classes: C.
        device: Where logits lie.
        name: Of the loss.

    Source: King, Zeng, Political Analysis 9 (2001), 137-163 (weights; of findings those of CheXNet, Rajpurkar et al.,
    arXiv 1711.05225, times a factor that makes findings count as often as they are known); Menon et al., ICLR 2021,
    equation 10.
    """
    if imbalance not in ("class_weights", "logit_adjustment"):
        return TASKS[name].loss
    if TASKS[name].has_findings:
        sides = torch.from_numpy(np.stack([(labels == value).sum(axis=0) for value in (0, 1)])).float().to(device)
        if imbalance == "class_weights":
            return partial(_weighted_bce, weights=sides.sum(dim=0) / (2 * sides))
        return partial(_adjusted_bce, offsets=(sides[1] / sides[0]).log())
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


def _weighted_bce(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of binary cross-entropies over what is known; weights `(2, C)` of 0 and of 1."""
    known = targets.isnan().logical_not()
    own = torch.where(targets == 1, weights[1], weights[0]) * known  # (B, C)
    total = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), weight=own, reduction="sum")
    return total / own.sum().clamp(min=torch.finfo(own.dtype).tiny)


def _adjusted_bce(logits: Tensor, targets: Tensor, offsets: Tensor) -> Tensor:
    return masked_bce(logits + offsets, targets)


def _shares(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """The share of each class `(C,)`."""
    counts = torch.bincount(torch.from_numpy(labels), minlength=num_classes)
    return counts.double() / counts.sum()
