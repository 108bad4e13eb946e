"""Makes a prepared dataset: finds, checks, converts, splits, writes, and reads back what it wrote."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.choices import SPLITS
from benchmarks.data.manifest import (
    Entry,
    SplitOrigin,
    has_manifest,
    read_about,
    read_entries,
    spanning_groups,
    split_digest,
    write_manifest,
)
from benchmarks.errors import UserError
from benchmarks.images.depth import Extent, Scale, common_extent, scale_of
from benchmarks.prepare.batch import Batch, Progress, convert_all, find_extents, refuse_unreadable
from benchmarks.prepare.find import check_counts, check_listed, deviations, find_samples, first, observed_counts
from benchmarks.prepare.kinds import counts_of, place_of, values_of, write_kind
from benchmarks.prepare.request import Request, UserSplit, read_split_file
from benchmarks.prepare.splits import Assignment, Item, assign
from benchmarks.prepare.stage import Stage
from benchmarks.privacy import HERE, hide_places
from benchmarks.raw.files import scan
from datasets.info import DatasetInfo, Found, RawSample

RECIPE = 2  # raise it when converted images change
_TWIN = "identical to "


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        root: The prepared folder.
        about: Its `manifest.json`.
        num_new: How many images were converted now; None where nothing had to be done.
    """

    root: Path
    about: dict[str, Any]
    num_new: int | None


def prepare(info: DatasetInfo, request: Request, on_progress: Progress, datasets: Mapping[str, DatasetInfo]) -> Outcome:
    """Makes `request.target` from the raw download, or finds that it is made.

    Args:
        info: The dataset.
        request: What is asked for.
        on_progress: Called with (images done, images in all).
        datasets: All there are, to say which one a wrong download looks like.

    Raises:
        UserError: The download is not what it must be, or the target was made with other settings.
        MachineError: The disk is full, or another process prepares this dataset.
    """
    user = read_split_file(request.split_file) if request.split_file else None
    old = _read_target(request, request.settings(info.official))
    if old is not None and old["complete"]:
        return Outcome(request.target, old, None)
    found = find_samples(info, request.files or scan(request.raw), datasets)
    if not request.skip_unreadable:
        refuse_unreadable(dict(found.unreadable))
    if not request.allow_incomplete:
        check_listed(info, found)
    samples = _choose_groups(info, found, request, user)
    if not (request.allow_incomplete or found.unreadable):
        check_counts(info, found)
    left_out = dict(found.excluded)
    if user is not None:
        samples, by_user = user.apply(samples)
        left_out |= by_user
        _check_user_groups(samples, user)
    if old is not None and _same_sources(old, request.target, samples):
        return Outcome(request.target, old, None)
    extents = find_extents(samples)
    scale = scale_of(common_extent(extents), info.bit_depth if request.bit_depth is None else request.bit_depth)
    with Stage(request.target, {"max_side": request.max_side, "recipe": RECIPE, "scale": scale}) as stage:
        batch = convert_all(samples, stage, request, scale, on_progress)
        if not request.skip_unreadable:
            refuse_unreadable(batch.unreadable)
        samples = [sample for sample in samples if sample.stem in batch.converted]
        assignment = _assign(info, samples, batch, request)
        entries = _entries(info, samples, batch, assignment)
        _check_classes(info, entries, _parts(info, request))
        about = _about(info, request, found, batch, entries, assignment)
        about["bit_depth"] = scale.bits if scale else None
        about["notes"] += _depth_notes(extents, scale)
        about["excluded"] = _excluded(request.raw.absolute(), left_out, found, samples, batch, assignment)
        stage.place((Path(entry.path).name, entry.path) for entry in entries)
        write_kind(stage.tree, info, entries)
        write_manifest(stage.tree, entries, about)
        _check_written(stage.tree, entries)
        stage.publish()
    return Outcome(request.target, about, batch.num_new)


