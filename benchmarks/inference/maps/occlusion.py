"""Occlusion (Zeiler and Fergus, ECCV 2014, arXiv 1311.2901): what a class loses where a part of the image is hidden."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.inference.maps.patches import PatchMap, Views
from benchmarks.inference.trained import TrainedModel

CELLS = 14  # a side: a pass of the model each


def occlusion_map(model: TrainedModel, views: Views, target: int) -> PatchMap:
    """By how much the log probability of a class falls when one of 14 x 14 squares is set to the dataset's mean."""
    hidden = torch.eye(CELLS * CELLS, device=model.device).view(-1, 1, CELLS, CELLS).bool()
    whole = log_probabilities(model, views, torch.zeros_like(hidden[:1]))[0, target]
    without = log_probabilities(model, views, hidden)[:, target]
    return PatchMap((whole - without).view(CELLS, CELLS).cpu())


def log_probabilities(model: TrainedModel, views: Views, hidden: Tensor, canvas: Views | None = None) -> Tensor:
    """What a model says of an image with parts of it hidden.

    Args:
        model: The model.
        views: Of the image.
        hidden: Which cells are hidden each time, in all views alike.
        canvas: What is seen there; None for the mean of the dataset.

    Shape:
        - hidden: `(K, 1, h, w)`, bool
        - Output: `(K, C)`
    """
    found = []
    for part in hidden.split(model.batch_size):
        masked = {}
        for name, view in views.items():
            mask = F.interpolate(part.float(), size=view.shape[-2:], mode="nearest-exact")
            masked[name] = view * (1 - mask) + (0 if canvas is None else canvas[name] * mask)
        found.append(model.task.log_probabilities(model.logits(masked)))
    return torch.cat(found)
