"""Joins the ids of a label table with the images found."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFile


class Matched(NamedTuple):
    """Ids on both sides of a label table.

    Attributes:
        images: The image of each id that has one, in the order of the ids.
        missing: Ids without an image.
        unlabelled: Images without an id, but in a folder beside images that have one.
        notes: Says how many other images without an id there are, in folders that hold no image with one.
    """

    images: dict[str, RawFile]
    missing: list[str]
    unlabelled: list[str]
    notes: list[str]


def image_id(name: str) -> str:
    """What ids and images are compared by: the lower-cased stem (`IM1.jpg` in a table is `IM1.JPG` on disk)."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem.lower()


def match(table: str, ids: Iterable[str], images: Mapping[str, RawFile]) -> Matched:
    """Finds the image of each id.

    Args:
        table: Names the label table in messages.
        ids: As `image_id` returns them.
        images: As `RawFiles.images` returns them.

    Raises:
        UserError: An id occurs twice, or no id has an image at all.
    """
    wanted = list(ids)
    found = {name: images[name] for name in wanted if name in images}
    repeated = len(wanted) - len(set(wanted))
    if repeated:
        seen: set[str] = set()
        twice = next(name for name in wanted if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"label table must list each image once, got {twice!r} twice in {table!r}; use the original")
    if not found:
        raise UserError(
            f"ids of {table!r} must be names of the images, got {_first(wanted)} there, but images "
            f"{_first(list(images))}; one of the two is of another dataset"
        )
    folders = {file.folder for file in found.values()}
    others = [file for name, file in images.items() if name not in found]
    beside = [file.source for file in others if file.folder in folders]
    apart = [file.source for file in others if file.folder not in folders]
    notes = [f"{len(apart)} images in other folders are not listed and passed over: {_first(apart)}"] if apart else []
    return Matched(found, [name for name in wanted if name not in images], beside, notes)


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