def _read_target(request: Request, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of an existing dataset that may stay as it is; None where one must be made."""
    target = request.target
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not has_manifest(target):
        raise UserError(
            f"{str(target)!r} must be absent or made by bench.py prepare, got a folder without a manifest; "
            "move it away or choose another --data-root"
        )
    if request.overwrite:
        return None
    about = read_about(target)
    different = [
        f"{name.replace('_', ' ')} {about['settings'].get(name)!r} instead of {value!r}"
        for name, value in settings.items()
        if about["settings"].get(name) != value
    ]
    if different:
        raise UserError(
            f"{str(target)!r} must have been prepared with the same settings, got {', '.join(different)}; give "
            "--overwrite to prepare it again (images that stay the same are not converted again)"
        )
    intact = all((target / entry.path).is_file() for entry in read_entries(target))
    return about if intact else None


def _same_sources(old: dict[str, Any], target: Path, samples: list[RawSample]) -> bool:
    """Whether an incomplete dataset would come out the same: nothing was downloaded since."""
    twins = {item["id"] for item in old["excluded"] if item["reason"].startswith(_TWIN)}
    return twins | {entry.source for entry in read_entries(target)} == {sample.file.source for sample in samples}


def _choose_groups(info: DatasetInfo, found: Found, request: Request, user: UserSplit | None) -> list[RawSample]:
    """The samples with their groups, or each its own where the user wants it so.

    Raises:
        UserError: Groups are needed and not known.
    """
    if request.image_level:
        return [replace(sample, group=f"image-{sample.stem}") for sample in found.samples]
    needed = user is None and set(info.official) != set(SPLITS)
    if found.ungrouped and needed:
        raise UserError(
            f"{info.name} must be split by {info.group_key}: {found.ungrouped}; or give --image-level, with which "
            f"images of one {info.group_key} may lie in train and in test"
        )
    return found.samples


def _check_user_groups(samples: list[RawSample], user: UserSplit) -> None:
    entries = [Entry("", sample.split or "", "", sample.group, "", "") for sample in samples]
    spanning = spanning_groups(entries)
    if spanning:
        raise UserError(
            f"groups must lie in one split each, got {len(spanning)} in several in {str(user.path)!r}: "
            f"{first(spanning)}; mend it, or give --image-level to let each image be its own group"
        )


def _assign(info: DatasetInfo, samples: list[RawSample], batch: Batch, request: Request) -> Assignment:
    items = [
        Item(
            sample.stem,
            values_of(sample.label, info.classes) if info.findings else info.classes.index(sample.label),
            sample.group,
            batch.converted[sample.stem].pixels,
            sample.split,
        )
        for sample in samples
    ]
    return assign(items, _parts(info, request), request.seed)


def _parts(info: DatasetInfo, request: Request) -> dict[str, str]:
    """Who made each split that is not ours."""
    return dict.fromkeys(SPLITS, "user") if request.split_file else dict.fromkeys(info.official, "official")


def _entries(info: DatasetInfo, samples: list[RawSample], batch: Batch, assignment: Assignment) -> list[Entry]:
    entries = []
    for sample in samples:
        split, made = assignment.splits.get(sample.stem), batch.converted[sample.stem]
        if split is not None:
            path, group = place_of(info, split, sample.label, made.name), assignment.groups[sample.stem]
            entries.append(Entry(path, split, sample.label, group, sample.file.source, made.pixels))
    return entries


def _check_classes(info: DatasetInfo, entries: list[Entry], given: Mapping[str, str]) -> None:
    if info.findings:
        return  # what each split must have of them, `write_kind` checks
    counts = counts_of(entries, info.classes if info.findings else ())
    empty = {split: [name for name in info.classes if not counts.get(split, {}).get(name)] for split in SPLITS}
    places = [f"{split}/{name}" for split, names in empty.items() for name in names]
    advice = {
        "official": f"of an official split all must be there: finish the download ({info.url})",
        "user": "give some of it to the split in your split file",
        "ours": f"a class needs at least three groups ({info.group_key}) for splits of ours",
    }
    makers = list(dict.fromkeys(given.get(split, "ours") for split, names in empty.items() if names))
    if places:
        raise UserError(
            f"each class must have images in each split, got none in {', '.join(places)}; "
            f"{'; '.join(advice[maker] for maker in makers)}"
        )


def _about(
    info: DatasetInfo, request: Request, found: Found, batch: Batch, entries: list[Entry], assignment: Assignment
) -> dict[str, Any]:
    parts = dict.fromkeys(SPLITS, "ours") | _parts(info, request)
    kind = next(kind for kind in ("ours", "user", "official") if kind in parts.values())
    group_key = "image" if request.image_level else info.group_key
    settings = request.settings(info.official)
    origin = SplitOrigin(kind, parts, group_key, settings["seed"], split_digest(entries))
    wrong = deviations(info, found)
    notes = [
        *(hide_places(note, {request.raw.absolute(): HERE}) for note in found.notes),
        *([f"counts are not as published: {', '.join(wrong)}"] if wrong else []),
    ]
    if assignment.identical:
        notes.append(
            f"{assignment.identical} images have an identical one: kept in one split, {len(assignment.dropped)} left "
            f"out of splits that were given; {assignment.contradictory} of them differ in class"
        )
    return {
        "dataset": info.name,
        "title": info.title,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "raw": request.raw.resolve().name,
        "settings": settings,
        "complete": not (wrong or found.missing or found.unlabelled or found.unreadable or batch.unreadable),
        "split": origin.as_json(),
        "num_images": len(entries),
        "num_groups": len({entry.group for entry in entries}),
        "counts": counts_of(entries, info.classes if info.findings else ()),
        "observed": observed_counts(found),
        "expected": dict(info.expected),
        "notes": notes,
        "licence": info.licence,
        "citation": info.citation,
        "url": info.url,
    }


def _depth_notes(extents: list[Extent | None], scale: Scale | None) -> list[str]:
    """What no one can see any more in prepared images, which have 8 bits."""
    deep = [extent for extent in extents if extent is not None]
    if scale is None:
        return []
    notes = [f"{len(deep)} of {len(extents)} images have more than 8 bits: white is {scale.high} ({scale.bits} bits)"]
    clipped = [extent for extent in deep if not scale.holds(extent)]
    if clipped:
        low, high = min(clipped).low, max(extent.high for extent in clipped)
        notes.append(f"{len(clipped)} images have values beyond that, of {low}..{high}, which are clipped")
    return notes


def _excluded(
    raw: Path, left_out: dict[str, str], found: Found, samples: list[RawSample], batch: Batch, assignment: Assignment
) -> list[dict[str, str]]:
    """Every image that is not in the dataset, and why; files are named by their paths below the raw folder."""
    sources = {sample.stem: sample.file.source for sample in samples}
    reasons = left_out | dict.fromkeys(found.missing, "missing") | dict.fromkeys(found.unlabelled, "not labelled")
    reasons |= {source: f"unreadable: {why}" for source, why in (dict(found.unreadable) | batch.unreadable).items()}
    reasons |= {sources[key]: f"{_TWIN}{sources[other]}" for key, other in assignment.dropped.items()}
    return [{"id": name, "reason": hide_places(reason, {raw: HERE})} for name, reason in reasons.items()]


def _check_written(tree: Path, entries: list[Entry]) -> None:
    """Reads the manifest back: it is what was meant, its files are there, and no group spans two splits."""
    written = read_entries(tree)
    assert written == sorted(entries)
    assert not spanning_groups(written), spanning_groups(written)
    assert all((tree / entry.path).is_file() for entry in written)
