"""Reads image files as 8-bit pixels, as a clinician would see them; the only place where image files are opened."""

import hashlib
import io
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

from benchmarks.environment import num_cores
from benchmarks.errors import UserError
from benchmarks.images.deep import num_bits, read_deep
from benchmarks.images.depth import Deep, Extent, Scale
from benchmarks.images.dicom import HEAD, is_dicom, render, states_range

Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = npt.NDArray[np.uint8]

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"]
)
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")  # some others start programs
_GREY = ("1", "L", "LA")  # modes
MAX_PIXELS = 89_478_485  # 9459 x 9459, from where Pillow warns
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# what Pillow's readers raise on damaged content
_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error, *_BOMBS)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_open` refuses from the same size on


class Decoded(NamedTuple):
    """An image file's content, 8 bits.

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


class _Stored(NamedTuple):
    """An image file's content.

    Attributes:
        pixels: Upright; whole numbers where it has more than 8 bits and does not say what is black and white.
        mode: How the file stores a pixel, as PIL names it.
        format: As Pillow names it, or `DICOM`.
        as_stored: As of `Decoded`.
    """

    pixels: Image.Image | Deep
    mode: str
    format: str
    as_stored: bool = False


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix or else by its content (some sets hold images without a suffix)."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            if is_dicom(_head(file)):
                return True
            with open_image(file):
                return True
    except _DAMAGES:
        return False


class ImageFacts(NamedTuple):
    """What `inspect_image` finds in a file.

    Attributes:
        width: As shown, in pixels.
        height: As shown, in pixels.
        mode: How the file stores a pixel, as PIL names it: `RGB`, `L`, `P`, `I;16`, with more bits also `RGB;16`; of
            DICOM its kind and bits, such as `MONOCHROME2;12 windowed`.
        pixels: `pixel_digest`: the same for files that look exactly the same.
        grey: Whether it has no colour.
        extent: Its values, where those of the whole dataset say what is black and white; else None.
    """

    width: int
    height: int
    mode: str
    pixels: str
    grey: bool
    extent: Extent | None


def decoding_side(sides: Iterable[int]) -> int:
    """The side to decode a file for, before it is resized to each of several sides.

    The pixels of a JPEG depend on it a little. Up to 512 px it is one and the same, so that small views do not depend
    on what else was asked for.
    """
    return max(SMALLEST_DECODING_SIDE, *sides)


def read_views(path: Path, sides: Iterable[int], decoded_for: int, scale: Scale | None = None) -> list[Pixels]:
    """One image at several sizes, decoded once: upright by its EXIF tag, squeezed to squares with bicubic antialiasing.

    Transparent pixels become black.

    Args:
        path: The file.
        sides: Side lengths in pixels.
        decoded_for: As `decoding_side` gives it; a JPEG with many more pixels is decoded at a fraction of its size.
        scale: Of the dataset; None where each file says itself what is black and white.

    Returns:
        For each side an RGB array (3, side, side).

    Raises:
        UserError: The image cannot be read (damaged, truncated, or of a pixel type without a defined range).
    """
    image, _ = _shown(path, scale, round(DRAFT_MARGIN * decoded_for))
    return resized(image, sides)


def resized(image: Image.Image, sides: Iterable[int]) -> list[Pixels]:
    """An upright RGB image at several sizes, (3, side, side) each, as `read_views` resizes it."""
    squares = [image.resize((side, side), Image.Resampling.BICUBIC) for side in sides]
    return [np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)) for square in squares]  # (3, side, side)


def read_image(path: Path, side: int, scale: Scale | None = None) -> Pixels:
    """One image at one size, (3, side, side), as `read_views` reads it."""
    return read_views(path, [side], decoding_side([side]), scale)[0]


def inspect_image(path: Path, scale: Scale | None = None) -> ImageFacts:
    """Decodes all of an image, as `read_inspected`."""
    return read_inspected(path, scale)[0]


def read_inspected(path: Path, scale: Scale | None = None) -> tuple[ImageFacts, Image.Image]:
    """What is found in an image, decoded in full, and the image itself: upright, RGB.

    Raises:
        UserError: The image cannot be read.
    """
    image, (pixels, mode, *_) = _shown(path, scale)
    if isinstance(pixels, Deep):
        grey, extent = pixels.values.ndim == 2, pixels.extent
    else:
        grey, extent = pixels.mode in _GREY, None
    return ImageFacts(image.width, image.height, mode, pixel_digest(image), grey, extent), image


def read_thumbnail(path: Path, side: int, scale: Scale | None = None) -> Image.Image:
    """One image in its own proportions, RGB, at most `side` pixels wide and high.

    Raises:
        UserError: The image cannot be read.
    """
    image, _ = _shown(path, scale, 2 * side)
    image.thumbnail((side, side))
    return image


def read_extent(file: IO[bytes], name: str) -> Extent | None:
    """The values of an image that does not say which are black and white; None of any other, which is not decoded.

    Args:
        file: At its beginning.
        name: For messages.

    Raises:
        UserError: It cannot be read.
    """
    with _damages(name):
        if is_dicom(_head(file)):
            pixels = None if states_range(file, MAX_PIXELS) else _read_dicom(file).pixels
        else:
            with open_image(file) as image:
                _check_single(image)
                bits = num_bits(image, file)
                pixels = read_deep(image, file, bits) if bits > 8 else None
        return pixels.extent if isinstance(pixels, Deep) else None


def open_image(file: IO[bytes]) -> ImageFile.ImageFile:
    """An image of a format that Pillow decodes by itself, not decoded yet.

    Raises:
        UserError: It has too many pixels.
    """
    image = Image.open(file, formats=_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UserError(
            f"it must have at most {MAX_PIXELS:,} pixels, got {image.width} x {image.height}, a decompression bomb"
        )
    return image


def _check_single(image: ImageFile.ImageFile) -> None:
    """Refuses animations and files of several pages; what a phone adds to its picture is not looked at."""
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count != 1:
        raise UserError(
            f"it must hold one picture, got {count} pages or frames; save each as a file of its own (ImageMagick: "
            "magick FILE page-%03d.png)"
        )


@contextmanager
def _damages(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGES as error:
        raise UserError(f"image must be readable, got {name!r}: {error}; replace or remove the file") from error


def _head(file: IO[bytes]) -> bytes:
    """What tells DICOM from others."""
    head = file.read(HEAD)
    file.seek(0)
    return head


def _read(file: IO[bytes], least: int | None = None) -> _Stored:
    """A file at its beginning; a JPEG at a fraction of its size that leaves `least` pixels a side."""
    if is_dicom(_head(file)):
        return _read_dicom(file)
    with open_image(file) as image:
        _check_single(image)
        kind, mode, bits = str(image.format), image.mode, num_bits(image, file)
        if bits > 8:
            return _Stored(read_deep(image, file, bits), mode if mode.startswith("I") else f"{mode};{bits}", kind)
        if least is not None:
            image.draft(mode, (least, least))
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        plain = kind == "JPEG" or (kind == "PNG" and bits == 8)
        as_stored = plain and image.mode in ("L", "RGB") and not (turned or image.has_transparency_data)
        return _Stored(ImageOps.exif_transpose(image), mode, kind, as_stored)


def _read_dicom(file: IO[bytes]) -> _Stored:
    pixels, mode = render(file, MAX_PIXELS)
    return _Stored(pixels, mode, "DICOM")


def _scaled(pixels: Image.Image | Deep, scale: Scale | None) -> Image.Image:
    """With 8 bits."""
    if isinstance(pixels, Image.Image):
        return pixels
    if scale is None:
        raise UserError("it has more than 8 bits, as no file had when its dataset was opened; start again")
    return pixels.to_8_bits(scale)


def _shown(path: Path, scale: Scale | None, least: int | None = None) -> tuple[Image.Image, _Stored]:
    """The upright RGB image, and what the file holds."""
    with _damages(str(path)), path.open("rb") as file:
        stored = _read(file, least)
        return _to_rgb(_scaled(stored.pixels, scale)), stored


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


def decode(data: bytes, name: str, scale: Scale | None = None) -> Decoded:
    """A whole image file at full size, grey or RGB with 8 bits, upright; DICOM too.

    Args:
        data: Content of the file.
        name: For messages.
        scale: Of the dataset; None where each file says itself what is black and white.

    Raises:
        UserError: It cannot be read (damaged, truncated, too large, or of a pixel type without a defined range).
    """
    with _damages(name):
        pixels, _, kind, as_stored = _read(io.BytesIO(data))
        image = _scaled(pixels, scale)
        grey = image.mode == "L" and not image.has_transparency_data
        return Decoded(image if grey else _to_rgb(image), kind, as_stored)


def pixel_digest(image: Image.Image) -> str:
    """Hex SHA-256 of what is seen: size and RGB values. A grey image has the digest of its RGB form."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def num_workers() -> int:
    """Threads for decoding: PIL releases the interpreter lock, so threads use every core that this process may use."""
    return min(8, num_cores())


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UserError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
