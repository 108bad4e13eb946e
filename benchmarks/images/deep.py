"""Reads PNG, TIFF and JPEG 2000 of more than 8 bits with all of them, which Pillow does for grey images alone."""

import io
import logging
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, ImageFile, ImageOps

from benchmarks.errors import UserError
from benchmarks.images.depth import Deep, Values

_PNG_DEPTH = 24  # where a PNG file says how many bits a sample has
_CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000 begins like this, and so many bytes on says a sample's bits, less one
_PRECISION = 42
_COLOUR = ("RGB", "RGBA")
_OTHER_COLOURS = ("CMYK", "LAB", "YCbCr")
_WHITE_IS_ZERO = 0
_PREMULTIPLIED = (1,)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is raised as well

# How a stored image is turned to be upright, by its EXIF tag.
_UPRIGHT: dict[int, Any] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


def num_bits(image: ImageFile.ImageFile, file: IO[bytes]) -> int:
    """Bits of a sample as the file stores it; 8 where Pillow decodes all that there is.

    Args:
        image: As Pillow opens it, not decoded yet.
        file: What it was opened from.
    """
    if image.format == "TIFF" and image.mode in (*_COLOUR, *_OTHER_COLOURS):
        return int(max(_tag(image, ExifTags.Base.BitsPerSample)))
    if image.format not in ("PNG", "JPEG2000"):
        return 16 if image.mode.startswith("I") else 8
    before = file.seek(0, io.SEEK_CUR)
    file.seek(0)
    head = file.read(_PNG_DEPTH + 1 if image.format == "PNG" else -1)
    file.seek(before)
    return head[_PNG_DEPTH] if image.format == "PNG" else (head[head.index(_CODESTREAM) + _PRECISION] & 0x7F) + 1


def read_deep(image: ImageFile.ImageFile, file: IO[bytes], bits: int) -> Deep:
    """All bits of an image of more than 8.

    Args:
        image: As Pillow opens it, not decoded yet.
        file: What it was opened from.
        bits: As `num_bits` gives it.

    Raises:
        UserError: It is damaged, or has other colours than RGB.
    """
    if image.mode in _OTHER_COLOURS:
        raise UserError(f"it must be grey or RGB to have more than 8 bits, got {image.mode} of {bits}; save it as RGB")
    inverted = image.format == "TIFF" and _tag(image, ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1), np.asarray)
    if image.mode in _COLOUR or image.format == "JPEG2000":
        file.seek(0)
        pixels = turn(_decode(str(image.format), file.read()))
    else:
        image.load()
        pixels = np.asarray(ImageOps.exif_transpose(image))
    as_is = image.mode == "RGB" or (
        image.format == "TIFF" and _tag(image, ExifTags.Base.ExtraSamples) == _PREMULTIPLIED
    )
    return Deep(_on_black(pixels, None if as_is else 2**bits - 1), inverted)


def _tag(image: ImageFile.ImageFile, tag: int) -> Any:
    return image.tag_v2.get(tag)  # type: ignore[attr-defined]


def _decode(kind: str, data: bytes) -> npt.NDArray[Any]:
    """(H, W), or (H, W, channels)."""
    import imagecodecs
    import tifffile

    try:
        if kind == "PNG":
            return np.asarray(imagecodecs.png_decode(data))
        if kind == "JPEG2000":
            return np.asarray(imagecodecs.jpeg2k_decode(data))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            pixels = page.asarray()
            return np.moveaxis(pixels, 0, -1) if page.axes.startswith("S") else pixels  # (H, W, channels)
    except Exception as error:  # the decoders raise whatever damage leads them to
        raise UserError(str(error)) from error


def _on_black(pixels: npt.NDArray[Any], opaque: int | None) -> Values:
    """Grey or colour, where what is transparent is black.

    Args:
        pixels: (H, W), or (H, W, channels) of grey or colour with or without alpha behind.
        opaque: The alpha of an opaque pixel; None where a fourth channel changes nothing.
    """
    if pixels.ndim == 2:
        return pixels.astype(np.int32)
    num_colours = 3 if pixels.shape[-1] > 2 else 1
    colours, alpha = pixels[..., :num_colours], pixels[..., num_colours:]
    if alpha.size and opaque is not None:
        colours = colours.astype(np.uint32) * alpha // opaque  # 16 bits times 16 bits fit
    return (colours if num_colours == 3 else colours[..., 0]).astype(np.int32)
