"""What a check finds."""

from typing import NamedTuple

LEVELS = ("problem", "warning", "note")


class Finding(NamedTuple):
    """One fault.

    Attributes:
        level: `problem` for what spoils a run; `warning` for what may make its numbers mean something else; `note` for
            what may be as it should, but is worth a look.
        check: What was looked for.
        where: A path, class or split.
        detail: What is the matter there, and what to do.
    """

    level: str
    check: str
    where: str
    detail: str
