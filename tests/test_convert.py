"""Raw images as a clinician would see them: bit depths, modes, rotation, DICOM; and what is kept of their bytes."""

import contextlib
import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from raw_trees import picture, pixels, write_dicom

from benchmarks.images.decode import decode, pixel_digest
from benchmarks.images.depth import Scale
from benchmarks.images.dicom import render
from benchmarks.prepare.convert import Converted, convert
from benchmarks.raw.files import RawFile


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(data: bytes, scale: Scale | None = None) -> npt.NDArray[np.int64]:
    return np.asarray(decode(data, "x", scale).image.convert("RGB")).astype(np.int64)


def converted(
    folder: Path, data: bytes, max_side: int | None = None, link: bool = False, scale: Scale | None = None
) -> tuple[Converted, Path]:
    (folder / "raw").write_bytes(data)
    made = convert(RawFile(folder, "raw", "", len(data), 0), "stem", folder, max_side, link, scale)
    return made, folder / made.name


def test_palette_indices_are_never_pixels() -> None:
    image = picture(1, "L").convert("P", palette=Image.Palette.ADAPTIVE)
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    np.testing.assert_array_equal(shown(encoded(image))[..., 0], 255 - np.asarray(image).astype(int))


def test_transparent_is_black_and_opaque_keeps_its_colour() -> None:
    image = picture(3).convert("RGBA")
    alpha = np.full((36, 48), 255, np.uint8)
    alpha[:, :24] = 0
    image.putalpha(Image.fromarray(alpha))
    seen = shown(encoded(image))
    assert (seen[:, :24] == 0).all()
    np.testing.assert_array_equal(seen[:, 24:], pixels(3)[:, 24:])


def test_cmyk_jpeg_has_its_colours() -> None:
    image = Image.new("RGB", (32, 32), (200, 60, 30))
    seen = shown(encoded(image.convert("CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(seen, np.broadcast_to((200, 60, 30), seen.shape), atol=4)


@pytest.mark.parametrize(("tag", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_rotated_jpeg_is_upright(tag: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    data = encoded(picture(4, "L"), "JPEG", quality=100, exif=exif)
    expected = np.rot90(pixels(4, channels=1)[..., 0].astype(int), turn)
    np.testing.assert_allclose(shown(data)[..., 0], expected, atol=3)


def test_plain_files_keep_their_bytes_and_get_the_suffix_of_their_content(tmp_path: Path) -> None:
    for data, name in ((encoded(picture(5), "JPEG"), "stem.jpg"), (encoded(picture(5, "L")), "stem.png")):
        made, path = converted(tmp_path, data, max_side=36)
        assert (made.name, made.how, made.sha256) == (name, "copied", hashlib.sha256(data).hexdigest())
        assert path.read_bytes() == data
        assert path.stat().st_ino != (tmp_path / "raw").stat().st_ino


def test_a_link_shares_the_file_only_when_asked(tmp_path: Path) -> None:
    made, path = converted(tmp_path, encoded(picture(6)), link=True)
    assert made.how == "linked"
    assert path.stat().st_ino == (tmp_path / "raw").stat().st_ino


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("BMP", ".png")])
def test_the_shorter_side_is_reduced_and_nothing_is_enlarged(tmp_path: Path, kind: str, suffix: str) -> None:
    data = encoded(picture(7, width=120, height=60), kind)
    made, path = converted(tmp_path, data, max_side=30)
    assert (path.suffix, made.how) == (suffix, "reduced")
    with Image.open(path) as image:
        assert image.size == (60, 30)
        assert pixel_digest(image) == made.pixels
        expected = np.asarray(decode(data, "x").image.resize((60, 30), Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < (6 if kind == "JPEG" else 0.01)
    with Image.open(converted(tmp_path, data, max_side=61)[1]) as image:
        assert image.size == (120, 60)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_other_modes_become_grey_or_rgb_png(tmp_path: Path, mode: str) -> None:
    image = (
        Image.fromarray(pixels(8, channels=1)[..., 0].astype(np.uint16) * 200) if mode == "I;16" else picture(8, mode)
    )
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    made, path = converted(tmp_path, data, scale=Scale(0, 16))
    assert (made.name, made.how) == ("stem.png", "rewritten")
    with Image.open(path) as written:
        assert written.mode == {"1": "L", "LA": "L", "I;16": "L"}.get(mode, "RGB")
        np.testing.assert_array_equal(np.asarray(written.convert("RGB")), shown(data, Scale(0, 16)))


def test_the_digest_is_that_of_what_is_seen() -> None:
    grey = picture(9, "L")
    assert pixel_digest(grey) == pixel_digest(grey.convert("RGB"))
    assert pixel_digest(grey) != pixel_digest(grey.transpose(Image.Transpose.ROTATE_90).resize(grey.size))
    assert pixel_digest(Image.new("L", (4, 2))) != pixel_digest(Image.new("L", (2, 4)))


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(picture(1))[:300], encoded(picture(1), "JPEG")[:700]])
def test_damage_is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"image must be readable, got 'scan7'.*; replace or remove the file"):
        decode(data, "scan7")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "PPM", "DICOM"])
def test_no_damage_has_another_error(tmp_path: Path, kind: str) -> None:
    whole = dicom(tmp_path) if kind == "DICOM" else encoded(picture(1), kind)
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, min(len(data), 600), 8)] = rng.integers(0, 256, 8)
        with contextlib.suppress(ValueError), warnings.catch_warnings(action="ignore"):
            decode(data.tobytes(), "scan7")


