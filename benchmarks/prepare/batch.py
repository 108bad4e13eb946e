"""Converts all images of a dataset on every core, each of them once."""

import shutil
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import NamedTuple

from benchmarks.errors import MachineError, UserError
from benchmarks.images.decode import in_order, num_workers, read_extent
from benchmarks.images.depth import Extent, Scale
from benchmarks.prepare.convert import Converted, convert
from benchmarks.prepare.find import first
from benchmarks.prepare.request import Request
from benchmarks.prepare.stage import Stage
from benchmarks.raw.files import DAMAGES, RawFile
from datasets.info import RawSample

Progress = Callable[[int, int], None]
_MARGIN_BYTES = 2**26


class Batch(NamedTuple):
    """Converted images.

    Attributes:
        converted: By stem.
        unreadable: What is wrong with an image, by source.
        num_new: How many were made now.
    """

    converted: dict[str, Converted]
    unreadable: dict[str, str]
    num_new: int


def find_extents(samples: list[RawSample]) -> list[Extent | None]:
    """The values of each image that does not say what is black and white, else None."""
    return list(in_order(_extent, (sample.file for sample in samples)))


def _extent(file: RawFile) -> Extent | None:
    try:
        with file.open() as opened:
            return read_extent(opened, file.source)
    except (OSError, *DAMAGES):
        return None  # said when it is converted


def convert_all(
    samples: list[RawSample], stage: Stage, request: Request, scale: Scale | None, on_progress: Progress
) -> Batch:
    """Converts what has not been converted yet. One that fails does not stop the others.

    Raises:
        MachineError: The disk is, or becomes, full; what was converted stays.
    """
    done = {sample.stem: made for sample in samples if (made := stage.finished(sample.file, sample.stem))}
    todo = [sample for sample in samples if sample.stem not in done]
    _check_space(todo, stage)
    unreadable: dict[str, str] = {}
    num_reused = len(done)
    on_progress(num_reused, len(samples))
    waiting = iter(todo)
    with ThreadPoolExecutor(num_workers()) as pool:
        running: dict[Future[Converted], RawSample] = {}
        while True:
            for sample in islice(waiting, 2 * num_workers() - len(running)):  # few at a time: ends soon when stopped
                running[
                    pool.submit(
                        convert, sample.file, sample.stem, stage.converted, request.max_side, request.link, scale
                    )
                ] = sample
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                sample = running.pop(future)
                try:
                    done[sample.stem] = future.result()
                except UserError as error:
                    unreadable[sample.file.source] = str(error)
                except OSError as error:
                    raise MachineError(
                        f"image {sample.file.source!r} cannot be converted: {error}; mend that and run the same "
                        f"command again, the {len(done):,} images converted so far are kept"
                    ) from error
                else:
                    stage.add(sample.file, sample.stem, done[sample.stem])
                on_progress(len(done) + len(unreadable), len(samples))
    return Batch(done, unreadable, len(done) - num_reused)


def refuse_unreadable(unreadable: dict[str, str]) -> None:
    """Stops where images cannot be read.

    Raises:
        UserError: There are some; names the first five, and what is wrong with the first.
    """
    if unreadable:
        why = next(iter(unreadable.values()))
        raise UserError(
            f"images must be readable, got {len(unreadable):,} that are not: {first(unreadable)} ({why}); download "
            "them again and run the same command, or leave them out with --skip-unreadable"
        )


def _check_space(todo: list[RawSample], stage: Stage) -> None:
    """A prepared image is hardly ever larger than its raw file, so the raw files' size is what is needed at most."""
    needed = sum(sample.file.size for sample in todo) + _MARGIN_BYTES
    place = stage.folder.parent
    free = shutil.disk_usage(place).free
    if todo and free < needed:
        raise MachineError(
            f"disk must have {needed / 2**30:.1f} GiB free in {str(place)!r}, got {free / 2**30:.1f} GiB; "
            "free some space, or choose another --data-root"
        )
