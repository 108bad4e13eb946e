"""The image store: every image of a split decoded and resized once per resolution, then read from a memory map."""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.data import Dataset
from benchmarks.decode import Pixels, num_workers, read_image

FORMAT = 1  # raise it when `read_image` changes its pixels
_MARGIN_BYTES = 64 * 2**20


def open_image_store(
    dataset: Dataset,
    split: str,
    side: int,
    cache_root: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """The images of a split as a read-only memory map: (B, 3, side, side), uint8 RGB, in the order of the split.

    Built at first use, with a thread per core, under a temporary name and then renamed: a killed build leaves nothing
    that could be taken for a store. The key holds the dataset's digest, so changed images make a new store.

    Args:
        dataset: As `open_dataset` returns it.
        split: `train`, `val` or `test`.
        side: Side length in pixels.
        cache_root: The store lies in its folder `images`.
        on_progress: Called with (images done, images in all) while the store is built.

    Raises:
        ValueError: An image cannot be read; names its path.
        RuntimeError: The disk has no room for the store.
    """
    samples = dataset.splits[split]
    shape = (len(samples), 3, side, side)
    path = cache_root / "images" / f"{dataset.name}-{dataset.digest[:16]}-{split}-{side}-v{FORMAT}.npy"
    store = _open(path, shape)
    if store is None:
        files = [dataset.root / sample.path for sample in samples]
        _build(files, shape, path, on_progress)
        store = _open(path, shape)
        assert store is not None
    return store


def _open(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    """The finished store; None where there is none or it is cut short."""
    try:
        store: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return store if store.shape == shape and store.dtype == np.uint8 else None


def _build(
    files: list[Path], shape: tuple[int, ...], path: Path, on_progress: Callable[[int, int], None] | None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    needed = int(np.prod(shape)) + _MARGIN_BYTES
    free = shutil.disk_usage(path.parent).free
    if free < needed:  # writing a memory map onto a full disk kills the process
        raise RuntimeError(
            f"image store needs {needed / 2**30:.1f} GiB free in {str(path.parent)!r}, got {free / 2**30:.1f} GiB; "
            "free some space or choose a smaller resolution"
        )
    side = shape[-1]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as scratch:
        made = Path(scratch) / path.name
        store = np.lib.format.open_memmap(made, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor(num_workers()) as pool:
            for index, image in enumerate(pool.map(lambda file: read_image(file, side), files)):
                store[index] = image
                if on_progress is not None:
                    on_progress(index + 1, len(files))
        store.flush()
        made.replace(path)
