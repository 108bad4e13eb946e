"""Files below a folder, through links too: none is left out, and a link that cannot be followed is told of."""

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.choices import LITTER


def files_below(path: Path, skip: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """All files below a folder, through links to folders, but for hidden ones and litter.

    A link of which `link_fault` tells is among them, as is `path` itself where it is no folder.

    Args:
        path: The folder.
        skip: Says of a folder whether it is passed over.
    """
    if not path.is_dir() or link_fault(path):
        yield path
    elif not skip(path):
        for entry in sorted(path.iterdir()):
            if not is_litter(entry.name):
                yield from files_below(entry, skip)


def link_fault(path: Path) -> str:
    """Why a link cannot be followed; empty for all else."""
    if not path.is_symlink():
        return ""
    if not path.exists():
        return f"is a link to {str(path.readlink())!r}, which is not there"
    if path.is_dir() and any(parent.resolve().is_relative_to(path.resolve()) for parent in path.absolute().parents):
        return f"is a link to {str(path.readlink())!r}, a folder that it lies in itself"
    return ""


def is_litter(name: str) -> bool:
    """Whether a file or folder was left by an operating system or an office program, or is hidden."""
    return name.startswith((".", "~$")) or name.lower() in LITTER
