"""From whole numbers to 8 bits: what is black and white where a file of more than 8 bits does not say it."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.errors import UserError

DEPTHS = (8, 10, 12, 14, 16)  # bits that detectors have; files hold them in 16

Values = npt.NDArray[np.int32]


class Extent(NamedTuple):
    """The lowest and the highest value of some pixels."""

    low: int
    high: int


class Scale(NamedTuple):
    """What is black and white in all files of a dataset that do not say it themselves.

    Attributes:
        low: Is black: 0, or the lowest value of a dataset with negative ones.
        bits: `low + 2**bits - 1` is white.
    """

    low: int
    bits: int

    @property
    def high(self) -> int:
        """The value of white."""
        return self.low + 2**self.bits - 1

    def holds(self, extent: Extent) -> bool:
        """Whether no value is clipped."""
        return self.low <= extent.low and extent.high <= self.high


class Deep(NamedTuple):
    """Pixels of more than 8 bits as they are stored, upright.

    Attributes:
        values: Grey (H, W) or colour (H, W, 3).
        inverted: Whether low values are white.
        padding: Where there is no image, which is shown black: (H, W); None where that is nowhere.
    """

    values: Values
    inverted: bool = False
    padding: npt.NDArray[np.bool_] | None = None

    @property
    def extent(self) -> Extent:
        """Of the image without its padding."""
        shown = self.values if self.padding is None or self.padding.all() else self.values[~self.padding]
        return Extent(int(shown.min()), int(shown.max()))

    def to_8_bits(self, scale: Scale) -> Image.Image:
        """Grey or RGB; what the scale does not hold is clipped."""
        span = scale.high - scale.low
        above_black = self.values.clip(scale.low, scale.high) - scale.low
        eighths = ((above_black * 255 + span // 2) // span).astype(np.uint8)
        if self.inverted:
            eighths = 255 - eighths
        if self.padding is not None:
            eighths[self.padding] = 0
        return Image.fromarray(eighths)


def common_extent(extents: Iterable[Extent | None]) -> Extent | None:
    """The values of all files together; None where none of them has any."""
    found = [extent for extent in extents if extent is not None]
    return Extent(min(low for low, _ in found), max(high for _, high in found)) if found else None


def scale_of(extent: Extent | None, stated: int | None) -> Scale | None:
    """What is black and white in images of some values; None without any.

    Args:
        extent: Of all files, as `common_extent` gives it.
        stated: Bits, which count from 0; None to take as few as hold all values.

    Raises:
        UserError: No 16 bits hold them.
    """
    if extent is None:
        return None
    if stated is not None:
        return Scale(0, stated)
    for bits in DEPTHS:
        scale = Scale(min(0, extent.low), bits)
        if scale.holds(extent):
            return scale
    raise UserError(
        f"values must span at most 16 bits, got {extent.low}..{extent.high}; save the images with 16 bits, or give "
        "DICOM files a window"
    )
