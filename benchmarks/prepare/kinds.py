"""What preparing does for datasets of classes and for those of findings: labels, places, counts, and the table.

The label of an image with findings is one text, as `datasets.info.finding_label` writes it: manifests have one column
for either.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.data.classes import ClassOrder, write_class_order
from benchmarks.data.findings import UNCERTAIN, Row, Values, read_findings, write_findings
from benchmarks.data.manifest import Entry, count
from datasets.info import SEPARATOR, UNKNOWN, UNSURE, DatasetInfo, finding_label

_SAID = (1, UNCERTAIN, None)  # of a finding, in the order of a label; what is not said is absent


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


def counts_of(entries: Sequence[Entry], findings: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images per split and class, or with each of the findings, where there are any."""
    if not findings:
        return count(entries)
    counted: dict[str, dict[str, int]] = {}
    for entry in entries:
        of_split = counted.setdefault(entry.split, dict.fromkeys(findings, 0))
        for name in positives(entry.label):
            of_split[name] += 1
    return counted


def rows_of(entries: Sequence[Entry], findings: Sequence[str]) -> list[Row]:
    """What the table says of the images of a manifest."""
    return [Row(entry.path, entry.split, entry.group, values_of(entry.label, findings)) for entry in entries]


def write_kind(tree: Path, info: DatasetInfo, entries: Sequence[Entry]) -> None:
    """Writes what says which classes or findings there are; a table of findings is read back.

    Raises:
        UserError: There is too little of every finding to train on, or to score.
    """
    if not info.findings:
        write_class_order(tree, ClassOrder(info.classes, info.ordered))
        return
    write_findings(tree, info.classes, rows_of(entries, info.classes))
    read_findings(tree)
