"""The page: everything stored, in one HTML file that opens offline by double click and asks no network for anything."""

import gzip
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import MachineError, UserError
from benchmarks.report.page_data import PageData, collect
from benchmarks.report.page_panels import MakeSections
from benchmarks.storage.files import write_atomic

PAGE = Path(__file__).parent / "page"
SCRIPTS = (
    "core.js",
    "address.js",
    "parts.js",
    "verdict.js",
    "table.js",
    "cards.js",
    "figures.js",
    "learning.js",
    "memory.js",
    "runs.js",
    "curves.js",
)  # in the order they need each other
LAST = "page.js"
FURTHER = {"wrong": "wrong.js", "use": "use.js"}  # of pages with such sections


def write_report(
    results: Path,
    output: Path,
    mix_code: bool = False,
    nameless: bool = False,
    families: Sequence[str] = (),
    cache: Path | None = None,
    further: Sequence[MakeSections] = (),
) -> tuple[Path, list[str]]:
    """Write the page.

    Args:
        results: the results root, to whose files the page links.
        output: the HTML file to write.
        mix_code: whether to average runs that different code has trained.
        nameless: whether to leave out what tells machine and user, for a double-blind review.
        families: of scores to show beside AUC, see `headline.chosen_scores`.
        cache: the folder of caches, whose predictions fill what was not measured.
        further: what makes sections that were asked for.

    Returns:
        The file, and a line for each record that is damaged or cannot be read, each fault of stored probabilities, and
        each cell without a mean; they are shown on the page.

    Raises:
        UserError: `output` is a folder.
        MachineError: it cannot be written.
    """
    if output.is_dir():
        raise UserError(f"output must be a file, got {str(output)!r}: name one like {str(output / 'report.html')!r}")
    data = collect(results, output.absolute().parent, mix_code, nameless, families, cache, further)
    try:
        return write_atomic(output, make_page(data).encode()), data.problems
    except MachineError as error:
        reason = getattr(error.__cause__, "strerror", error)
        raise MachineError(f"output must be a file that can be written, got {str(output)!r} ({reason})") from error


def make_page(data: PageData) -> str:
    """The HTML of a page: template, style, plotly, data, parts and scripts in one text."""
    from plotly.offline import get_plotlyjs

    scripts = (*SCRIPTS, *(script for name, script in FURTHER.items() if name in data.shown), LAST)
    parts = {
        "css": (PAGE / "page.css").read_text(),
        "plotly": b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode(),
        "data": embed(data.shown),
        "parts": "\n".join(
            f'<script type="text/plain" id="part-{name}">{b64encode(part).decode()}</script>'
            for name, part in data.parts.items()
        ),
        "scripts": "\n".join((PAGE / name).read_text() for name in scripts),
    }
    # In one pass, so that nothing in the data is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], (PAGE / "page.html").read_text())


def embed(data: Any) -> str:
    """Data as JSON that cannot end the script element it stands in, whatever names are in it."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
