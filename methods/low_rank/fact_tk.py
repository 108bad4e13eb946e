"""FacT-TK (Jie & Deng, AAAI 2023, arXiv 2212.03145): as FacT-TT, with matrices S from a shared core.

The matrix of square n is S_n = sum over k of C[:, :, k] P[k, n]: a core C (R x R x R), shared by all squares, and a
column of P (R x 12 L). C and P start Xavier uniform. All else is as in `methods/low_rank/fact_tt.py`.

Departure: the authors' code takes the S of the MLP's four squares from one (R, R, 4) array by reshaping it to (R, 4 R),
which mixes squares and rows; here each square has the S of its own column, as the paper's equation says.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Count, Dropout, Factor, Method, freeze
from methods.low_rank.fact_tt import FactModel, Factors, num_squares, recipe


@dataclass(frozen=True)
class Config:
    """Defaults of FacT-TK (docs/methods.md)."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    rank: Count = 16
    scale: Factor = 1.0
    dropout: Dropout = 0.1


class Tucker(Factors):
    """A core, and a column for each of `num_squares` squares."""

    def __init__(self, embed_dim: int, num_squares: int, config: Any) -> None:
        super().__init__(embed_dim, config)
        self.core = nn.Parameter(torch.empty(config.rank, config.rank, config.rank))  # C
        self.columns = nn.Parameter(torch.empty(config.rank, num_squares))  # P
        nn.init.xavier_uniform_(self.core)
        nn.init.xavier_uniform_(self.columns)

    def cores(self, first: int, number: int) -> Tensor:
        """Made of the core by their columns."""
        return torch.einsum("rsk,kn->nrs", self.core, self.columns[:, first : first + number])


def build(backbone: Backbone, num_classes: int, config: Config) -> FactModel:
    """Freezes the backbone, adds the updates to the linear layers of all blocks and attaches the head."""
    freeze(backbone)
    return FactModel(backbone, num_classes, Tucker(backbone.embed_dim, num_squares(backbone), config))


def count(backbone: Backbone, config: Config) -> int:
    """2 D R + R^3 + 12 L R."""
    rank = config.rank
    return 2 * backbone.embed_dim * rank + rank**3 + num_squares(backbone) * rank


METHOD = Method(
    "fact_tk",
    "FacT-TK",
    "Jie & Deng, FacT, AAAI 2023, arXiv 2212.03145",
    Config,
    build,
    count,
    recipe=recipe,
    needs=frozenset({"squares"}),
    starts_as_pretrained=True,
)
