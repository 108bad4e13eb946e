"""DICOM images as a viewer shows them: rescaled, windowed, MONOCHROME1 inverted, 8 bits."""

import io
from collections.abc import Iterable
from typing import IO, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.errors import UserError

Grey = npt.NDArray[np.float64]

_VIEW_CODE = "ViewCode"


def is_dicom(data: bytes) -> bool:
    """Whether a file says that it is DICOM."""
    return data[128:132] == b"DICM"


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


def render(data: bytes, max_pixels: int) -> Image.Image:
    """The image as a viewer shows it, grey or RGB, 8 bits.

    Grey values go through the modality rescale, then the first window or lookup table of the file; without either, the
    range of values is stretched to black and white where more than 8 bits are stored. Padding is black.

    Args:
        data: The file.
        max_pixels: More are refused before they are decoded.

    Raises:
        UserError: Damaged, of several frames, or in an encoding that cannot be read here.
    """
    try:
        header = _open(io.BytesIO(data))
        frames, num_pixels = int(header.get("NumberOfFrames") or 1), int(header.Rows) * int(header.Columns)
        if frames == 1 and num_pixels <= max_pixels:
            return _render(header)
    except Exception as error:  # pydicom and its decoders raise whatever damage leads them to
        raise UserError(f"DICOM cannot be read: {error}") from error
    if frames != 1:
        raise UserError(f"DICOM must hold one frame, got {frames}")
    raise UserError(f"DICOM must have at most {max_pixels:,} pixels, got {num_pixels:,}: a decompression bomb")


def _open(file: IO[bytes], stop_before_pixels: bool = False) -> Any:
    """The header, and the pixels as they are stored.

    Raises:
        UserError: All of it is deflated; pydicom would inflate it to whatever size it takes.
    """
    import pydicom
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    binary = cast(BinaryIO, file)
    read_preamble(binary, force=False)
    if _read_file_meta_info(binary).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise UserError("it is deflated, which may be a decompression bomb: save it uncompressed")
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=stop_before_pixels)


def _render(header: Any) -> Image.Image:
    pixels = header.pixel_array
    if header.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return _color(header, pixels)
    grey = _to_unit(header, pixels)
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    padding = header.get("PixelPaddingValue")
    if padding is not None:
        grey[pixels == padding] = 0
    return Image.fromarray(np.rint(grey * 255).astype(np.uint8))


def _color(header: Any, pixels: npt.NDArray[Any]) -> Image.Image:
    from pydicom.pixels.processing import apply_color_lut

    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
    limit = 255 if pixels.dtype == np.uint8 else 2 ** int(header.BitsStored) - 1
    return Image.fromarray(np.rint(pixels.astype(np.float64) * 255 / limit).clip(0, 255).astype(np.uint8))


def _to_unit(header: Any, pixels: npt.NDArray[Any]) -> Grey:
    """Grey values in 0..1, in the sense of the file's photometric interpretation: (H, W)."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(pixels, header), dtype=np.float64)
    if header.get("VOILUTSequence"):
        table = header.VOILUTSequence[0]
        looked_up = apply_voi(values.astype(np.int64), header)
        return looked_up.astype(np.float64) / (2 ** int(table.LUTDescriptor[2]) - 1)
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        function = str(header.get("VOILUTFunction") or "LINEAR").upper()
        return _window(values, _first(header.WindowCenter), _first(header.WindowWidth), function)
    if int(header.BitsStored) <= 8 and values.min() >= 0 and values.max() <= 255:
        return values / (2 ** int(header.BitsStored) - 1)
    padding = header.get("PixelPaddingValue")
    shown = values[pixels != padding] if padding is not None and (pixels != padding).any() else values
    low, high = float(shown.min()), float(shown.max())
    return ((values - low) / max(high - low, 1e-9)).clip(0, 1)


def _window(values: Grey, center: float, width: float, function: str) -> Grey:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, with output 0..1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return ((values - center) / width + 0.5).clip(0, 1)
    return ((values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5).clip(0, 1)


def _first(value: Any) -> float:
    """The first of several windows: the one that viewers open with."""
    return float(value[0]) if hasattr(value, "__iter__") and not isinstance(value, str) else float(value)
