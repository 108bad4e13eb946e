"""Images that are no files of their own: rows of arrays and tables."""

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

from benchmarks.raw.files import RawFile, RawFiles


@dataclass(frozen=True)
class HeldImage(RawFile):
    """An image inside a file that holds many; its member is the place in that file.

    Attributes:
        load: Gives the bytes of an image file. Raises UserError.
    """

    load: Callable[[], bytes] = field(compare=False)

    def open(self) -> IO[bytes]:
        """Opens it to read a part."""
        return BytesIO(self.load())

    def read(self) -> bytes:
        """The whole content."""
        return self.load()


def list_file(path: Path) -> RawFiles:
    """A download that is one file, below the folder in which it lies."""
    status = path.stat()
    return RawFiles(path.parent, [RawFile(path.parent, path.name, "", status.st_size, status.st_mtime_ns)])
