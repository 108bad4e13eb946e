"""What is wrong with a prepared folder: one function a kind of fault, each of which finds all there are.

What is wrong with a table of findings alone is in `benchmarks.check.table_problems`.

What is no fault of the folder, but may make a run's numbers mean something else, is in `benchmarks.check.concerns`.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.check.concerns import concerns
from benchmarks.check.finding import LEVELS, Finding
from benchmarks.check.shortcuts import Told
from benchmarks.check.survey import Survey, by_pixels, class_key, expected_counts
from benchmarks.check.table_problems import TABLE_CHECKS
from benchmarks.choices import SPLITS
from benchmarks.data.bit_depth import FILE as BIT_DEPTH
from benchmarks.data.classes import FILE, MARK, natural_key
from benchmarks.data.dataset import list_folders
from benchmarks.data.layout import layout_advice
from benchmarks.data.manifest import split_digest
from benchmarks.images.depth import Extent, scale_of
from benchmarks.names import is_text
from benchmarks.storage.folders import link_fault

IMBALANCE = 10  # images of the largest class for one of the smallest, from which on a note is made


def findings(found: Survey, told: Told, sides: Sequence[int] = ()) -> list[Finding]:
    """All that was found, problems first, then in the order of the checks; `told` and `sides` as of `concerns`."""
    of_folders = (_splits, _folder_names, _classes, _order) if found.table is None else TABLE_CHECKS
    of_files = (_files, _differences, _same_pixels, _groups, _counts, _manifest, _depths, _channels, _balance)
    everything = [finding for check in (*of_folders, *of_files) for finding in check(found)]
    everything += concerns(found, told, sides)
    return sorted(everything, key=lambda finding: LEVELS.index(finding.level))


def _splits(found: Survey) -> Iterator[Finding]:
    for split in SPLITS:
        if split not in found.folders:
            there = list_folders(found.root)
            fault = link_fault(found.root / split)
            absent = f"there is no folder {split}, only {', '.join(there)}; {layout_advice(found.root, there)}"
            why = f"{fault}; mend or remove it" if fault else absent
            yield Finding("problem", "split", split, why)
    for path in found.strays:
        yield Finding("problem", "split", path, "is in no class folder and will not be used; move it into one")


def _folder_names(found: Survey) -> Iterator[Finding]:
    """Folders of one class that are named differently, which would count as several classes."""
    variants: dict[str, dict[str, list[str]]] = {}
    for split, names in found.folders.items():
        for name in names:
            variants.setdefault(class_key(name), {}).setdefault(name, []).append(split)
    for names_of_class in variants.values():
        places = ", ".join(f"{name!r} ({', '.join(splits)})" for name, splits in names_of_class.items())
        if len(names_of_class) > 1:
            detail = f"folders differ only by case or spaces: {places}; give them one name"
        elif next(iter(names_of_class)) != next(iter(names_of_class)).strip():
            detail = f"folder name begins or ends with a space: {places}; rename it"
        else:
            continue
        yield Finding("problem", "class", next(iter(names_of_class)), detail)


def _classes(found: Survey) -> Iterator[Finding]:
    """Classes that are missing, empty, unknown or too few."""
    known = {class_key(name) for name in found.info.classes} if found.info else set()
    images = Counter((file.label, file.split) for file in found.images)
    files = Counter((file.label, file.split) for file in found.files)
    if len(found.classes) < 2:
        yield Finding("problem", "class", "all", f"there must be at least 2 classes, got {len(found.classes)}")
    for name in found.classes:
        key = class_key(name)
        if known and key not in known and found.info:
            detail = f"is no class of {found.info.name}, which are {', '.join(found.info.classes)}"
            yield Finding("problem", "class", name, detail)
        for split, folders in found.folders.items():
            if key not in map(class_key, folders):
                yield Finding(
                    "problem", "class", f"{split}/{name}", "there is no such folder, the class is missing there"
                )
            elif not images[key, split]:
                what = "no readable image" if files[key, split] else "no image"
                yield Finding("problem", "class", f"{split}/{name}", f"holds {what}")


def _order(found: Survey) -> Iterator[Finding]:
    """An order of the classes that is declared wrongly, or not at all where names look like grades."""
    numbers = [name for name in found.classes if re.fullmatch(r"\D*\d+", name)]
    if found.order_error:
        yield Finding("problem", "order", FILE, found.order_error)
    elif found.declared is None and len(numbers) == len(found.classes) > 2:
        detail = (
            f"classes are numbered ({', '.join(numbers)}) and no grades, so kappa has no weights; if they are grades, "
            f"name them in {FILE} in the root folder, one a line, below a first line {MARK!r}"
        )
        yield Finding("note", "order", "all", detail)


def _files(found: Survey) -> Iterator[Finding]:
    for file in found.files:
        if not is_text(file.path):
            yield Finding("problem", "file", file.path, "has a name that is no UTF-8; rename it")
        if file.facts is None:
            yield Finding("problem", "file", file.path, f"{file.error}; replace or remove it")


def _differences(found: Survey) -> Iterator[Finding]:
    """Files that changed since they were hashed; where neither size nor time tells of it, it may be damage."""
    for path, what, unseen in found.differences:
        advice = "; put the right file there, or take this one with run --verify-data" if unseen else ""
        yield Finding("problem" if unseen else "note", "content", path, f"{what}{advice}")


def _same_pixels(found: Survey) -> Iterator[Finding]:
    for files in by_pixels(found.images):
        others = ", ".join(file.path for file in files[1:])
        splits = [split for split in SPLITS if any(file.split == split for file in files)]
        pairs = itertools.combinations(files, 2)
        labels = sorted({name for pair in pairs for name in found.differing(*pair)}, key=natural_key)
        if len(splits) > 1:
            detail = f"is in {' and '.join(splits)}, the same image as {others}; keep it in one split"
            yield Finding("problem", "leak", files[0].path, detail)
        if labels:
            said = (
                f"labelled {' and '.join(labels)}" if found.table is None else f"with and without {', '.join(labels)}"
            )
            detail = f"is {said}, the same image as {others}; decide on one"
            yield Finding("problem", "label", files[0].path, detail)
        if len(splits) == 1 and not labels:
            yield Finding("note", "duplicate", files[0].path, f"is the same image as {others}")


def _groups(found: Survey) -> Iterator[Finding]:
    """Patients, exams or lesions in more than one split."""
    members: dict[str, dict[str, str]] = {}
    for file in found.files:
        if file.path in found.groups:
            members.setdefault(found.groups[file.path], {}).setdefault(file.split, file.path)
    for group, first in members.items():
        if len(first) > 1:
            detail = f"this group is in {' and '.join(first)}: {', '.join(first.values())}; keep it in one split"
            yield Finding("problem", "leak", group, detail)


def _counts(found: Survey) -> Iterator[Finding]:
    images = Counter(file.label for file in found.images)
    for key, expected in expected_counts(found).items():
        if images[key] != expected:
            name = next((name for name in found.classes if class_key(name) == key), key)
            yield Finding("problem", "count", name, f"must have {expected} images, got {images[key]}")


def _manifest(found: Survey) -> Iterator[Finding]:
    """Files that came, went, moved or changed since the dataset was prepared, and what was missing then."""
    if found.about is None:
        return
    if not found.about["complete"]:
        detail = f"was prepared from an incomplete download ({'; '.join(found.about['notes'])}); see its manifest.json"
        yield Finding("problem", "manifest", "all", detail)
    if split_digest(found.manifest.values()) != found.about["split"]["digest"]:
        detail = "says of splits, classes or groups what it did not when it was made; prepare the dataset again"
        yield Finding("problem", "manifest", "manifest.csv", detail)
    there = {file.path: file for file in found.files}
    for path in sorted(found.manifest.keys() - there):
        yield Finding("problem", "manifest", path, "is in manifest.csv, but not there; prepare the dataset again")
    for path, file in sorted(there.items()):
        entry = found.manifest.get(path)
        if entry is None:
            yield Finding("problem", "manifest", path, "is not in manifest.csv, so its group is unknown; remove it")
        elif file.facts is not None and entry.pixels and file.facts.pixels != entry.pixels:
            yield Finding("problem", "manifest", path, "is not the image that was prepared; prepare the dataset again")


def _depths(found: Survey) -> Iterator[Finding]:
    """Files whose values go beyond the depth of the dataset, or that are scaled unlike others."""
    if found.depth_error:
        yield Finding("problem", "depth", BIT_DEPTH, found.depth_error)
    extents = {file.path: file.facts.extent for file in found.images if file.facts and file.facts.extent}
    if found.scale is None or not extents:
        return
    low, bits, high = found.scale.low, found.scale.bits, found.scale.high
    for path, extent in extents.items():
        if not found.scale.holds(extent):
            detail = (
                f"has values of {extent.low}..{extent.high}, beyond the {low}..{high} of {bits} bits: clipped; "
                f"mend it, or state another depth in {BIT_DEPTH}"
            )
            yield Finding("problem", "depth", path, detail)
    if len(extents) < len(found.images):
        detail = (
            f"8-bit files and deeper ones are mixed ({_modes(found)}): white is {high} in files of more than 8 bits "
            "without a DICOM window, and as each says itself in others; save all with the same depth"
        )
        yield Finding("problem", "depth", "all", detail)
    if not found.depth_error and found.stated_depth is None:
        yield from _needed_depths(extents, bits)


def _needed_depths(extents: dict[str, Extent], bits: int) -> Iterator[Finding]:
    """Few files may have set the depth of all: a marker that was burned in, a broken pixel."""
    needed = Counter(scale.bits for extent in extents.values() if (scale := scale_of(extent, None)))
    if len(needed) > 1:
        path = max(extents, key=lambda path: extents[path].high)
        counts = ", ".join(f"{bits} for {count} images" for bits, count in sorted(needed.items()))
        detail = (
            f"has the highest value, {extents[path].high}, so that the depth of all is {bits} bits (enough would be "
            f"{counts}); if it is a marker or a fault, state the depth in {BIT_DEPTH}"
        )
        yield Finding("note", "depth", path, detail)


def _channels(found: Survey) -> Iterator[Finding]:
    """Grey and colour files; where these go with the class, a model learns the file format."""
    grey = sum(file.facts.grey for file in found.images if file.facts)
    if 0 < grey < len(found.images):
        detail = (
            f"grey and colour files are mixed ({_modes(found)}); see in the table of pixels whether that goes with a "
            f"{'class' if found.table is None else 'finding'}"
        )
        yield Finding("note", "depth", "all", detail)


def _modes(found: Survey) -> str:
    modes = Counter(file.facts.mode for file in found.images if file.facts)
    return ", ".join(f"{count} {mode}" for mode, count in modes.most_common())


def _balance(found: Survey) -> Iterator[Finding]:
    if found.table is not None:  # most findings are rare, and `few` says which are too rare
        return
    counts = Counter(file.label for file in found.images if file.split == "train")
    if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
        (large, most), *_, (small, least) = counts.most_common()
        detail = f"{most} images of {large} for {least} of {small}; look at balanced accuracy and per-class AUC"
        yield Finding("note", "balance", "train", detail)
