"""What may make a run's numbers mean something else than they seem to, and what a check cannot see."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.check.finding import Finding
from benchmarks.check.look import near_pairs
from benchmarks.check.shortcuts import HIGH, probes
from benchmarks.check.survey import File, Survey, class_key
from benchmarks.choices import FEW_UNITS

_SHOWN = 20  # near-duplicates that are named


def concerns(found: Survey, sides: Sequence[int]) -> Iterator[Finding]:
    """All of them.

    Args:
        found: What the folder holds.
        sides: Resolutions that are meant to be trained at.
    """
    yield from _unknown_groups(found)
    yield from _near(found)
    yield from _small(found, sides)
    yield from _few(found)
    yield from _devices(found)
    yield from _shortcuts(found)


def _knows_groups(found: Survey) -> bool:
    """Whether any two images are known to belong together."""
    sizes = Counter(row.group for row in found.manifest.values() if row.group)
    return any(size > 1 for size in sizes.values())


def _unknown_groups(found: Survey) -> Iterator[Finding]:
    if not _knows_groups(found):
        detail = (
            "which images are of one patient is not known, so a patient in two splits cannot be seen here; bench.py "
            "split with --groups or --group-pattern makes splits that keep patients together"
        )
        yield Finding("note", "groups", "all", detail)


def _near(found: Survey) -> Iterator[Finding]:
    """Images that look almost the same as one of another split or class; the very same are found elsewhere."""
    files = [file for file in found.images if file.look]
    if len(files) < 2:
        return
    hashes = np.stack([file.look.bits for file in files if file.look])
    near: dict[str, tuple[File, int]] = {}  # the nearest of each
    for one, other, bits in near_pairs(hashes):
        first, second = files[one], files[other]
        same = first.facts and second.facts and first.facts.pixels == second.facts.pixels
        apart = first.split != second.split or first.label != second.label
        if apart and not same and (first.path not in near or bits < near[first.path][1]):
            near[first.path] = second, bits
    for path, (twin, bits) in list(near.items())[:_SHOWN]:
        detail = (
            f"looks almost the same as {twin.path} ({bits} of 256 bits differ): compare them; one image, or one "
            "patient, should be in one split and class"
        )
        yield Finding("warning", "near duplicate", path, detail)
    if len(near) > _SHOWN:
        detail = f"{len(near) - _SHOWN} more images look almost the same as one of another split or class"
        yield Finding("warning", "near duplicate", "all", detail)


def _small(found: Survey, sides: Sequence[int]) -> Iterator[Finding]:
    """Images that would be enlarged; where that goes with the class, a model learns how sharp an image is."""
    for side in sides:
        small = [file for file in found.images if file.facts and min(file.facts.width, file.facts.height) < side]
        if small:
            detail = (
                f"{len(small)} of {len(found.images)} images have a side of less than {side} px and are enlarged, "
                f"which adds no detail ({_per_class(found, small)}); choose a smaller --res, or larger images"
            )
            yield Finding("note", "size", f"{side} px", detail)


def _per_class(found: Survey, files: Sequence[File]) -> str:
    counts = Counter(file.label for file in files)
    return ", ".join(f"{counts[class_key(name)]} {name}" for name in found.classes)


def _few(found: Survey) -> Iterator[Finding]:
    """Classes with few independent units in validation or test."""
    unit = "patients or other groups" if _knows_groups(found) else "images"
    for split in ("val", "test"):
        units: dict[str, set[str]] = {class_key(name): set() for name in found.classes}
        for file in found.images:
            row = found.manifest.get(file.path)
            if file.split == split:
                units[file.label].add(row.group if row and row.group else file.path)
        few = [f"{len(units[class_key(n)])} of {n}" for n in found.classes if 0 < len(units[class_key(n)]) < FEW_UNITS]
        if few:
            what = "intervals of AUC are rough" if split == "test" else "the best epoch is chosen almost at random"
            detail = f"there are few {unit}: {', '.join(few)}; under {FEW_UNITS} of a class, {what}: add some"
            yield Finding("note", "few", split, detail)


def _devices(found: Survey) -> Iterator[Finding]:
    named = [file for file in found.images if file.look and file.look.device]
    devices = Counter(file.look.device for file in named if file.look)
    if len(devices) + (len(named) < len(found.images)) > 1 and devices:
        parts = [
            f"{name} ({_per_class(found, [file for file in named if file.look and file.look.device == name])})"
            for name, _ in devices.most_common(5)
        ]
        unnamed = [file for file in found.images if file not in named]
        if unnamed:
            parts.append(f"none named ({_per_class(found, unnamed)})")
        more = f"; {len(devices) - 5} more" if len(devices) > 5 else ""
        detail = (
            f"files name {len(devices)} scanners or cameras: {'; '.join(parts)}{more}; where one goes with a class, a "
            "model may learn the scanner"
        )
        yield Finding("note", "scanner", "all", detail)


def _shortcuts(found: Survey) -> Iterator[Finding]:
    """What tells the classes apart without any look at what is ill."""
    told = {what: (key, auc) for what, (key, auc) in probes(found).items() if auc >= HIGH}
    names = {class_key(name): name for name in found.classes}
    base = "a logistic regression, tested on training images that it was not trained on"
    if "file" in told:
        key, auc = told["file"]
        detail = (
            f"size and type of the files alone tell {names[key]} from the rest with an AUC of {auc:.2f} ({base}); a "
            "model may learn these instead of the disease: save all images alike, or compare its AUC with this one"
        )
        yield Finding("warning", "shortcut", "file", detail)
    if "edge" in told:
        key, auc = told["edge"]
        detail = (
            f"the outermost eighth of the images, 16 px wide, tells {names[key]} from the rest with an AUC of "
            f"{auc:.2f} ({base}): a mark, a border or the exposure may go with the class; look at the image sheet, and "
            "crop or mask what is no anatomy"
        )
        yield Finding("warning", "shortcut", "edge", detail)
    elif "whole" in told:
        key, auc = told["whole"]
        detail = (
            f"images of 16 px tell {names[key]} from the rest with an AUC of {auc:.2f} ({base}), their edge alone does "
            "not: this may be the disease, and is what a model must exceed"
        )
        yield Finding("note", "shortcut", "whole", detail)
