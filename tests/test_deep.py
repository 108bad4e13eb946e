"""Files of more than 8 bits keep them, files of several pictures are refused, DICOM says itself what is black."""

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from deep_images import dicom, lookup, noise, palette_dicom, png16, several, tiff16
from PIL import Image, ImageOps
from pydicom import uid
from pydicom.encaps import encapsulate

from benchmarks.errors import UserError
from benchmarks.images.decode import decode, inspect_image, is_image, read_extent, read_image
from benchmarks.images.depth import Extent, Scale, scale_of

TWELVE = Scale(0, 12)


def shown(data: bytes, scale: Scale | None = TWELVE) -> npt.NDArray[np.int64]:
    return np.asarray(decode(data, "scan7", scale).image).astype(np.int64)


def extent(data: bytes) -> Extent | None:
    return read_extent(io.BytesIO(data), "scan7")


def to_8_bits(values: npt.NDArray[Any], high: int = 4095) -> npt.NDArray[np.int64]:
    return np.floor(values.astype(float) / high * 255 + 0.5).astype(np.int64)


@pytest.mark.parametrize("write", [png16, tiff16])
@pytest.mark.parametrize("channels", [0, 3])
def test_16_bit_grey_and_rgb_keep_their_depth(write: Any, channels: int) -> None:
    values = noise(1, 12, channels)
    data = write(values)
    np.testing.assert_array_equal(shown(data), to_8_bits(values))
    assert extent(data) == (int(values.min()), int(values.max()))


def test_rgb_of_a_compressed_and_of_a_planar_tiff(tmp_path: Path) -> None:
    import tifffile

    values = noise(2, 12, 3)
    for options in ({"compression": "lzw", "predictor": True}, {"planarconfig": "separate", "compression": "zlib"}):
        stored = values.transpose(2, 0, 1) if "planarconfig" in options else values
        tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", **options)
        np.testing.assert_array_equal(shown((tmp_path / "x.tif").read_bytes()), to_8_bits(values))


def test_jpeg_2000_keeps_its_depth() -> None:
    for channels in (0, 3):
        values = noise(3, 12, channels)
        data = bytes(imagecodecs.jpeg2k_encode(values, level=0, reversible=True, bitspersample=12))
        np.testing.assert_array_equal(shown(data), to_8_bits(values))


def test_transparent_pixels_of_16_bits_are_black() -> None:
    for channels in (2, 4):
        values = noise(4, 12, channels)
        values[..., -1] = 65535
        values[:12, :, -1] = 0
        values[12, :, -1] = 32768
        expected = to_8_bits(values[..., :-1]).squeeze()
        seen = shown(png16(values))
        assert (seen[:12] == 0).all()
        np.testing.assert_array_equal(seen[13:], expected[13:])
        np.testing.assert_allclose(seen[12], expected[12] / 2, atol=1)
    associated = tiff16(values, extra=1)  # colours are multiplied already
    np.testing.assert_array_equal(shown(associated), to_8_bits(values[..., :-1]))
    np.testing.assert_array_equal(shown(tiff16(values, extra=2))[13:], expected[13:])


@pytest.mark.parametrize("turn", range(1, 9))
def test_deep_colour_is_upright_as_pillow_turns_8_bits(turn: int) -> None:
    values = noise(5, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = turn
    eight = io.BytesIO()
    Image.fromarray(to_8_bits(values).astype(np.uint8)).save(eight, "PNG", exif=exif)
    with Image.open(eight) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(shown(tiff16(values, turn=turn)), upright)
    grey = shown(tiff16(values[..., 0], turn=turn))
    np.testing.assert_array_equal(grey, upright[..., 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_of_16_bits_is_refused_and_of_8_is_read(tmp_path: Path, dtype: Any) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "x.tif", np.full((24, 32, 4), 100, dtype), photometric="separated")
    data = (tmp_path / "x.tif").read_bytes()
    if dtype == np.uint8:
        assert shown(data).min() == (255 - 100) * (255 - 100) // 255
    else:
        with pytest.raises(UserError, match="must be grey or RGB to have more than 8 bits, got CMYK of 16; save it as"):
            shown(data)


def test_white_is_zero_where_a_tiff_says_so() -> None:
    values = noise(6)
    np.testing.assert_array_equal(shown(tiff16(values, white_is_zero=True)), 255 - to_8_bits(values))


def test_values_outside_the_scale_are_black_and_white() -> None:
    values = np.array([[-5, 0, 4095, 4400]], np.int16).repeat(2, axis=0)
    file = io.BytesIO()
    Image.fromarray(values.astype(np.int32)).save(file, "TIFF")
    assert shown(file.getvalue())[0].tolist() == [0, 0, 255, 255]
    assert shown(file.getvalue(), Scale(-5, 14))[0].tolist() == [0, 0, 64, 69]


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        (0, 255, (0, 8)), (3, 256, (0, 10)), (0, 1024, (0, 12)), (0, 4095, (0, 12)), (0, 4096, (0, 14)),
        (0, 16384, (0, 16)), (0, 65535, (0, 16)), (-1024, 3071, (-1024, 12)), (-1, 4095, (-1, 14)),
    ],
)  # fmt: skip
def test_the_smallest_depth_that_holds_all_values(low: int, high: int, scale: tuple[int, int]) -> None:
    assert scale_of(Extent(low, high), None) == scale
    assert scale_of(Extent(low, high), 12) == (0, 12)
    assert scale_of(None, 12) is None


def test_more_than_16_bits_are_refused() -> None:
    with pytest.raises(UserError, match=r"values must span at most 16 bits, got -1\.\.65535; save the images with 16"):
        scale_of(Extent(-1, 65535), None)


