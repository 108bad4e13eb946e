"""Reads image files as 8-bit pixels, as a clinician would see them; the only place where image files are opened."""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from benchmarks.dicom import is_dicom, render

Pixels = npt.NDArray[np.uint8]

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"]
)
# scanners store 12-bit values in 16-bit files; the smallest depth that holds the largest value is the file's own
_GREY_DEPTHS = (8, 12, 16)
_PNG_DEPTH = 24  # where a PNG file says how many bits a sample has
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")  # some others start programs
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, *_BOMBS)


class Decoded(NamedTuple):
    """An image file's content.

    Attributes:
        image: Upright, `L` or `RGB`.
        format: As Pillow names it, or `DICOM`.
        as_stored: Whether the file is a JPEG or PNG that every reader shows like this: 8 bits, grey or RGB, upright.
    """

    image: Image.Image
    format: str
    as_stored: bool


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix or else by its content (some sets hold images without a suffix)."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError):
        return False


def read_image(path: Path, side: int) -> Pixels:
    """One image, turned as its EXIF tag says, squeezed to a square with bicubic antialiasing: (3, side, side), RGB.

    Grey images of more than 8 bits are rescaled, not clipped; transparent pixels become black.

    Raises:
        ValueError: The image cannot be read (damaged, truncated, or of a pixel type without a defined range).
    """
    try:
        with Image.open(path) as image:
            # JPEG decodes at a fraction of its size for free; twice the side keeps the antialiasing exact enough
            image.draft(image.mode, (2 * side, 2 * side))
            image.load()
            upright = ImageOps.exif_transpose(image)
            square = _to_rgb(upright).resize((side, side), Image.Resampling.BICUBIC)
    except _DAMAGES as error:
        raise ValueError(f"image must be readable, got {str(path)!r}: {error}; replace or remove the file") from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))  # (3, side, side)


def decode(data: bytes, name: str) -> Decoded:
    """A whole image file at full size, grey or RGB with 8 bits, upright; DICOM too.

    Args:
        data: Content of the file.
        name: For messages.

    Raises:
        ValueError: It cannot be read (damaged, truncated, too large, or of a pixel type without a defined range).
    """
    limit = Image.MAX_IMAGE_PIXELS or 2**28
    try:
        if is_dicom(data):
            return Decoded(render(data, limit), "DICOM", False)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > limit:
                raise ValueError(f"more than {limit:,} pixels, a decompression bomb")
            image.load()
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            as_stored = (
                image.format in ("JPEG", "PNG")
                and image.mode in ("L", "RGB")
                and not (turned or image.has_transparency_data)
                and (image.format == "JPEG" or data[_PNG_DEPTH] == 8)
            )
            upright = ImageOps.exif_transpose(image)
            grey = upright.mode == "L" and not upright.has_transparency_data
            return Decoded(upright if grey else _to_rgb(upright), str(image.format), as_stored)
    except _DAMAGES as error:
        raise ValueError(f"image must be readable, got {name!r}: {error}; replace or remove the file") from error


def pixel_digest(image: Image.Image) -> str:
    """Hex SHA-256 of what is seen: size and RGB values. A grey image has the digest of its RGB form."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def num_workers() -> int:
    """Threads for decoding: PIL releases the interpreter lock, so threads use every core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey_to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Rescales integer grey values: PIL's own conversion clips everything above 255."""
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    depths = [depth for depth in _GREY_DEPTHS if high < 2**depth]
    if low < 0 or not depths:
        raise ValueError(f"grey values must lie in 0..65535, got {low}..{high}")
    limit = 2 ** depths[0] - 1
    return Image.fromarray(((values * 255 + limit // 2) // limit).astype(np.uint8))
