"""A backbone that timm's table does not have under that name, and what its authors say of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmarks.model.spec import Spec
from methods.backbone import Pool

Stats = tuple[float, float, float]


@dataclass(frozen=True)
class NamedBackbone:
    """What one name on the command line stands for.

    Attributes:
        name: On the command line and in records.
        create: `create(**size) -> nn.Module`, a timm model with random weights and without a head; `size` is empty for
            the image side that it was pretrained with, else `img_size`, the side in px.
        mean: Of each channel, in [0, 1], of the images that it was pretrained on, as its authors normalise; None where
            nobody states it.
        std: Likewise.
        pool: How its authors make one vector of its tokens: `native`, as the timm model itself does; `cls`, the class
            token; `avg`, the mean of the patches; `cls+avg`, both behind one another.
        licence: Of its weights, in one word.
        source: Where its weights are: a repository of the hub, `owner/name`, or the address of a page.
        file: Their name in that repository; None for the names that the hub's own tools give.
        access: What to do before they can be had, in one line; None where they are open.
        path: Its weights on this disk, for one of a folder.
        spec: The same network by timm's name and arguments, where there is no more to it.
    """

    name: str
    create: Callable[..., nn.Module]
    mean: Stats | None = None
    std: Stats | None = None
    pool: Pool = "native"
    licence: str | None = None
    source: str | None = None
    file: str | None = None
    access: str | None = None
    path: Path | None = None
    spec: Spec | None = None

    @property
    def hub_id(self) -> str | None:
        """The repository of the hub that has its weights; None where they are elsewhere."""
        return None if self.source is None or "://" in self.source else self.source
