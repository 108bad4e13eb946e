"""Who may read what is written: results for their owner alone, unless their folder was opened to others before."""

import os
import stat
from pathlib import Path


def private_mode(folder: Path) -> int:
    """The mode of a new file in a folder that names patients: for its owner, and for a group that may write there."""
    shared = folder.stat().st_mode & stat.S_IWGRP
    return 0o660 if shared else 0o600


def make_private(folder: Path) -> None:
    """Makes a folder for its owner alone; one that is there stays as it is."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, each no more open than the one it is made in."""
    missing = []
    place = folder.absolute()
    while not place.exists():
        missing.append(place)
        place = place.parent
    for new in reversed(missing):
        new.mkdir(stat.S_IMODE(new.parent.stat().st_mode) & 0o777, exist_ok=True)
    folder.mkdir(exist_ok=True)  # says so where a file stands there


def open_private(path: str | Path, flags: int) -> int:
    """Opens a file that names patients, as `open` asks its opener to; one that is there keeps its mode."""
    return os.open(path, flags, private_mode(Path(path).parent))
