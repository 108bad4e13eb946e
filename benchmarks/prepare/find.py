"""Finds a dataset's images in a raw folder and compares them with what was published."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from benchmarks.errors import UserError
from benchmarks.raw.files import RawFiles
from benchmarks.raw.tables import NotFoundError
from datasets.info import SEPARATOR, DatasetInfo, Found, RawSample

ALLOW = "--allow-incomplete"


def find_samples(info: DatasetInfo, files: RawFiles, datasets: Mapping[str, DatasetInfo]) -> Found:
    """The labelled images of a raw download.

    Args:
        info: The dataset.
        files: The download.
        datasets: All there are, to say which one the download looks like.

    Raises:
        UserError: Nothing is found, or another dataset.
    """
    assert info.find is not None
    try:
        found = info.find(files)
    except NotFoundError as error:
        raise UserError(_not_found(info, files, str(error), datasets)) from error
    _check_names(info, found.samples)
    return found


def observed_counts(found: Found) -> dict[str, int]:
    """What was found, under the names of `DatasetInfo.expected`."""
    samples = found.samples
    counted: Counter[str] = Counter({"total": len(samples)})
    counted.update(name for sample in samples for name in sample.label.split(SEPARATOR) if name)
    counted.update(sample.split for sample in samples if sample.split)
    counted.update(
        f"{sample.split}/{name}" for sample in samples if sample.split for name in sample.label.split(SEPARATOR) if name
    )
    return dict(counted) | dict(found.counts)


def deviations(info: DatasetInfo, found: Found) -> list[str]:
    """Each published count that was not met, as `train/MEL 12 instead of 1,113`.

    What the dataset's file counts of a table that is not there is no count of its.
    """
    counted = observed_counts(found)
    of_images = {"total", *info.classes, *info.official} | {f"{s}/{c}" for s in info.official for c in info.classes}
    return [
        f"{name} {counted.get(name, 0):,} instead of {number:,}"
        for name, number in info.expected.items()
        if (name in counted or name in of_images) and counted.get(name, 0) != number
    ]


def _not_found(info: DatasetInfo, files: RawFiles, what: str, datasets: Mapping[str, DatasetInfo]) -> str:
    archives = f" and {len(files.archives)} zip archives" if files.archives else ""
    message = (
        f"raw folder of {info.name} must hold {what}: not found among {len(files.files):,} files below "
        f"{str(files.root)!r}{archives}"
    )
    advice = [
        files.hints(dict(info.parts)),
        _lookalike(info, files, datasets.values()),
        f"download from {info.url}: {'; '.join(info.download)}",
    ]
    return "; ".join([message, *filter(None, advice)])


def _lookalike(info: DatasetInfo, files: RawFiles, datasets: Iterable[DatasetInfo]) -> str:
    """Which other dataset the files look like, of the table or not."""
    hits = {
        other.name: sum(bool(re.search(other.signature, file.source, re.IGNORECASE)) for file in files.files)
        for other in datasets
        if other.signature
    }
    best = max(hits, key=lambda name: hits[name], default=info.name)
    if best == info.name or not hits[best]:
        sources = [file.source for file in files.files]
        for name, pattern in info.mistaken.items():
            known = next((source for source in sources if re.search(pattern, source, re.IGNORECASE)), None)
            if known is not None:
                return f"it looks like {name} ({known!r}), which is another set"
        return ""
    return f"it looks like {best}: bench.py prepare {best} --raw {files.root}"


def check_listed(info: DatasetInfo, found: Found) -> None:
    """Checks that images and label tables are of each other.

    Raises:
        UserError: Images or labels are missing.
    """
    if found.missing:
        wanted = len(found.missing) + len(found.samples)
        raise UserError(
            f"{info.name} must be complete, got {len(found.missing):,} of {wanted:,} images missing: "
            f"{first(found.missing)}; finish the download ({info.url}), or go on without them with {ALLOW}"
        )
    if found.unlabelled:
        raise UserError(
            f"images of {info.name} must all be in its label table, got {len(found.unlabelled):,} that are not: "
            f"{first(found.unlabelled)}; take the original table, or leave them out with {ALLOW}"
        )


def check_counts(info: DatasetInfo, found: Found) -> None:
    """Checks that there is what was published.

    Raises:
        UserError: There is less, or more.
    """
    wrong = deviations(info, found)
    if wrong:
        raise UserError(
            f"counts of {info.name} must be as published, got {', '.join(wrong)}; take the original download "
            f"({info.url}), or go on with {ALLOW}"
        )


def _check_names(info: DatasetInfo, samples: list[RawSample]) -> None:
    """They come from file names, tables and headers, and become file names."""
    seen: dict[str, RawSample] = {}
    for sample in samples:
        if not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f\ud800-\udfff]+", sample.stem):
            raise UserError(
                f"name of an image must be that of a file, got {sample.stem!r} for {sample.file.source!r}; take the "
                f"original download ({info.url})"
            )
        other = seen.setdefault(sample.stem.lower(), sample)
        if other is not sample:
            raise UserError(
                f"names of images must differ, got {other.file.source!r} and {sample.file.source!r}; "
                "remove the one that is not of the original download"
            )


def first(names: Iterable[str], number: int = 5) -> str:
    """The first few names, for messages."""
    listed = list(names)
    return ", ".join(listed[:number]) + (", ..." if len(listed) > number else "")
