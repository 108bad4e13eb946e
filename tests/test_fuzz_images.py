"""Whatever an image holds, a user gets its picture or one line.

Containers are valid and what they say of their content is not: header fields, tags and chunks are replaced by odd ones,
checksums are right. Then bytes at random.
"""

import io
import resource
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import raw_trees
from damage import INTEGERS, LARGE, broken, fuzz, only_clean_errors
from deep_images import dicom, noise, palette_dicom, png16, tiff16
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from benchmarks.images.decode import MAX_PIXELS, decode, inspect_image, is_image, read_extent
from benchmarks.images.depth import Scale
from benchmarks.images.dicom import read_tags

pytestmark = pytest.mark.fuzz

GIB = 2**30
ROOM = 3 * GIB  # what the largest picture takes as RGB in double precision, and what Python holds
SCALE = Scale(0, 4095)


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    """A file that asks for more memory than any picture needs fails here instead of taking the machine down."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def look(path: Path, data: bytes) -> None:
    """Reads an image in every way there is; a number that is none must not become a pixel."""
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow and pydicom warn of damages that they can live with
        warnings.simplefilter("error", RuntimeWarning)  # numpy makes a pixel of what is no number
        is_image(path)
        with only_clean_errors():
            facts = inspect_image(path, SCALE)
            assert 0 < facts.width * facts.height <= MAX_PIXELS
        with only_clean_errors():
            decoded = decode(data, path.name, SCALE)
            assert decoded.image.mode in ("L", "RGB")
        with only_clean_errors(), path.open("rb") as file:
            read_extent(file, path.name)
        with only_clean_errors(), path.open("rb") as file:
            read_tags(file, path.name, ["PatientID"])


PICTURES = {
    **{kind: {"format": kind} for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")},
    "deflated TIFF": {"format": "TIFF", "compression": "tiff_deflate"},
    "MPO": {"format": "MPO"},
}


@pytest.mark.parametrize("kind", [*PICTURES, "DICOM"])
@fuzz
@given(st.data())
def test_images_of_odd_bytes(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / f"picture of {kind}.png"
    if kind == "DICOM":
        raw_trees.write_dicom(path, 1, "D1-0001", "L", "CC", 4)
    else:
        raw_trees.picture(1).save(path, **PICTURES[kind])
    look(path, data.draw(broken(path.read_bytes())))


FIELDS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "PixelPaddingValue", "PatientID"),
    *("PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "VOILUTFunction"),
    *("VOILUTSequence", "ModalityLUTSequence", "ViewCodeSequence", "RedPaletteColorLookupTableDescriptor", "PixelData"),
    *("RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "SpecificCharacterSet"),
)
WORDS = [b"nan ", b"inf ", b"-inf", b"0 ", b"-1", b"1e999 ", b"1\\2", b"\\\\", b"MONOCHROME1 ", b"RGB ", b"YBR_FULL"]
WORDS += [b"PALETTE COLOR ", b"SIGMOID ", b"LINEAR_EXACT", b"ISO 2022 IR 87", b"", b"\0", b"\xff\xfe\0\xe0", b" "]
SCANS = {
    "grey": dicom(noise(1)),
    "windowed": dicom(noise(2), WindowCenter=2000, WindowWidth=900, VOILUTFunction="SIGMOID"),
    "colour": dicom(noise(3, 8, 3).astype(np.uint8)),
    "palette": palette_dicom(noise(4, 8).astype(np.uint8), np.zeros((256, 3), np.uint16)),
}


@st.composite
def odd_scans(draw: st.DrawFn, data: bytes) -> bytes:
    """A DICOM file whose header has up to three fields of odd content, in the order and lengths that DICOM asks for."""
    header = pydicom.dcmread(io.BytesIO(data))
    for _ in range(draw(st.integers(1, 3))):
        tag = Tag(draw(st.sampled_from(FIELDS)))
        numbers = st.lists(INTEGERS, max_size=4).map(lambda found: struct.pack(f"<{len(found)}H", *found))
        value = draw(numbers | st.sampled_from(WORDS) | st.binary(max_size=4).map(lambda found: found * 2))
        kind = dictionary_VR(tag).split(" or ")[0]
        header[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)
    file = io.BytesIO()
    header.save_as(file)  # raw elements as they are
    return file.getvalue()


@pytest.mark.parametrize("kind", SCANS)
@fuzz
@given(st.data())
def test_scans_of_odd_headers(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    look(tmp_path_factory.getbasetemp() / "scan.dcm", data.draw(odd_scans(SCANS[kind])))


@st.composite
def odd_tiffs(draw: st.DrawFn, data: bytes) -> bytes:
    """A TIFF with up to three entries of its directory changed: tag, type, count or value."""
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = start + 2 + 12 * draw(st.integers(0, entries - 1))
        offset, form = draw(st.sampled_from([(0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (8, "<I")]))
        struct.pack_into(form, changed, place + offset, draw(INTEGERS if form == "<H" else LARGE))
    return bytes(changed)


TIFFS = {
    "grey": tiff16(noise(1)),
    "colour": tiff16(noise(2, channels=3)),
    "alpha": tiff16(noise(3, channels=4), extra=2),
}


@pytest.mark.parametrize("kind", TIFFS)
@fuzz
@given(st.data())
def test_tiffs_of_odd_tags(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    look(tmp_path_factory.getbasetemp() / "picture.tif", data.draw(odd_tiffs(TIFFS[kind])))


@st.composite
def odd_pngs(draw: st.DrawFn, data: bytes) -> bytes:
    """A PNG with fields of its header changed and a chunk more, all checksums right."""
    width, height, *kinds = struct.unpack(">IIBBBBB", data[16:29])
    fields = [draw(st.just(width) | LARGE), draw(st.just(height) | LARGE)]
    fields += [draw(st.just(kind) | st.sampled_from([0, 1, 2, 3, 4, 6, 8, 16, 255])) for kind in kinds]
    more = draw(st.sampled_from([b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"acTL", b"zTXt", b"gAMA", b"IDAT", b"IEND"]))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *fields)), (more, draw(st.binary(max_size=12)))]
    chunks = [
        struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))
        for kind, inside in parts
    ]
    return data[:8] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize("channels", [0, 2, 3, 4])
@fuzz
@given(st.data())
def test_pngs_of_odd_chunks(tmp_path_factory: pytest.TempPathFactory, channels: int, data: st.DataObject) -> None:
    look(tmp_path_factory.getbasetemp() / "picture.png", data.draw(odd_pngs(png16(noise(1, channels=channels)))))
