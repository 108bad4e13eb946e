"""What a place of a table says, and what a column of entries is."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd


class Entry(NamedTuple):
    """What one place of a table says.

    rank: 1 best, 2 second best of its resolution, 0 neither. competes: whether it may be either; what is left of a
    method after some of its seeds failed may not, as it is no sample of the method.
    """

    text: str
    mark: str = ""
    rank: int = 0
    competes: bool = True


class Column(NamedTuple):
    """A column of the shown tables.

    better: -1 where less is better, 1 where more is, 0 where nothing is ranked.
    short: its header in a terminal, empty where it is left out for want of space.
    """

    header: str
    short: str
    better: int
    entry: Callable[[pd.Series], Entry]

    @property
    def arrow(self) -> str:
        """What its header ends in: which way is better."""
        return {-1: " ↓", 0: "", 1: " ↑"}[self.better]
