"""One raw image becomes one prepared file: copied where it is plain and small enough, else decoded and written anew."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.images.decode import decode, pixel_digest
from benchmarks.images.depth import Scale
from benchmarks.raw.files import RawFile
from benchmarks.storage.files import file_sha256

SUFFIX = {"JPEG": ".jpg", "PNG": ".png"}
JPEG_QUALITY = 95
PNG_LEVEL = 3  # a third of the time of the default for a few per cent more bytes


class Converted(NamedTuple):
    """A prepared file.

    Attributes:
        name: File name.
        sha256: Of its content.
        pixels: `pixel_digest` of what a reader of the file sees.
        how: `copied`, `linked`, `reduced` or `rewritten`.
    """

    name: str
    sha256: str
    pixels: str
    how: str


def convert(
    file: RawFile, stem: str, folder: Path, max_side: int | None, link: bool, scale: Scale | None = None
) -> Converted:
    """Writes one image into a folder, under a temporary name first.

    A plain JPEG or PNG whose shorter side is within `max_side` keeps its bytes. A JPEG that must be reduced is written
    as JPEG again (quality 95, full colour resolution): it was lossy before. Everything else becomes PNG. Images of
    three equal channels become grey.

    Args:
        file: The raw image.
        stem: Name of the prepared file without suffix.
        folder: An existing folder.
        max_side: Images whose shorter side is longer, in pixels, are reduced to it; None for no limit. Training
            squeezes an image to a square, so it is the shorter side that decides what detail is left.
        link: Share plain files with the raw folder instead of copying them.
        scale: Of the dataset; None where each file says itself what is black and white.

    Raises:
        UserError: The image cannot be read.
        OSError: The prepared file cannot be written.
    """
    data = file.read()
    image, kind, as_stored = decode(data, file.source, scale)
    reduced = max_side is not None and min(image.size) > max_side
    made = folder / f".{stem}.part"
    made.unlink(missing_ok=True)
    if as_stored and not reduced:
        name, how, pixels = stem + SUFFIX[kind], "copied", pixel_digest(image)
        if link and not file.member:
            os.link((file.root / file.path).resolve(), made)
            how = "linked"
        else:
            made.write_bytes(data)
    else:
        small = _reduce(_as_grey(image), max_side)
        lossy = reduced and kind in ("JPEG", "MPO")
        name, how = stem + (".jpg" if lossy else ".png"), "reduced" if reduced else "rewritten"
        _write(small, made, lossy)
        pixels = pixel_digest(decode(made.read_bytes(), name).image if lossy else small)
    digest = file_sha256(made)
    made.replace(folder / name)
    return Converted(name, digest, pixels, how)


def _reduce(image: Image.Image, max_side: int | None) -> Image.Image:
    """Reduces an image whose shorter side is too long; never enlarges one."""
    shorter = min(image.size)
    if max_side is None or shorter <= max_side:
        return image
    width, height = (max(1, round(side * max_side / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _write(image: Image.Image, path: Path, lossy: bool) -> None:
    """Straight to a file: into memory, Pillow would hold the interpreter lock, and threads would not use all cores."""
    if lossy:
        image.save(path, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(path, "PNG", compress_level=PNG_LEVEL)


def _as_grey(image: Image.Image) -> Image.Image:
    """The image in one channel where all three are equal: a third of the work and of the bytes, the same pixels."""
    if image.mode != "RGB" or not _is_grey(image.resize((32, 32), Image.Resampling.NEAREST)) or not _is_grey(image):
        return image
    return image.getchannel(0)


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels[..., :1] == pixels[..., 1:]).all())
