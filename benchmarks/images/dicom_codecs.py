"""Teaches pydicom to decode lossless JPEG, JPEG-LS and 12-bit JPEG, in which archives keep most DICOM; on import."""

from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.decoders import base

_DECODE = {
    uid.JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLossless: imagecodecs.jpegsof3_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpegsof3_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
}


def is_available(syntax: str) -> bool:
    """Whether this decodes a transfer syntax, as pydicom asks of a plugin."""
    return syntax in _DECODE


def decode_frame(source: bytes, runner: Any) -> bytes:
    """The pixels of a frame, as pydicom asks of a plugin."""
    pixels = np.asarray(_DECODE[runner.transfer_syntax](source))
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    if pixels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return pixels.tobytes()


for _decoder in (
    base.JPEGExtended12BitDecoder,
    base.JPEGLosslessDecoder,
    base.JPEGLosslessSV1Decoder,
    base.JPEGLSLosslessDecoder,
    base.JPEGLSNearLosslessDecoder,
):
    _decoder.add_plugin("imagecodecs", (__name__, decode_frame.__name__))
