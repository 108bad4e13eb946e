"""Reads image files as 8-bit pixels, as a clinician would see them; the only place where image files are opened."""

import hashlib
import io
import os
import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps

from benchmarks.errors import UserError
from benchmarks.images.dicom import is_dicom, render

Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = npt.NDArray[np.uint8]

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"]
)
# scanners store 12-bit values in 16-bit files; the smallest depth that holds the largest value is the file's own
_GREY_DEPTHS = (8, 12, 16)
_PNG_DEPTH = 24  # where a PNG file says how many bits a sample has
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")  # some others start programs
MAX_PIXELS = 89_478_485  # 9459 x 9459, from where Pillow warns
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# what Pillow's readers raise on damaged content
_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error, *_BOMBS)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_open` refuses from the same size on


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


PIXEL_FORMAT = 2  # raise it when `read_views` changes its pixels
# JPEG decodes at 1/2, 1/4 or 1/8 of its size for less work. With this many times the side asked for left, it makes less
# of a difference than bicubic against Lanczos filtering: 2240 x 1488 px to 512 px differ by 0.2 grey levels in the mean
# for a smooth fundus image, by 1.4 (99 % of the pixels by at most 5) for a full-contrast image with 1/f spectrum.
DRAFT_MARGIN = 1.4
SMALLEST_DECODING_SIDE = 512


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix or else by its content (some sets hold images without a suffix)."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with _open(path):
            return True
    except _DAMAGES:
        return False


class ImageFacts(NamedTuple):
    """What `inspect_image` finds in a file.

    Attributes:
        width: As shown, in pixels.
        height: As shown, in pixels.
        mode: How the file stores a pixel, as PIL names it: `RGB`, `L`, `P`, `I;16`...
        pixels: `pixel_digest`: the same for files that look exactly the same.
    """

    width: int
    height: int
    mode: str
    pixels: str


def decoding_side(sides: Iterable[int]) -> int:
    """The side to decode a file for, before it is resized to each of several sides.

    The pixels of a JPEG depend on it a little. Up to 512 px it is one and the same, so that small views do not depend
    on what else was asked for.
    """
    return max(SMALLEST_DECODING_SIDE, *sides)


def read_views(path: Path, sides: Iterable[int], decoded_for: int) -> list[Pixels]:
    """One image at several sizes, decoded once: upright by its EXIF tag, squeezed to squares with bicubic antialiasing.

    Grey images of more than 8 bits are rescaled, not clipped; transparent pixels become black.

    Args:
        path: The file.
        sides: Side lengths in pixels.
        decoded_for: As `decoding_side` gives it; a JPEG with many more pixels is decoded at a fraction of its size.

    Returns:
        For each side an RGB array (3, side, side).

    Raises:
        UserError: The image cannot be read (damaged, truncated, or of a pixel type without a defined range).
    """
    with _decoded(path, round(DRAFT_MARGIN * decoded_for)) as (image, _):
        squares = [image.resize((side, side), Image.Resampling.BICUBIC) for side in sides]
    return [np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)) for square in squares]  # (3, side, side)


def read_image(path: Path, side: int) -> Pixels:
    """One image at one size, (3, side, side), as `read_views` reads it."""
    return read_views(path, [side], decoding_side([side]))[0]


def inspect_image(path: Path) -> ImageFacts:
    """Decodes all of an image.

    Raises:
        UserError: The image cannot be read.
    """
    with _decoded(path) as (image, mode):
        return ImageFacts(image.width, image.height, mode, pixel_digest(image))


def read_thumbnail(path: Path, side: int) -> Image.Image:
    """One image in its own proportions, RGB, at most `side` pixels wide and high.

    Raises:
        UserError: The image cannot be read.
    """
    with _decoded(path, 2 * side) as (image, _):
        image.thumbnail((side, side))
        return image


def _open(source: Path | IO[bytes]) -> ImageFile.ImageFile:
    """An image of a format that Pillow decodes by itself, not decoded yet.

    Raises:
        UserError: It has too many pixels.
    """
    image = Image.open(source, formats=_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UserError(
            f"it must have at most {MAX_PIXELS:,} pixels, got {image.width} x {image.height}, a decompression bomb"
        )
    return image


@contextmanager
def _decoded(path: Path, least: int | None = None) -> Iterator[tuple[Image.Image, str]]:
    """The upright RGB image and how the file stores a pixel; a JPEG at a fraction that leaves `least` pixels a side."""
    try:
        with _open(path) as image:
            if least is not None:
                image.draft(image.mode, (least, least))
            mode = image.mode
            image.load()
            yield _to_rgb(ImageOps.exif_transpose(image)), mode
    except _DAMAGES as error:
        raise UserError(f"image must be readable, got {str(path)!r}: {error}; replace or remove the file") from error


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of a function over items, in their order, with a thread per core; few are ever held at a time."""
    workers = num_workers()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def decode(data: bytes, name: str) -> Decoded:
    """A whole image file at full size, grey or RGB with 8 bits, upright; DICOM too.

    Args:
        data: Content of the file.
        name: For messages.

    Raises:
        UserError: It cannot be read (damaged, truncated, too large, or of a pixel type without a defined range).
    """
    try:
        if is_dicom(data):
            return Decoded(render(data, MAX_PIXELS), "DICOM", False)
        with _open(io.BytesIO(data)) as image:
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
        raise UserError(f"image must be readable, got {name!r}: {error}; replace or remove the file") from error


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
        raise UserError("floating-point pixels have no defined range; save it with 8 or 16 bits")
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
        raise UserError(f"grey values must lie in 0..65535, got {low}..{high}")
    limit = 2 ** depths[0] - 1
    return Image.fromarray(((values * 255 + limit // 2) // limit).astype(np.uint8))
