"""Builds images of more than 8 bits and DICOM files of one's own, written without the libraries that read them."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

COUNTS = {"train": 4, "val": 2, "test": 2}  # of each class
CLASSES = ("clean", "marked")
_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # channels to PNG's type of colour

Array = npt.NDArray[Any]


def noise(seed: int, bits: int = 12, channels: int = 0, size: tuple[int, int] = (24, 32)) -> npt.NDArray[np.uint16]:
    """Random values of so many bits, (H, W) or (H, W, channels)."""
    shape = (*size, channels) if channels else size
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint16)


def png16(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a sample: grey, grey with alpha, RGB or RGBA."""
    height, width, *channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOUR[(channels or [1])[0]], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + png_chunks(parts)


def png_chunks(parts: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Chunks of a PNG, given as kind and content, with their lengths and checksums."""
    return b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def tiff16(
    pixels: npt.NDArray[np.uint16], white_is_zero: bool = False, extra: int | None = None, turn: int = 1
) -> bytes:
    """An uncompressed TIFF of 16 bits a sample: grey, RGB or RGBA, its alpha of kind `extra`."""
    height, width, *rest = pixels.shape
    channels = rest[0] if rest else 1
    photometric = 2 if channels > 1 else 0 if white_is_zero else 1
    data, table = pixels.astype("<u2").tobytes(), 8 + pixels.size * 2
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 16), (259, 3, 1, 1), (262, 3, 1, photometric)]
    tags += [(273, 4, 1, 8), (274, 3, 1, turn), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data))]
    tags += [(338, 3, 1, extra)] if extra is not None else []
    bits = table + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, bits if count > 1 else value) for tag, kind, count, value in tags
    )
    ending = struct.pack("<I", 0) + struct.pack("<H", 16) * channels
    return b"II*\0" + struct.pack("<I", table) + data + struct.pack("<H", len(tags)) + entries + ending


def dicom(pixels: Array, **changes: Any) -> bytes:
    """A DICOM file, 12 bits in 16, without a window, with other header fields at will; None takes one away."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = CTImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = (1, "MONOCHROME2") if pixels.ndim == 2 else (3, "RGB")
    if pixels.ndim == 3:
        header.PlanarConfiguration = 0
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.BitsAllocated = 8 * pixels.itemsize
    header.BitsStored = changes.pop("BitsStored", 12 if pixels.itemsize == 2 else 8)
    header.HighBit = header.BitsStored - 1
    header.PixelData = pixels.tobytes()
    header["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    for keyword, value in changes.items():
        setattr(header, keyword, value)
        if keyword.startswith("PixelPadding"):
            header[keyword].VR = "SS" if header.PixelRepresentation else "US"
    file = io.BytesIO()
    pydicom.dcmwrite(file, header, enforce_file_format=True)
    return file.getvalue()


def lookup(values: Array, bits: int) -> Dataset:
    """An item of a sequence of lookup tables, from 0 on."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [len(values), 0, bits], [int(value) for value in values]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    return table


def palette_dicom(indices: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint16]) -> bytes:
    """Indices of 8 bits into 256 colours of 16 bits (256, 3)."""
    tables: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for index, name in enumerate(("Red", "Green", "Blue")):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = colours[:, index].astype("<u2").tobytes()
    return dicom(indices, **tables)


def folder(root: Path, build: Callable[[str, int], bytes], suffix: str = ".png") -> Path:
    """A dataset of files that `build` makes of a class and a number."""
    number = 0
    for split, count in COUNTS.items():
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                number += 1
                (root / split / name / f"{index}{suffix}").write_bytes(build(name, number))
    return root


def marked(name: str, number: int) -> npt.NDArray[np.uint16]:
    """12-bit noise; an image of the class `marked` has a burned-in mark of value 4400."""
    values = noise(number)
    if name == "marked":
        values[:3, :3] = 4400
    return values


def several(kind: str) -> bytes:
    """A file of three pictures."""
    frames = [Image.fromarray(noise(seed, 8).astype(np.uint8)) for seed in range(3)]
    if kind == "DICOM":
        return dicom(np.concatenate([np.asarray(frame) for frame in frames]), Rows=24, NumberOfFrames=3)
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()
