"""One bit depth for all images of a dataset whose files do not say what is black and white: stated, or found.

`bit_depth.txt` beside the folders of the splits states it: a number of bits. Where neither it nor the dataset's entry
does, the values of all images are looked through, and the smallest depth that holds them is taken.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.bounds import BOUNDS, broken_rule
from benchmarks.errors import UserError
from benchmarks.images.decode import in_order, read_extent
from benchmarks.images.depth import Extent, Scale, common_extent, scale_of
from benchmarks.storage.files import read_cached, read_regular, write_cached
from datasets.info import DatasetInfo

FILE = "bit_depth.txt"


def stated_depth(root: Path, info: DatasetInfo | None = None) -> int | None:
    """The depth by the dataset's entry or `bit_depth.txt`; None where neither says one.

    Raises:
        UserError: `bit_depth.txt` is no depth, or another than that of the entry.
    """
    path, known = root / FILE, info.bit_depth if info else None
    try:
        text = read_regular(path).decode("utf-8-sig").strip()
    except FileNotFoundError:
        return known
    except (OSError, ValueError) as error:
        raise UserError(f"{FILE} must be a text file in UTF-8, got {str(path)!r} ({error}); write it anew") from error
    if broken_rule("bit_depth", text) is not None:
        bits = BOUNDS["bit_depth"]
        raise UserError(
            f"{FILE} must be a number of bits from {bits.least} to {bits.most}, got {text!r:.50} in {str(path)!r}; "
            "mend it, or remove it"
        )
    if known not in (None, int(text)):
        raise UserError(f"{FILE} must be {known}, as the dataset's file says, got {text} in {str(path)!r}; remove it")
    return int(text)


def find_scale(root: Path, paths: Sequence[str], stated: int | None, cache: Path) -> Scale | None:
    """The scale of a folder's images; all that have no range of their own are decoded once, and never again.

    Args:
        root: The folder.
        paths: Of its images, relative to it.
        stated: As of `scale_of`.
        cache: The file that keeps what was found; the name tells these very images.

    Raises:
        UserError: An image cannot be read, or no 16 bits hold all values.
    """
    kept = read_cached(cache)
    if not kept:
        kept = {"extent": common_extent(in_order(lambda path: file_extent(root / path), paths))}
        write_cached(cache, kept)
    return scale_of(Extent(*kept["extent"]) if kept["extent"] else None, stated)


def file_extent(path: Path) -> Extent | None:
    """As `read_extent` gives it."""
    with path.open("rb") as file:
        return read_extent(file, str(path))
