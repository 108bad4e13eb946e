"""What an image looks like, in a few bytes, and which images look almost the same.

The perceptual hash is that of the library imagehash: the signs of the 256 lowest frequencies of the image in grey,
squeezed to a square.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.images.decode import Pixels, resized
from benchmarks.images.device import read_device

SIDE = 16  # pixels of a thumbnail
_HASH_SIDE = 16  # frequencies, so that a hash has 256 bits
# Bits that differ at most: 10 after JPEG of quality 50, a quarter of the size, brightness or contrast by a fifth; 26 at
# least between different images that share most of their anatomy (docs/datasets.md).
NEAR_BITS = 10
_ROWS = 512  # of distances at once


class Look(NamedTuple):
    """What an image looks like.

    Attributes:
        bits: Its perceptual hash, uint64 (4,).
        thumbnail: RGB (3, SIDE, SIDE).
        device: Scanner or camera that its file names; empty where it names none.
    """

    bits: NDArray[np.uint64]
    thumbnail: Pixels
    device: str


def look_at(image: Image.Image, path: Path) -> Look:
    """Of an upright RGB image, and its file."""
    import imagehash

    signs = imagehash.phash(image, hash_size=_HASH_SIDE).hash  # (16, 16)
    (thumbnail,) = resized(image, [SIDE])
    return Look(np.packbits(signs).view(np.uint64), thumbnail, read_device(path))


def near_pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
    """Places of two hashes that differ by `NEAR_BITS` at most, the first before the second, and by how many bits.

    Shape:
        hashes: (n, 4).
    """
    for start in range(0, len(hashes), _ROWS):
        rows = hashes[start : start + _ROWS, None]  # (rows, 1, 4)
        distances = np.bitwise_count(rows ^ hashes[None, start:]).sum(axis=-1, dtype=np.uint16)  # (rows, n - start)
        for row, column in np.argwhere(distances <= NEAR_BITS):
            if row < column:
                yield start + int(row), start + int(column), int(distances[row, column])