def dicom(folder: Path, **changes: Any) -> bytes:
    """The 16-bit mammogram of the raw trees (values 480 to 3600, window 0 to 4096) with other header fields."""
    write_dicom(folder / "1-1.dcm", 11, "D1-0001", "L", "CC", 4)
    header = pydicom.dcmread(folder / "1-1.dcm")
    for keyword, value in changes.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    header.save_as(folder / "1-1.dcm")
    return (folder / "1-1.dcm").read_bytes()


VALUES = pixels(11, 40, 60, 1)[..., 0].astype(float) * 16


def test_the_window_of_the_file_is_applied(tmp_path: Path) -> None:
    expected = np.clip((VALUES - 999.5) / 999 + 0.5, 0, 1) * 255
    seen = shown(dicom(tmp_path, WindowCenter=["1000", "5"], WindowWidth=["1000", "9"]))[..., 0]
    np.testing.assert_allclose(seen, expected, atol=0.51)
    inverted = dicom(tmp_path, WindowCenter="1000", WindowWidth="1000", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(shown(inverted)[..., 0], 255 - expected, atol=0.51)


def test_rescaling_comes_before_the_window(tmp_path: Path) -> None:
    data = dicom(tmp_path, RescaleSlope="2", RescaleIntercept="-1000", WindowCenter="1000", WindowWidth="4000")
    expected = np.clip((2 * VALUES - 1000 - 999.5) / 3999 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(shown(data)[..., 0], expected, atol=0.51)


@pytest.mark.parametrize("function", ["SIGMOID", "LINEAR_EXACT"])
def test_other_window_functions(tmp_path: Path, function: str) -> None:
    data = dicom(tmp_path, WindowCenter="1500", WindowWidth="1000", VOILUTFunction=function)
    exact = np.clip((VALUES - 1500) / 1000 + 0.5, 0, 1) * 255
    sigmoid = 255 / (1 + np.exp(-4 * (VALUES - 1500) / 1000))
    np.testing.assert_allclose(shown(data)[..., 0], sigmoid if function == "SIGMOID" else exact, atol=0.51)


def test_a_lookup_table_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table.LUTData = list(range(4095, -1, -1))
    table["LUTData"].VR = "US"
    table["LUTDescriptor"].VR = "US"
    seen = shown(dicom(tmp_path, VOILUTSequence=[table]))[..., 0]
    np.testing.assert_allclose(seen, (4095 - VALUES) / 4095 * 255, atol=0.51)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"NumberOfFrames": 3}, "one picture, got 3 frames"), ({"PixelData": b"short"}, "DICOM cannot be read")],
)
def test_dicom_that_is_not_an_image(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"image must be readable, got 'scan7': .*{message}"):
        decode(dicom(tmp_path, **changes), "scan7")


def test_a_huge_dicom_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at most 100 pixels, got 2,400: a decompression bomb"):
        render(io.BytesIO(dicom(tmp_path)), 100)
