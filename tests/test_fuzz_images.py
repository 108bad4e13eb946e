"""Whatever an image holds, a user gets its picture or one line.

Containers are valid and what they say of their content is not: header fields, tags and chunks are replaced by odd ones,
checksums are right. Then bytes at random.
"""

import resource
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import raw_trees
from damage import INTEGERS, LARGE, broken, fuzz, only_clean_errors
from deep_images import dicom, noise, palette_dicom, png16, png_chunks, tiff16
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

from benchmarks.errors import UserError
from benchmarks.images.decode import MAX_PIXELS, decode, inspect_image, is_image, read_extent
from benchmarks.images.depth import Scale
from benchmarks.images.dicom import read_tags

# Pillow and pydicom warn of damages that they can live with
pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore")]

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
    is_image(path)
    with only_clean_errors(), path.open("rb") as file:
        read_extent(file, path.name)
    with only_clean_errors(), path.open("rb") as file:
        read_tags(file, path.name, ["PatientID"])
    with warnings.catch_warnings(record=True) as caught, only_clean_errors():
        warnings.simplefilter("always")
        facts, decoded = inspect_image(path, SCALE), decode(data, path.name, SCALE)
        assert 0 < facts.width * facts.height <= MAX_PIXELS and decoded.image.mode in ("L", "RGB")
        numbers = [warning for warning in caught if issubclass(warning.category, RuntimeWarning)]
        assert not numbers, numbers[0].message


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
WIDE = (b"OB", b"OW", b"SQ", b"UN", b"UT")  # kinds whose length takes four bytes
SCANS = {
    "grey": dicom(noise(1)),
    "windowed": dicom(noise(2), WindowCenter=2000, WindowWidth=900, VOILUTFunction="SIGMOID"),
    "colour": dicom(noise(3, 8, 3).astype(np.uint8)),
    "palette": palette_dicom(noise(4, 8).astype(np.uint8), np.zeros((256, 3), np.uint16)),
}


def elements(data: bytes) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """The fields of a DICOM file with explicit types and without sequences: kind and content, by tag."""
    found, place = {}, 132
    while place < len(data):
        tag, kind = struct.unpack_from("<HH", data, place), data[place + 4 : place + 6]
        start = place + (12 if kind in WIDE else 8)
        (length,) = struct.unpack_from("<I" if kind in WIDE else "<H", data, start - (4 if kind in WIDE else 2))
        found[tag] = kind, data[start : start + length]
        place = start + length
    return found


def with_fields(data: bytes, fields: Mapping[str, bytes]) -> bytes:
    """A DICOM file with other content in some fields, in the order and with the lengths that DICOM asks for."""
    found = elements(data)
    for keyword, content in fields.items():
        tag = Tag(keyword)
        found[tag.group, tag.element] = kind_of(keyword), content
    changed = data[:132]
    for (group, number), (kind, content) in sorted(found.items()):
        length = struct.pack("<2xI" if kind in WIDE else "<H", len(content))
        changed += struct.pack("<HH", group, number) + kind + length + content
    return changed


def kind_of(keyword: str) -> bytes:
    """The first kind of content that DICOM's dictionary allows for a field."""
    return dictionary_VR(Tag(keyword)).split(" or ")[0].encode()


@st.composite
def odd_fields(draw: st.DrawFn) -> dict[str, bytes]:
    """Odd content for up to three fields of a DICOM header, mostly of the kind that belongs there."""
    numbers = st.lists(INTEGERS, max_size=4).map(lambda found: struct.pack(f"<{len(found)}H", *found))
    words, others = st.sampled_from(WORDS), st.sampled_from(WORDS) | st.binary(max_size=8)
    chosen = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True))
    likely = {field: numbers if kind_of(field) in (b"US", *WIDE) else words for field in chosen}
    return {field: draw(likely[field] | likely[field] | others) for field in chosen}


@pytest.mark.parametrize("kind", SCANS)
@fuzz
@given(st.data())
def test_scans_of_odd_headers(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    look(tmp_path_factory.getbasetemp() / "scan.dcm", with_fields(SCANS[kind], data.draw(odd_fields())))


NO_PICTURES: list[tuple[str, dict[str, bytes]]] = [
    ("windowed", {"WindowCenter": b"nan "}),
    ("windowed", {"WindowWidth": b"nan "}),
    ("windowed", {"WindowWidth": b"0 "}),
    ("windowed", {"VOILUTFunction": b"LINEAR", "WindowWidth": b"-1"}),
    ("windowed", {"VOILUTFunction": b"BOGUS "}),
    ("windowed", {"RescaleIntercept": b"0 ", "RescaleSlope": b"nan "}),
    ("grey", {"RescaleIntercept": b"0 ", "RescaleSlope": b"1e30"}),
    ("colour", {"Rows": struct.pack("<H", 1)}),  # so that there are pixels for 24 frames
]


@pytest.mark.parametrize(("kind", "fields"), NO_PICTURES)
def test_what_failed_once_is_refused(tmp_path: Path, kind: str, fields: dict[str, bytes]) -> None:
    path = tmp_path / "scan.dcm"
    path.write_bytes(with_fields(SCANS[kind], fields))
    with pytest.raises(UserError, match="image must be readable"):
        inspect_image(path, SCALE)


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
    return data[:8] + png_chunks(parts) + data[33:]


@pytest.mark.parametrize("channels", [0, 2, 3, 4])
@fuzz
@given(st.data())
def test_pngs_of_odd_chunks(tmp_path_factory: pytest.TempPathFactory, channels: int, data: st.DataObject) -> None:
    look(tmp_path_factory.getbasetemp() / "picture.png", data.draw(odd_pngs(png16(noise(1, channels=channels)))))
