"""What may make a run's numbers mean something else than they seem to, and what a check cannot see."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.check.finding import Finding
from benchmarks.check.look import near_pairs
from benchmarks.check.shortcuts import HIGH, Told
from benchmarks.check.survey import File, Survey, class_key
from benchmarks.choices import FEW_UNITS

_SHOWN = 20  # near-duplicates that are named


def concerns(found: Survey, told: Told, sides: Sequence[int]) -> Iterator[Finding]:
    """All of them.

    Args:
        found: What the folder holds.
        told: What `shortcuts.probes` gives of it.
        sides: Resolutions that are meant to be trained at.
    """
    yield from _unknown_groups(found)
    yield from _near(found)
    yield from _small(found, sides)
    yield from _few(found) if found.table is None else _few_findings(found)
    yield from _devices(found)
    yield from _shortcuts(found, told)


def _knows_groups(found: Survey) -> bool:
    """Whether any two images are known to belong together."""
    return any(size > 1 for size in Counter(found.groups.values()).values())


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
        apart = first.split != second.split or bool(found.differing(first, second))
        if apart and not same and (first.path not in near or bits < near[first.path][1]):
            near[first.path] = second, bits
    for path, (twin, bits) in list(near.items())[:_SHOWN]:
        detail = (
            f"looks almost the same as {twin.path} ({bits} of 256 bits differ): compare them; one image, or one "
            f"patient, should be in one split{' and class' if found.table is None else ' with one set of findings'}"
        )
        yield Finding("warning", "near duplicate", path, detail)
    if len(near) > _SHOWN:
        kind = "class" if found.table is None else "with other findings"
        detail = f"{len(near) - _SHOWN} more images look almost the same as one of another split or {kind}"
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
    counts = {name: len(shown) for name, shown in found.showing(files).items()}
    said = ", ".join(f"{number} {name}" for name, number in counts.items())
    return said if found.table is None else f"with findings: {said}"


def _few(found: Survey) -> Iterator[Finding]:
    """Classes with few independent units in validation or test."""
    unit = "patients or other groups" if _knows_groups(found) else "images"
    for split in ("val", "test"):
        units: dict[str, set[str]] = {class_key(name): set() for name in found.classes}
        for file in found.images:
            if file.split == split:
                units[file.label].add(found.groups.get(file.path, file.path))
        few = [f"{len(units[class_key(n)])} of {n}" for n in found.classes if 0 < len(units[class_key(n)]) < FEW_UNITS]
        if few:
            what = "intervals of AUC are rough" if split == "test" else "the best epoch is chosen almost at random"
            detail = f"there are few {unit}: {', '.join(few)}; under {FEW_UNITS} of a class, {what}: add some"
            yield Finding("note", "few", split, detail)


def _few_findings(found: Survey) -> Iterator[Finding]:
    """Findings that few independent units of a split have, or do not have."""
    unit = "patients or other groups" if _knows_groups(found) else "images"
    effects = {
        "train": "there is little to learn from",
        "val": "those with fewer images do not count where the best epoch is chosen",
        "test": "those with fewer images are not scored, and intervals of AUC are rough",
    }
    for split, effect in effects.items():
        images = [file for file in found.images if file.split == split]
        few = []
        for name in found.classes:
            for side, words in ((True, "with"), (False, "without")):
                number = len({found.groups.get(f.path, f.path) for f in images if found.says(f, name) is side})
                few += [f"{number} {words} {name}"] if number < FEW_UNITS and images else []
        if few:
            detail = f"there are few {unit}: {', '.join(few)}; under {FEW_UNITS} {effect}: add some"
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


def _shortcuts(found: Survey, told: Told) -> Iterator[Finding]:
    """What tells classes or findings apart without any look at what is ill."""
    high = {what: {name: auc for name, auc in aucs.items() if auc >= HIGH} for what, aucs in told.items()}
    base = "a logistic regression, tested on training images that it was not trained on"
    if high.get("file"):
        detail = (
            f"size and type of the files alone tell {_told(found, high['file'])} ({base}); a "
            "model may learn these instead of the disease: save all images alike, or compare its AUC with this one"
        )
        yield Finding("warning", "shortcut", "file", detail)
    if high.get("edge"):
        detail = (
            f"the outermost eighth of the images, 16 px wide, tells {_told(found, high['edge'])} ({base}): a mark, a "
            "border or the exposure may go with it; look at the image sheet, and crop or mask what is no anatomy"
        )
        yield Finding("warning", "shortcut", "edge", detail)
    inside = {name: auc for name, auc in high.get("whole", {}).items() if name not in high["edge"]}
    if inside and not (found.table is None and high["edge"]):  # what tells a class tells the others too
        detail = (
            f"images of 16 px tell {_told(found, inside)} ({base}), their edge alone does not: this may be the "
            "disease, and is what a model must exceed"
        )
        yield Finding("note", "shortcut", "whole", detail)


def _told(found: Survey, aucs: Mapping[str, float]) -> str:
    """The class that is told best, or every finding."""
    best = sorted(aucs.items(), key=lambda item: -item[1])
    if found.table is None:
        return f"{best[0][0]} from the rest with an AUC of {best[0][1]:.2f}"
    return f"images with {', '.join(f'{name} (AUC {auc:.2f})' for name, auc in best)} from those without"
