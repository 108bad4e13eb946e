"""k nearest neighbours, weighted (as in DINO: Caron et al., ICCV 2021, arXiv 2104.14294; after Wu et al., CVPR 2018).

Nothing trains. The frozen backbone's pooled features of all training images, L2-normalised, are kept; an image's k most
similar ones by cosine vote for their classes with weight exp(similarity / 0.07). The share of the votes that a class
gets is its probability: logits are log(share + 1e-6), as a class that gets none would have minus infinity. Softmax of
them gives the shares back, to within 1e-6, and keeps their order.

Votes are not balanced: a class of many images has more neighbours everywhere.

Of several findings each is a task of two classes, with it and without it: the k most similar of the images of which it
is known vote, or all of these where they are fewer. Its logit is the difference of the two classes' logits, so that its
sigmoid is the share of those with it, to within 1e-6.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Batches, Count, Factor, Method, Recipe
from methods.probes.pooled import extractor

FLOOR = 1e-6  # added to each class's share of the votes


@dataclass(frozen=True)
class Config:
    """Defaults of nearest neighbours, the authors' (docs/methods.md)."""

    num_neighbours: Count = 20
    temperature: Factor = 0.07


class NearestNeighbours(nn.Module):
    """Training features and labels, and votes among them.

    Args:
        num_classes: Number of classes C.
        num_neighbours: Number k of neighbours that vote.
        temperature: Similarity is divided by it.

    Attributes:
        features: Of the training images, normalised, `(n, F)`; none until `remember` has seen them.
        labels: Their classes `(n,)`; or findings `(n, C)`, nan where one is not known.
    """

    features: Tensor
    labels: Tensor

    def __init__(self, num_classes: int, num_neighbours: int, temperature: float) -> None:
        super().__init__()
        self.num_classes, self.num_neighbours, self.temperature = num_classes, num_neighbours, temperature
        self.register_buffer("features", torch.zeros(0, 0))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Does nothing: there is no backward pass."""

    def forward(self, feature: Tensor) -> Tensor:
        """Classifies a batch.

        Shape:
            - feature: `(B, F)`
            - Output: logits `(B, C)`
        """
        with torch.autocast(feature.device.type, enabled=False):
            similarity = F.normalize(feature.float(), dim=1) @ self.features.mT  # (B, n)
            if self.labels.ndim == 2:
                return torch.stack([self._finding(similarity, labels) for labels in self.labels.unbind(1)], dim=1)
            nearest, votes = self._votes(similarity)
            shares = votes.new_zeros(feature.shape[0], self.num_classes)
            return (shares.scatter_add(1, self.labels[nearest], votes) + FLOOR).log()

    def _votes(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Who votes, and their shares of all votes `(B, k)`, by similarity to all `(B, n)`."""
        nearest = similarity.topk(self.num_neighbours, dim=1)
        return nearest.indices, (nearest.values / self.temperature).softmax(dim=1)

    def _finding(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """The logit of a finding `(B,)`, by what is known of it `(n,)`."""
        nearest, votes = self._votes(similarity.masked_fill(labels.isnan(), -torch.inf))
        share = (votes * labels.nan_to_num()[nearest]).sum(dim=1)
        return (share + FLOOR).log() - (1 - share + FLOOR).log()


@torch.no_grad()
def remember(model: nn.Module, batches: Batches) -> None:
    """Keeps the features of the training split.

    Args:
        model: A `NearestNeighbours`.
        batches: Those of `Recipe.prepare`, at least one.
    """
    assert isinstance(model, NearestNeighbours)
    seen = [(F.normalize(inputs["feature"].float(), dim=1), labels) for inputs, labels in batches]
    features, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    assert len(features) >= model.num_neighbours  # as `min_images` has it
    model.features, model.labels = features, labels


def recipe(model: nn.Module, config: Config, num_steps: int) -> Recipe:
    """Remembers the training split."""
    return Recipe(prepare=remember)


def build(backbone: Backbone, num_classes: int, config: Config) -> NearestNeighbours:
    """Builds the voters, none yet; the backbone lives in the extractor."""
    return NearestNeighbours(num_classes, config.num_neighbours, config.temperature)


def min_images(config: Config) -> int:
    """As many as vote."""
    return config.num_neighbours


def count(backbone: Backbone, config: Any) -> int:
    """Nothing trains."""
    return 0


METHOD = Method(
    "knn",
    "Nearest neighbours",
    "Caron et al., ICCV 2021, arXiv 2104.14294",
    Config,
    build,
    count,
    extractor=extractor,
    recipe=recipe,
    gradient_free=True,
    min_images=min_images,
)
