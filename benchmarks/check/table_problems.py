"""What is wrong with a table of findings."""

from collections.abc import Callable, Iterator

from benchmarks.check.finding import Finding
from benchmarks.check.survey import Survey
from benchmarks.data.findings import FILE, number_faults
from benchmarks.prepare.kinds import values_of

_SHOWN = 5
_KNOWN = 0.5  # of the images of a split, of which a finding should be known


def _names(found: Survey) -> Iterator[Finding]:
    if found.table is not None and found.info is not None and found.table.names != found.info.classes:
        detail = (
            f"has the findings {', '.join(found.table.names)}, where {found.info.name} has "
            f"{', '.join(found.info.classes)}; prepare the dataset again"
        )
        yield Finding("problem", "finding", FILE, detail)


def _numbers(found: Survey) -> Iterator[Finding]:
    assert found.table is not None
    for fault in number_faults(found.table):
        detail = f"{FILE} must {fault.rule}, got {fault.got}; {fault.remedy}"
        yield Finding("problem", "count", fault.split, detail)


def _unlisted(found: Survey) -> Iterator[Finding]:
    if found.strays:
        shown = ", ".join(found.strays[:_SHOWN])
        detail = f"{len(found.strays)} images of the folder are not in the table and will not be used: {shown}"
        yield Finding("note", "unlisted", FILE, detail)


def _unknown(found: Survey) -> Iterator[Finding]:
    """Findings of which little is known: only images of which somebody said something are learnt from and scored."""
    assert found.table is not None
    for split, known in found.table.numbers(0, 1).items():
        images = len(found.table.split(split))
        few = [f"{name} ({number} of {images})" for name, number in known.items() if number < _KNOWN * images]
        if few:
            detail = (
                f"is not known, or uncertain, of more than half of the images, of {', '.join(few)}: these are not "
                "trained on and not scored; images of which it is known may be others than the rest"
            )
            yield Finding("note", "unknown", split, detail)


def _as_prepared(found: Survey) -> Iterator[Finding]:
    """What the table says now and what the manifest said when the dataset was made."""
    assert found.table is not None
    rows = [row for row in found.table.rows if row.path in found.manifest]
    changed = []
    for row in rows:
        entry = found.manifest[row.path]
        if (entry.split, entry.group, values_of(entry.label, found.table.names)) != row[1:]:
            changed.append(row.path)
    if changed:
        detail = (
            f"says of {len(changed)} images what it did not when it was made: {', '.join(changed[:_SHOWN])}; make the "
            "dataset again"
        )
        yield Finding("problem", "manifest", FILE, detail)


TABLE_CHECKS: tuple[Callable[[Survey], Iterator[Finding]], ...] = (_names, _numbers, _unlisted, _unknown, _as_prepared)
