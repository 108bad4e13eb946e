"""The image store: every image of a split decoded once, resized once per resolution, then read from memory maps.

Behind the images a store holds a checksum of each, CRC-32: it is to find damage and edits, of which it misses one in
four billion, not forgery, and takes a tenth of a millisecond for 224 px. It is compared when an image is first read.
"""

import contextlib
import errno
import os
import shutil
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.dataset import Dataset
from benchmarks.errors import MachineError
from benchmarks.images.decode import PIXEL_FORMAT, Pixels, decoding_side, in_order, read_views
from benchmarks.images.depth import Scale
from benchmarks.names import shortened
from benchmarks.storage.files import irregular
from benchmarks.storage.locks import held_lock
from benchmarks.storage.notes import say

Progress = Callable[[int, int], None]
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHECKSUM = np.dtype("<u4")


class ImageStore:
    """The images of a split at one side, uint8 RGB, each checked when it is read for the first time.

    Args:
        path: A file that `open_image_stores` has built.
        shape: Of all images `(n, 3, side, side)`.
        decode: Makes the image at an index anew, from the file that is its source.

    Attributes:
        shape: As given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut short, or something else.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], decode: Callable[[int], Pixels]) -> None:
        self.shape = shape
        self._path, self._decode = path, decode
        self._pixels = np.lib.format.open_memmap(path, mode="r")
        if self._pixels.shape != shape or self._pixels.dtype != np.uint8:
            raise ValueError(f"it holds {self._pixels.dtype} {self._pixels.shape}, not uint8 {shape}")
        self._start = self._pixels.offset
        self._checksums = np.fromfile(path, _CHECKSUM, offset=self._start + self._pixels.nbytes)
        if self._checksums.shape != shape[:1]:
            raise ValueError(f"it holds {len(self._checksums)} checksums, not {shape[0]}")
        self._checked = np.zeros(shape[0], bool)
        self._said = False

    def __getitem__(self, indices: NDArray[np.int64]) -> Pixels:
        """Copies of some images `(B, 3, side, side)`; what is damaged is made anew, about which there is one note."""
        images: Pixels = self._pixels[indices]
        for place in np.flatnonzero(~self._checked[indices]):
            index = int(indices[place])
            if checksum(self._path, images[place]) == self._checksums[index]:
                self._checked[index] = True
            else:
                images[place] = self._mend(index)
        return images

    def _mend(self, index: int) -> Pixels:
        """Makes an image anew and puts it back, where that can be; it is checked again when it is read again."""
        if not self._said:
            self._said = True
            say(f"image store {self._path.name} is damaged: the damaged images are made anew")
        image = self._decode(index)
        self._checksums[index] = checksum(self._path, image)
        behind = self._start + self._pixels.nbytes + index * _CHECKSUM.itemsize
        with contextlib.suppress(OSError), self._path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), image.tobytes(), self._start + index * image.nbytes)
            os.pwrite(file.fileno(), self._checksums[index].tobytes(), behind)
        return image


def checksum(path: Path, image: Pixels) -> int:
    """CRC-32 of an image, and of the name of its store: one copied over another is damage too."""
    return zlib.crc32(np.ascontiguousarray(image).data, zlib.crc32(os.fsencode(path.name)))


def open_image_stores(
    dataset: Dataset,
    split: str,
    sides: Collection[int],
    cache_root: Path,
    on_progress: Progress | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> dict[int, ImageStore]:
    """The images of a split by side, in the order of the split.

    What is missing is built at first use: a thread per core, each image decoded once for all missing sides, written
    under another name and then renamed, so that a killed build leaves nothing that could be taken for a store. Of
    several processes that want it, one builds and the others wait. The key holds the dataset's digest, so changed
    images make a new store.

    Args:
        dataset: As `open_dataset` returns it.
        split: `train`, `val` or `test`.
        sides: Side lengths in pixels, of all views of a model.
        cache_root: The stores lie in its folder `images`.
        on_progress: Called with (images done, images in all) while stores are built.
        on_wait: Called before waiting for another process that builds them.

    Raises:
        UserError: An image cannot be read; names its path.
        MachineError: The disk has no room for the stores.
    """
    samples = dataset.splits[split]
    decoded_for = decoding_side(sides)
    prefix = f"{shortened(dataset.name)}-{dataset.digest[:16]}-{split}"
    folder = cache_root / "images"
    paths = {side: folder / f"{prefix}-{side}-of-{decoded_for}-v{PIXEL_FORMAT}.npy" for side in sides}
    files = [dataset.root / sample.path for sample in samples]

    def opened() -> dict[int, ImageStore]:
        found = {side: _open(path, side, files, decoded_for, dataset.scale) for side, path in paths.items()}
        return {side: store for side, store in found.items() if store is not None}

    stores = opened()
    if len(stores) < len(paths):
        with held_lock(folder / f".{prefix}.lease", on_wait):
            ready = opened()
            missing = {side: path for side, path in paths.items() if side not in ready}
            for path in filter(os.path.lexists, missing.values()):
                say(f"image store {path.name} is damaged, or of another version of this program: it is made anew")
            if missing:
                _build(files, dataset.scale, missing, decoded_for, folder / f".{prefix}.building", on_progress)
        stores = opened()
        assert len(stores) == len(paths)
    return stores


def _open(path: Path, side: int, files: list[Path], decoded_for: int, scale: Scale | None) -> ImageStore | None:
    """The finished store; None where there is none or it is cut short."""
    if irregular(path) is not None:
        return None

    def decode(index: int) -> Pixels:
        (image,) = read_views(files[index], [side], decoded_for, scale)
        return image

    try:
        return ImageStore(path, (len(files), 3, side, side), decode)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def _build(
    files: list[Path],
    scale: Scale | None,
    paths: dict[int, Path],
    decoded_for: int,
    scratch: Path,
    on_progress: Progress | None,
) -> None:
    """Writes the stores by side; the caller holds the lock, so what lies in `scratch` is of a build that was killed."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    sides = list(paths)
    try:
        with contextlib.ExitStack() as stack:
            stores = [stack.enter_context((scratch / str(side)).open("wb")) for side in sides]
            for side, store in zip(sides, stores, strict=True):
                _reserve(store, (len(files), 3, side, side))
            checksums = np.zeros((len(sides), len(files)), _CHECKSUM)
            views = in_order(lambda file: read_views(file, sides, decoded_for, scale), files)
            for index, images in enumerate(views):
                for place, (side, image) in enumerate(zip(sides, images, strict=True)):
                    stores[place].write(image.tobytes())
                    checksums[place, index] = checksum(paths[side], image)
                if on_progress is not None:
                    on_progress(index + 1, len(files))
            for store, values in zip(stores, checksums, strict=True):
                store.write(values.tobytes())
                store.flush()  # room was asked for ahead, so after a power cut a store could be full of zeros
                os.fsync(store.fileno())
        for side, path in paths.items():
            (scratch / str(side)).replace(path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        needed = sum(len(files) * (3 * side * side + _CHECKSUM.itemsize) for side in sides)
        free = shutil.disk_usage(scratch.parent).free
        raise MachineError(
            f"image store needs {needed / 2**30:.1f} GiB free in {str(scratch.parent)!r}, got {free / 2**30:.1f} GiB "
            f"({error.strerror}); free some space, choose another --cache or a smaller resolution"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _reserve(store: BinaryIO, shape: tuple[int, ...]) -> None:
    """Writes the header and asks for the room of what follows, so that a full disk shows now and not after hours."""
    np.lib.format.write_array_header_1_0(store, {"descr": "|u1", "fortran_order": False, "shape": shape})
    store.flush()
    if hasattr(os, "posix_fallocate"):  # macOS has none; there a full disk shows as the failed write that it is
        os.posix_fallocate(store.fileno(), store.tell(), int(np.prod(shape)) + shape[0] * _CHECKSUM.itemsize)