def test_a_deep_file_that_came_after_its_dataset_was_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(png16(noise(1)))
    with pytest.raises(UserError, match=r"new\.png': it has more than 8 bits, as no file had when its dataset was"):
        read_image(tmp_path / "new.png", 8)


def test_damaged_deep_colour_is_named() -> None:
    png, tiff = png16(noise(1, 12, 3)), tiff16(noise(1, 12, 3))
    strip = struct.pack("<HHII", 273, 4, 1, 8)  # where the pixels are
    assert strip in tiff
    for damaged in (png[: len(png) // 2], tiff.replace(strip, struct.pack("<HHII", 273, 4, 1, 10**6))):
        with pytest.raises(UserError, match=r"image must be readable, got 'scan7': .*; replace or remove the file"):
            shown(damaged)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "DICOM"])
def test_several_pictures_in_a_file_are_refused_alike(tmp_path: Path, kind: str) -> None:
    path, data = tmp_path / "several", several(kind)
    path.write_bytes(data)
    assert is_image(path)
    for read in (
        lambda: decode(data, "several"),
        lambda: extent(data),
        lambda: inspect_image(path),
        lambda: read_image(path, 8),
    ):
        with pytest.raises(UserError, match=r"it must hold one picture, got 3 .*; save each as a file of its own \("):
            read()


def test_what_a_phone_adds_to_its_picture_is_not_looked_at() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(shown(file.getvalue())[0, 0], (255, 0, 0), atol=2)


def test_a_palette_of_16_bits_is_scaled_by_its_own_depth() -> None:
    indices = noise(7, 8).astype(np.uint8)
    colours = noise(8, 16, size=(256, 3))
    np.testing.assert_array_equal(shown(palette_dicom(indices, colours), None), to_8_bits(colours[indices], 65535))


def test_dicom_without_a_window_is_scaled_by_the_dataset() -> None:
    values = noise(9)
    assert extent(dicom(values)) == (int(values.min()), int(values.max()))
    np.testing.assert_array_equal(shown(dicom(values)), to_8_bits(values))
    inverted = dicom(values, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(shown(inverted), 255 - to_8_bits(values))
    rescaled = dicom(values, RescaleSlope="2", RescaleIntercept="-1024")
    assert extent(rescaled) == (2 * int(values.min()) - 1024, 2 * int(values.max()) - 1024)
    signed = (values.astype(np.int16) - 2000).astype(np.int16)
    np.testing.assert_array_equal(shown(dicom(signed, BitsStored=16), Scale(-2000, 12)), to_8_bits(values))


def test_padding_is_black_and_no_value_of_the_image() -> None:
    values = noise(10, 10)
    values[:2], values[2:4] = 4000, 4095
    plain = values[4:]
    both = dicom(values, PixelPaddingValue=4095, PixelPaddingRangeLimit=4000, PhotometricInterpretation="MONOCHROME1")
    assert (shown(both)[:4] == 0).all() and (shown(both)[4:] > 0).all()
    one = dicom(values, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1")
    assert (shown(one)[2:4] == 0).all() and (shown(one)[:2] > 0).all()
    assert extent(dicom(values, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)) == (plain.min(), plain.max())


def test_what_a_header_says_of_its_range_is_not_left_to_the_dataset() -> None:
    values, eight = noise(11), noise(12, 7).astype(np.uint8)
    windowed = dicom(values, WindowCenter="2048", WindowWidth="4096")
    table = dicom(values, ModalityLUTSequence=[lookup(np.arange(4096) // 16, 8)])
    for data in (windowed, table, dicom(eight), dicom(noise(1, 8, 3).astype(np.uint8))):
        assert extent(data) is None
    np.testing.assert_array_equal(shown(table, None), values // 16)
    # 8 bits are not stretched, whatever values a file has, and whatever they mean
    np.testing.assert_array_equal(shown(dicom(eight), None), eight)
    np.testing.assert_array_equal(shown(dicom(eight, RescaleSlope="3", RescaleIntercept="-40"), None), eight)
    np.testing.assert_array_equal(shown(dicom((eight - 60).astype(np.int8)), None), eight.astype(int) - 60 + 128)


def test_fractions_without_a_window_are_refused() -> None:
    data = dicom(noise(13), RescaleSlope="0.3", RescaleIntercept="0")
    with pytest.raises(UserError, match=r"no whole numbers and it states no window; give it WindowCenter and"):
        shown(data)


def test_dicom_that_is_no_picture_says_so() -> None:
    header = pydicom.dcmread(io.BytesIO(dicom(noise(1))))
    del header.PixelData, header.Rows
    file = io.BytesIO()
    header.save_as(file)
    with pytest.raises(UserError, match="DICOM cannot be read: it holds no pixels"):
        shown(file.getvalue())


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEGLosslessSV1, lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12)),
        (uid.JPEGLossless, lambda values: imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (uid.JPEGLSNearLossless, imagecodecs.jpegls_encode),
        (uid.JPEGExtended12Bit, lambda values: imagecodecs.jpeg8_encode(values, level=100, bitspersample=12)),
        (
            uid.JPEG2000Lossless,
            lambda values: imagecodecs.jpeg2k_encode(values, level=0, bitspersample=12, codecformat="j2k"),
        ),
    ],
)
def test_compressed_dicom_of_archives_is_read(syntax: Any, encode: Any) -> None:
    values = noise(14)
    header = pydicom.dcmread(io.BytesIO(dicom(values)))
    header.file_meta.TransferSyntaxUID = syntax
    header.PixelData = encapsulate([encode(values)])
    header["PixelData"].VR = "OB"
    file = io.BytesIO()
    header.save_as(file)
    lossy = 1 if syntax == uid.JPEGExtended12Bit else 0
    np.testing.assert_allclose(shown(file.getvalue()), to_8_bits(values), atol=lossy)
