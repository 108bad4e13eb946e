"""DICOM images as a viewer shows them: rescaled, windowed, MONOCHROME1 inverted."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.errors import UserError
from benchmarks.images.depth import Deep

Grey = npt.NDArray[np.float64]

HEAD = 132  # bytes that tell DICOM from others
_VIEW_CODE = "ViewCode"
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_MAX_VALUE = 2**31  # of what is kept as whole numbers of 32 bits


def is_dicom(head: bytes) -> bool:
    """Whether a file says that it is DICOM, by at least its first `HEAD` bytes."""
    return head[HEAD - 4 : HEAD] == b"DICM"


def read_tags(file: IO[bytes], name: str, keywords: Iterable[str]) -> dict[str, str]:
    """Header fields as text, empty where absent, and `ViewCode`: the code of the view, such as `399162004` for CC.

    Args:
        file: Is read as far as its pixels.
        name: For messages.
        keywords: Names of fields in DICOM's dictionary.

    Raises:
        UserError: Not DICOM, or damaged.
    """
    try:
        header = _open(file, stop_before_pixels=True)
        tags = {keyword: str(header.get(keyword) or "").strip() for keyword in keywords}
        codes = header.get("ViewCodeSequence")
        return tags | {_VIEW_CODE: str(codes[0].get("CodeValue") or "").strip() if codes else ""}
    except Exception as error:  # pydicom raises whatever damage leads it to
        raise UserError(f"DICOM must be readable, got {name!r}: {error}; download it again") from error


def render(file: IO[bytes], max_pixels: int) -> tuple[Image.Image | Deep, str]:
    """The image as a viewer shows it, and how the file stores a pixel, such as `MONOCHROME2;12`.

    Grey values go through the modality rescale, then the first lookup table or window of the file. Without either, all
    that 8 bits or a modality lookup table can hold is shown; what has more bits is left to the scale of the dataset.
    Padding is black.

    Args:
        file: Its content.
        max_pixels: More are refused before they are decoded.

    Returns:
        Grey or RGB, 8 bits; or whole numbers, where nothing in the file says which of them are black and white.

    Raises:
        UserError: Damaged, of several frames, or in an encoding that cannot be read here.
    """
    with _damages():
        header = _open(file)
        _check_image(header, max_pixels)
        windowed = " windowed" if _is_windowed(header) else ""
        return _render(header), f"{header.PhotometricInterpretation};{header.BitsStored}{windowed}"


def states_range(file: IO[bytes], max_pixels: int) -> bool:
    """Whether a file says what is black and white, so that `render` gives 8 bits; reads it as far as its pixels.

    Raises:
        UserError: As `render`.
    """
    with _damages():
        header = _open(file, stop_before_pixels=True)
        _check_image(header, max_pixels)
        return not _is_grey(header) or _is_windowed(header) or _has_own_range(header)


@contextmanager
def _damages() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"DICOM cannot be read: {error}") from error
    except Exception as error:  # pydicom and its decoders raise whatever damage leads them to
        raise UserError(f"DICOM cannot be read: {error}") from error


def _open(file: IO[bytes], stop_before_pixels: bool = False) -> Any:
    """The header, and the pixels as they are stored.

    Raises:
        UserError: All of it is deflated; pydicom would inflate it to whatever size it takes.
    """
    import pydicom
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    binary = cast(BinaryIO, file)
    file.seek(0)
    read_preamble(binary, force=False)
    if _read_file_meta_info(binary).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise UserError("it is deflated, which may be a decompression bomb: save it uncompressed")
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=stop_before_pixels)


def _check_image(header: Any, max_pixels: int) -> None:
    """Refuses what is no picture, or more than one, or too large to decode."""
    if "Rows" not in header or "PhotometricInterpretation" not in header:
        raise UserError("it holds no pixels")
    frames, num_pixels = int(header.get("NumberOfFrames") or 1), int(header.Rows) * int(header.Columns)
    if frames != 1:
        raise UserError(
            f"it must hold one picture, got {frames} frames; save each as a file of its own (dcm4che: emf2sf FILE)"
        )
    if num_pixels > max_pixels:
        raise UserError(f"it must have at most {max_pixels:,} pixels, got {num_pixels:,}: a decompression bomb")


def _is_grey(header: Any) -> bool:
    return header.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")


def _is_windowed(header: Any) -> bool:
    return bool(header.get("VOILUTSequence")) or (
        header.get("WindowCenter") is not None and header.get("WindowWidth") is not None
    )


def _has_own_range(header: Any) -> bool:
    """Whether all values that the header allows are few enough to be shown; 12 bits in a field of 16 are common."""
    return bool(header.get("ModalityLUTSequence")) or int(header.BitsStored) <= 8


def _render(header: Any) -> Image.Image | Deep:
    from pydicom.pixels.processing import apply_modality_lut

    from benchmarks.images import dicom_codecs  # noqa: F401

    pixels = header.pixel_array
    if pixels.shape[:2] != (header.Rows, header.Columns) or pixels.ndim != 2 + (header.SamplesPerPixel > 1):
        raise UserError(
            f"its pixels must be one picture of {header.Rows} x {header.Columns}, got {pixels.shape}; export it again"
        )
    if not _is_grey(header):
        return _color(header, pixels)
    values = np.asarray(apply_modality_lut(pixels, header), dtype=np.float64)
    if not (np.abs(values) < _MAX_VALUE).all():
        raise UserError(f"its rescaled values must lie within {_MAX_VALUE:,}, got others; mend RescaleSlope")
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    padding = _padding(header, pixels)
    if not (_is_windowed(header) or _has_own_range(header)):
        return Deep(_whole(values), inverted, padding)
    grey = _to_unit(header, values)
    if inverted:
        grey = 1 - grey
    if padding is not None:
        grey[padding] = 0
    return Image.fromarray(np.rint(grey * 255).astype(np.uint8))


def _padding(header: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Where there is no image: a value, or those from one to another."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return None
    low, high = sorted((int(first), int(header.get("PixelPaddingRangeLimit", first))))
    return np.asarray((pixels >= low) & (pixels <= high))


def _whole(values: Grey) -> npt.NDArray[np.int32]:
    if (values != np.rint(values)).any():
        raise UserError(
            "its rescaled values are no whole numbers and it states no window; give it WindowCenter and WindowWidth"
        )
    return values.astype(np.int32)


def _color(header: Any, pixels: npt.NDArray[Any]) -> Image.Image:
    from pydicom.pixels.processing import apply_color_lut

    bits = int(header.BitsStored)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels, bits = apply_color_lut(pixels, header)[..., :3], int(header.RedPaletteColorLookupTableDescriptor[2])
    shown = np.rint(pixels.astype(np.float64) * 255 / (2**bits - 1))
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))


def _to_unit(header: Any, values: Grey) -> Grey:
    """Rescaled values in 0..1, in the sense of the file's photometric interpretation: (H, W)."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    if header.get("VOILUTSequence"):
        table = header.VOILUTSequence[0]
        looked_up = apply_voi(values.astype(np.int64), header)
        return looked_up.astype(np.float64) / (2 ** int(table.LUTDescriptor[2]) - 1)
    if _is_windowed(header):
        return _window(values, *_first_window(header))
    if header.get("ModalityLUTSequence"):
        return values / (2 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    bits, signed = int(header.BitsStored), int(header.PixelRepresentation)
    ends = np.array([0, 2**bits - 1]) - (2 ** (bits - 1) if signed else 0)
    low, high = sorted(np.asarray(apply_modality_lut(ends, header), dtype=np.float64))
    return ((values - low) / max(high - low, 1e-9)).clip(0, 1)


def _window(values: Grey, center: float, width: float, function: str) -> Grey:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, with output 0..1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return ((values - center) / width + 0.5).clip(0, 1)
    return ((values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5).clip(0, 1)


def _first_window(header: Any) -> tuple[float, float, str]:
    """Centre, width and function of the first of several windows: the one that viewers open with.

    Raises:
        UserError: They are none; what is no number would become black.
    """
    center, width = (float(np.ravel(value)[0]) for value in (header.WindowCenter, header.WindowWidth))
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if not (math.isfinite(center) and math.isfinite(width) and width > 0 and function in _FUNCTIONS):
        raise UserError(
            f"its window must have a centre, a width above 0 and one of {', '.join(_FUNCTIONS)}, got {center:g}, "
            f"{width:g} and {function!r}"
        )
    return center, width, function
