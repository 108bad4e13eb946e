"""What preparing does for datasets of classes and for those of findings: strata, places, counts, and the table.

The label of an image with findings is one text, as `datasets.info.finding_label` writes it: manifests have one column
for either.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.data.classes import ClassOrder, write_class_order
from benchmarks.data.findings import UNCERTAIN, Row, Values, read_findings, write_findings
from benchmarks.data.manifest import Entry, count
from datasets.info import SEPARATOR, UNKNOWN, UNSURE, DatasetInfo, finding_label

_SAID = (1, UNCERTAIN, None)  # of a finding, in the order of a label; what is not said is absent


def strata(info: DatasetInfo, labels: Iterable[str]) -> dict[str, int]:
    """By label the stratum that splits of ours are dealt in: the class or, of findings, the rarest; 0 for none."""
    if not info.findings:
        return {name: number for number, name in enumerate(info.classes)}
    labels = list(labels)
    number_of = Counter(name for label in labels for name in positives(label))
    ranked = sorted(number_of, key=lambda name: (-number_of[name], name))
    places = {name: place for place, name in enumerate(ranked, start=1)}
    return {label: max((places[name] for name in positives(label)), default=0) for label in labels}


def positives(label: str) -> list[str]:
    """The findings that a label has."""
    return [name for name in label.split(SEPARATOR) if name and not name.endswith((UNSURE, UNKNOWN))]


def values_of(label: str, names: Sequence[str]) -> Values:
    """What a label says of each finding."""
    said = set(label.split(SEPARATOR))
    meant: list[tuple[str, int | None]] = [("", 1), (UNSURE, UNCERTAIN), (UNKNOWN, None)]
    return tuple(next((value for mark, value in meant if f"{name}{mark}" in said), 0) for name in names)


def label_of(values: Values, names: Sequence[str]) -> str:
    """The label that says this of each finding."""
    named = {wanted: [name for name, value in zip(names, values, strict=True) if value == wanted] for wanted in _SAID}
    return finding_label(*named.values())


def place_of(info: DatasetInfo, split: str, label: str, name: str) -> str:
    """Where an image lies in the prepared folder."""
    return f"{split}/{name}" if info.findings else f"{split}/{label}/{name}"


def counts_of(info: DatasetInfo, entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Images per split and class, or with each finding."""
    if not info.findings:
        return count(entries)
    counted: dict[str, dict[str, int]] = {}
    for entry in entries:
        of_split = counted.setdefault(entry.split, dict.fromkeys(info.classes, 0))
        for name in positives(entry.label):
            of_split[name] += 1
    return counted


def write_kind(tree: Path, info: DatasetInfo, entries: Sequence[Entry]) -> None:
    """Writes what says which classes or findings there are; a table of findings is read back.

    Raises:
        UserError: There is too little of every finding to train on, or to score.
    """
    if not info.findings:
        write_class_order(tree, ClassOrder(info.classes, info.ordered))
        return
    rows = [Row(entry.path, entry.split, entry.group, values_of(entry.label, info.classes)) for entry in entries]
    write_findings(tree, info.classes, rows)
    read_findings(tree)
