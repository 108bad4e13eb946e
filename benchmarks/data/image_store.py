"""The image store: every image of a split decoded once, resized once per resolution, then read from memory maps."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmarks.data.dataset import Dataset
from benchmarks.errors import MachineError
from benchmarks.images.decode import PIXEL_FORMAT, Pixels, decoding_side, in_order, read_views
from benchmarks.images.depth import Scale
from benchmarks.names import shortened
from benchmarks.storage.files import irregular
from benchmarks.storage.locks import held_lock

Progress = Callable[[int, int], None]
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_image_stores(
    dataset: Dataset,
    split: str,
    sides: Collection[int],
    cache_root: Path,
    on_progress: Progress | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> dict[int, Pixels]:
    """The images of a split by side, as read-only memory maps (B, 3, side, side), uint8 RGB, in the order of the split.

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

    def opened() -> dict[int, Pixels]:
        found = {side: _open(path, (len(samples), 3, side, side)) for side, path in paths.items()}
        return {side: store for side, store in found.items() if store is not None}

    stores = opened()
    if len(stores) < len(paths):
        with held_lock(folder / f".{prefix}.lease", on_wait):
            missing = {side: path for side, path in paths.items() if side not in opened()}
            files = [dataset.root / sample.path for sample in samples]
            if missing:
                _build(files, dataset.scale, missing, decoded_for, folder / f".{prefix}.building", on_progress)
        stores = opened()
        assert len(stores) == len(paths)
    return stores


def _open(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    """The finished store; None where there is none or it is cut short."""
    if irregular(path) is not None:
        return None
    try:
        store: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return store if store.shape == shape and store.dtype == np.uint8 else None


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
            views = in_order(lambda file: read_views(file, sides, decoded_for, scale), files)
            for index, images in enumerate(views):
                for store, image in zip(stores, images, strict=True):
                    store.write(image.tobytes())
                if on_progress is not None:
                    on_progress(index + 1, len(files))
            for store in stores:  # room was asked for ahead, so after a power cut a store could be full of zeros
                store.flush()
                os.fsync(store.fileno())
        for side, path in paths.items():
            (scratch / str(side)).replace(path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        needed = sum(len(files) * 3 * side * side for side in sides)
        free = shutil.disk_usage(scratch.parent).free
        raise MachineError(
            f"image store needs {needed / 2**30:.1f} GiB free in {str(scratch.parent)!r}, got {free / 2**30:.1f} GiB "
            f"({error.strerror}); free some space, choose another --cache or a smaller resolution"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _reserve(store: BinaryIO, shape: tuple[int, ...]) -> None:
    """Writes the header and asks for the room of all images, so that a full disk shows now and not after hours."""
    np.lib.format.write_array_header_1_0(store, {"descr": "|u1", "fortran_order": False, "shape": shape})
    store.flush()
    if hasattr(os, "posix_fallocate"):  # macOS has none; there a full disk shows as the failed write that it is
        os.posix_fallocate(store.fileno(), store.tell(), int(np.prod(shape)))
