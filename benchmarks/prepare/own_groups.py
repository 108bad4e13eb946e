"""Which of a user's images belong together: by a column of the table, a tag of DICOM files, or a pattern in names."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.errors import UserError
from benchmarks.images.dicom import HEAD, is_dicom, read_tags
from benchmarks.prepare.find import first
from benchmarks.prepare.own_images import OwnImage

_EXAMPLES = 3
_NAMES = 3  # of an example


class Grouping(NamedTuple):
    """How groups are told.

    Attributes:
        kind: `groups` (a column, or else a DICOM keyword), `pattern` or `image`, where each image is its own group.
        text: Column, keyword or regular expression.
    """

    kind: str
    text: str = ""

    @property
    def key(self) -> str:
        """What a group is, for manifests and records."""
        return {"groups": self.text, "pattern": f"pattern {self.text} in names", "image": "image"}[self.kind]


def find_groups(images: Sequence[OwnImage], grouping: Grouping) -> list[str]:
    """The group of each image.

    Raises:
        UserError: An image has none, or there is no such column or tag.
    """
    if grouping.kind == "image":
        return [f"image-{image.split or ''}/{image.shown}" for image in images]
    if grouping.kind == "pattern":
        groups = [_matched(re.search(grouping.text, image.name)) for image in images]
        advice = "change --group-pattern so that it finds the patient in every name"
    elif grouping.text.lower() in images[0].row:
        groups = [image.row[grouping.text.lower()] for image in images]
        advice = "write one into each row, an own one where the patient is not known"
    else:
        groups = [_tag(image, grouping.text) for image in images]
        columns = f"is no column ({', '.join(images[0].row)}), so DICOM files must" if images[0].row else "must"
        advice = (
            f"{grouping.text} {columns} be a keyword that each file holds, such as PatientID; or give --group-pattern"
        )
    without = [image.name for image, group in zip(images, groups, strict=True) if not group]
    if without:
        raise UserError(
            f"each image must have a group, got none by {grouping.key} for {len(without)} of {len(images)}: "
            f"{first(without)}; {advice}"
        )
    return groups


def shown_groups(images: Sequence[OwnImage], groups: Sequence[str], key: str, num_findings: int = 0) -> list[str]:
    """What a user should look at before the groups are relied on, a line each; `num_findings` is 0 of classes."""
    members: dict[str, list[OwnImage]] = {}
    for image, group in zip(images, groups, strict=True):
        members.setdefault(group, []).append(image)
    sizes = [len(inside) for inside in members.values()]
    mixed = sum(len({image.label for image in inside}) > 1 for inside in members.values())
    several = "several classes" if num_findings == 0 else "images with other findings"
    lines = [
        f"groups by {key}: {len(members):,} of {len(images):,} images, {min(sizes)} to {max(sizes)} each; "
        f"{mixed:,} hold {several}"
    ]
    for group, inside in sorted(members.items(), key=lambda item: -len(item[1]))[:_EXAMPLES]:
        lines.append(f"  {group}: {first((image.shown for image in inside), _NAMES)}")
    if len(members) == len(images):
        lines.append("  each image is its own group: where patients have several images, they may leak between splits")
    elif len(members) < 3 * (num_findings or len({image.label for image in images})):
        lines.append("  that is few: see whether it tells patients apart")
    return lines


def _matched(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    return "-".join(part for part in match.groups() if part) if match.re.groups else match[0]


def _tag(image: OwnImage, keyword: str) -> str:
    with image.file.open("rb") as file:
        head = file.read(HEAD)
        file.seek(0)
        return read_tags(file, image.name, [keyword])[keyword].strip() if is_dicom(head) else ""
