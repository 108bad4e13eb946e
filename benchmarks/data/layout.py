"""What to do with a folder that lacks train, val or test: mostly they have other names, or were never made."""

import shlex
from collections.abc import Collection
from pathlib import Path

from benchmarks.choices import SPLITS

_USUAL = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}


def split_like(name: str) -> str | None:
    """The split that a folder's name means, whatever its case; None where it means none."""
    return next((split for split, names in _USUAL.items() if name.strip().lower() in names), None)


def layout_advice(root: Path, folders: Collection[str]) -> str:
    """The commands that mend a folder, for the end of a message.

    Args:
        root: The folder.
        folders: Names of the folders in it.
    """
    missing = [split for split in SPLITS if split not in folders]
    renamed = {split: [name for name in folders if split_like(name) == split] for split in missing}
    moves = [
        shlex.join(["mv", str(root / names[0]), str(root / split)])
        for split, names in renamed.items()
        if len(names) == 1
    ]
    if moves:
        absent = [split for split in missing if len(renamed[split]) != 1]
        still = f"; {' and '.join(absent)} must be added, each with a folder per class" if absent else ""
        return f"if {'that is' if len(moves) == 1 else 'these are'} what was meant: {' && '.join(moves)}{still}"
    split = f"python bench.py split {shlex.quote(str(root))} --group-pattern REGEX"
    if missing == ["val"] and not renamed["val"]:
        return f"to take val from train, and leave test as it is: {split}"
    if len(missing) == len(SPLITS) and len(folders) > 1:
        return f"to make them of class folders: {split}"
    return f"the layout is {root}/{{train,val,test}}/<class>/<images>"
