"""Images and labels in the arrays of a `.npz` file, as numpy writes it. Pickled objects are refused, never read."""

import threading
import zipfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
from PIL import Image

from benchmarks.errors import MachineError, UserError
from benchmarks.raw.files import DAMAGES, RawFile
from benchmarks.raw.held import HeldImage

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PNG_LEVEL = 3
_ONE_AT_A_TIME = threading.Lock()  # threads that convert images ask for one array at the same time


class Header(NamedTuple):
    """What an array is, read without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        """Of its values."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def read_headers(file: RawFile) -> dict[str, Header]:
    """What each array of a file is, by name.

    Raises:
        UserError: It is no such file, it is damaged, or it holds pickled objects.
    """
    path = file.root / file.path
    headers: dict[str, Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as opened:
                    shape, _, dtype = _READERS[np.lib.format.read_magic(opened)](opened)
                    stated = opened.tell() + Header(shape, dtype).num_bytes
                headers[name] = Header(shape, dtype)
                if not dtype.hasobject and stated != member.file_size:
                    raise ValueError(f"{name} states {stated:,} bytes and has {member.file_size:,}")
    except (*DAMAGES, KeyError, OSError) as error:
        raise _damaged(path, error) from error
    pickled = [name for name, header in headers.items() if header.dtype.hasobject]
    if pickled:
        raise UserError(
            f"arrays must hold numbers, got pickled objects in {', '.join(pickled)} of {str(path)!r}, which may run "
            "any program when they are read; save them as numbers"
        )
    return headers


def read_array(file: RawFile, name: str) -> npt.NDArray[Any]:
    """The values of an array.

    Raises:
        UserError: They are damaged.
        MachineError: They do not fit into the memory that is free.
    """
    path = file.root / file.path
    needed, free = read_headers(file)[name].num_bytes, psutil.virtual_memory().available
    if needed > free:
        raise MachineError(
            f"memory must hold {name} of {str(path)!r}, {needed / 2**30:.1f} GiB, got {free / 2**30:.1f} GiB free; end "
            "other programs, or take images of a smaller size"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values: npt.NDArray[Any] = arrays[name]
    except (*DAMAGES, KeyError, OSError) as error:
        raise _damaged(path, error) from error
    return values


def held_images(file: RawFile, name: str, header: Header) -> list[HeldImage]:
    """The images of an array (N, H, W) or (N, H, W, 3) of bytes, as PNG files; read when one is asked for."""
    size = header.num_bytes // header.shape[0]
    return [
        HeldImage(file.root, file.path, f"{name}/{row}", size, file.stamp, load=lambda row=row: _png(file, name, row))  # type: ignore[misc]
        for row in range(header.shape[0])
    ]


def _png(file: RawFile, name: str, row: int) -> bytes:
    with _ONE_AT_A_TIME:
        pixels = _kept(file, name)[row]  # (H, W) or (H, W, 3)
    made = BytesIO()
    Image.fromarray(pixels).save(made, "PNG", compress_level=_PNG_LEVEL)
    return made.getvalue()


@lru_cache(maxsize=2)  # that of one split, and that of the next, which other threads have begun
def _kept(file: RawFile, name: str) -> npt.NDArray[Any]:
    return read_array(file, name)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"arrays must be a complete .npz file, got {str(path)!r} ({error}); download it again")
